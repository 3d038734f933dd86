"""Batches spread over devices: eight pretended ones, and two processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKS = HERE / "device_checks.py"


def environment(**more):
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path, **more}


def test_all_checks_pass_on_eight_devices():
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--durations=5", str(CHECKS)],
        cwd=HERE.parent,
        env=environment(XLA_FLAGS="--xla_force_host_platform_device_count=8"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    print(run.stdout[-20_000:], run.stderr[-2_000:])
    assert run.returncode == 0


@pytest.mark.slow
def test_two_processes_normalize_one_batch():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, str(CHECKS), address]
    both = [
        subprocess.Popen(
            [*command, number],
            env=environment(XLA_FLAGS="--xla_force_host_platform_device_count=1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in "01"
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    for process, words in zip(both, said, strict=True):
        assert process.returncode == 0 and "equal to the whole" in words, words
