"""Training spread over devices: eight pretended ones."""

import subprocess
import sys

import pytest
from test_devices import HERE, environment

# compiling is what takes the time, and in float64 nothing depends on its optimizations
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"


@pytest.mark.parametrize("mark", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_all_checks_pass_on_eight_devices(mark):
    checks = str(HERE / "data_parallel_checks.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-m", mark, "--durations=20", checks],
        cwd=HERE.parent,
        env=environment(XLA_FLAGS=FLAGS),
        capture_output=True,
        text=True,
        timeout=600,
    )
    print(run.stdout[-20_000:], run.stderr[-2_000:])
    assert run.returncode == 0
