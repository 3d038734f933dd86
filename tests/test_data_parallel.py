"""Training spread over devices: eight pretended ones."""

import pytest
from compiling import quick_flags
from processes import check_on_eight_devices


@pytest.mark.parametrize("mark", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_all_checks_pass_on_eight_devices(mark):
    check_on_eight_devices("data_parallel_checks.py", mark, quick_flags())
