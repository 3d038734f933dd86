"""Training spread over devices: eight pretended ones."""

import pytest
from processes import check_on_eight_devices


@pytest.mark.parametrize("mark", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_all_checks_pass_on_eight_devices(mark):
    # compiling is what takes the time, and in float64 nothing depends on its optimizations
    check_on_eight_devices(
        "data_parallel_checks.py", mark, flags="--xla_backend_optimization_level=0"
    )
