"""What programs for accelerators cost, compiled without one, in units of the batch's bytes.

The limits are what was counted, the same with JAX 0.10.2 and 0.12.0.1. The goals are flax's passes
plus 0.1 and a tenth of the batch as temporary memory: a change may lower a limit, never raise one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.accelerators

ROOT = Path(__file__).parents[1]
DTYPES = ("float32", "bfloat16")
# bnjax's passes in float32 and bfloat16
PASSES = {
    "v5e": {
        "8192x512": (9.05, 9.05),
        "8192x512: forward": (4.05, 4.05),
        "262144x3": (17.1, 27.1),
        "262144x3: forward": (8.1, 13.1),
        "32x128x28x28, axis 1": (9.05, 9.05),
    },
    "h100": {
        "8192x512": (9.1, 9.2),
        "8192x512: forward": (4.1, 4.15),
        "262144x3": (15.1, 24.1),
        "262144x3: forward": (8.1, 13.1),
        "32x128x28x28, axis 1": (9.05, 9.05),
    },
}
TEMPORARY = {("v5e", "262144x3"): (43, 86), ("h100", "262144x3"): (1.1, 4.1)}
COLLECTIVES = {
    ("v5e", "8192x512 on 4 devices, jit"): {"all-reduce": 5},
    ("h100", "8192x512 on 4 devices, jit"): {"all-reduce": 4},
    ("v5e", "8192x512 on 4 devices, shard_map"): {"all-gather": 1, "all-reduce": 1},
    ("h100", "8192x512 on 4 devices, shard_map"): {"all-gather": 1, "all-reduce": 1},
}
CASES = [
    pytest.param(target, workload, dtype, limit, id=f"{target} {workload} {dtype}")
    for target, limits in PASSES.items()
    for workload, pair in limits.items()
    for dtype, limit in zip(DTYPES, pair, strict=True)
]


@pytest.fixture(scope="module")
def counted():
    """All that is compared, compiled in one process: {(target, workload, who, dtype): counts}."""
    only = ["8192x512", "262144x3", "32x128x28x28"]
    command = [sys.executable, "benchmarks/accelerators.py", "--json", "--jobs", "1"]
    command += ["--targets", *PASSES, "--who", "bnjax", "flax", "--only", *only]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout)["programs"]
    return {(r["target"], r["workload"], r["who"], r["dtype"]): r for r in results}


@pytest.mark.parametrize(("target", "workload", "dtype", "limit"), CASES)
def test_the_batch_moves_no_more_often_than_it_did(counted, target, workload, dtype, limit):
    assert counted[target, workload, "bnjax", dtype]["passes"] <= limit


@pytest.mark.parametrize(("target", "workload", "dtype", "limit"), CASES)
def test_temporary_memory_is_a_tenth_of_the_batch(counted, target, workload, dtype, limit):
    limits = TEMPORARY.get((target, workload.partition(":")[0]), (0.1, 0.1))
    most = dict(zip(DTYPES, limits, strict=True))[dtype]
    assert counted[target, workload, "bnjax", dtype]["temporary"] <= most


@pytest.mark.parametrize("target", PASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_evaluation_moves_the_batch_as_often_as_flax_does(counted, target, dtype):
    for workload in ("8192x512", "262144x3", "32x128x28x28, axis 1"):
        ours, flax = (
            counted[target, f"{workload}: evaluation", who, dtype] for who in ("bnjax", "flax")
        )
        assert ours["passes"] <= flax["passes"] + 0.01
        assert ours["hbm"] <= flax["hbm"] + 0.01


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("target", "workload"), COLLECTIVES, ids=" ".join)
def test_devices_communicate_as_often_as_counted(counted, target, workload, dtype):
    found = counted[target, workload, "bnjax", dtype]["collectives"]
    assert found == COLLECTIVES[target, workload]
