"""What programs for accelerators cost, compiled without one, in units of the batch's bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.accelerators

ROOT = Path(__file__).parents[1]
DTYPES = ("float32", "bfloat16")
SHAPES = {"8192x512": 8192 * 512, "262144x3": 262144 * 3, "32x128x28x28, axis 1": 32 * 128 * 28**2}
TARGETS = ("v5e", "h100")
WORKLOADS = [*SHAPES, "8192x512: forward", "262144x3: forward"]
COLLECTIVES = {
    "8192x512 on 4 devices, jit": {"all-reduce": 2},
    "8192x512 on 4 devices, shard_map": {"all-gather": 1, "all-reduce": 1},
}
CASES = [
    pytest.param(target, workload, dtype, id=f"{target} {workload} {dtype}")
    for target in TARGETS
    for workload in WORKLOADS
    for dtype in DTYPES
]


@pytest.fixture(scope="module")
def counted():
    """All that is compared, compiled in one process: {(target, workload, who, dtype): counts}."""
    only = [*SHAPES, "two convolutions: evaluation"]
    command = [sys.executable, "benchmarks/accelerators.py", "--json", "--jobs", "1"]
    command += ["--targets", *TARGETS, "--who", "bnjax", "bnjax, ghosts", "flax", "--only", *only]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout)["programs"]
    return {(r["target"], r["workload"], r["who"], r["dtype"]): r for r in results}


@pytest.mark.parametrize(("target", "workload", "dtype"), CASES)
def test_the_batch_moves_no_more_often_than_with_flax(counted, target, workload, dtype):
    ours, flax = (counted[target, workload, who, dtype]["passes"] for who in ("bnjax", "flax"))
    assert ours <= flax + 0.1


# a matrix by itself moves more often on a TPU, where XLA writes each group's vectors out for all
# samples: a goal not met
@pytest.mark.parametrize(
    ("target", "workload", "dtype"),
    [
        *(("h100", workload, dtype) for workload in SHAPES for dtype in DTYPES),
        *(("v5e", "32x128x28x28, axis 1", dtype) for dtype in DTYPES),
    ],
)
def test_ghost_batches_move_no_more_often_than_the_whole(counted, target, workload, dtype):
    ghosts, whole = (
        counted[target, workload, who, dtype]["passes"] for who in ("bnjax, ghosts", "bnjax")
    )
    assert ghosts <= whole + 0.1


@pytest.mark.parametrize(("target", "workload", "dtype"), CASES)
def test_temporary_memory_is_a_tenth_of_the_batch(counted, target, workload, dtype):
    shape = workload.partition(":")[0]
    size = SHAPES[shape] * (4 if dtype == "float32" else 2)
    # the scratch of a TPU's rare branch is as large for small batches: a goal not met below 11 MB
    scratch = 1.1e6 if target == "v5e" else 0
    most = max(0.1 * size, scratch)
    assert counted[target, workload, "bnjax", dtype]["temporary"] * size <= most


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_evaluation_moves_the_batch_as_often_as_flax_does(counted, target, dtype):
    for workload in (*SHAPES, "two convolutions"):
        ours, flax = (
            counted[target, f"{workload}: evaluation", who, dtype] for who in ("bnjax", "flax")
        )
        assert ours["passes"] <= flax["passes"] + 0.01
        assert ours["hbm"] <= flax["hbm"] + 0.01


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("workload", COLLECTIVES)
@pytest.mark.parametrize("target", TARGETS)
def test_devices_communicate_once_each_way(counted, target, workload, dtype):
    found = counted[target, workload, "bnjax", dtype]["collectives"]
    assert found == COLLECTIVES[workload]
