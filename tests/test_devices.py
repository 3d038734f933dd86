"""Batches spread over devices: eight pretended ones, and two processes."""

import pytest
from compiling import quick_flags
from processes import TESTS, all_ended, check_on_eight_devices, cpus, free_address, python


@pytest.mark.parametrize("mark", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_all_checks_pass_on_eight_devices(mark):
    files = "device_checks.py", "data_parallel_checks.py"
    check_on_eight_devices(*files, mark=mark, flags=quick_flags())


@pytest.mark.slow
def test_all_checks_pass_on_explicit_meshes():
    check_on_eight_devices("explicit_mesh_checks.py", flags=quick_flags())


@pytest.mark.slow
def test_two_processes_normalize_one_batch():
    address = free_address()
    both = [python(TESTS / "device_checks.py", address, number, **cpus(1)) for number in "01"]
    for out, _ in all_ended(*both):
        assert "equal to the whole" in out
