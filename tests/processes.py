"""Processes that tests start, and wait for: Python and the command `bnjax`, both of this tree."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
HANGING = 900  # seconds: whoever takes as long will never end; nothing is measured by it


def environment(**variables):
    """This process's environment, in which Python finds this tree before what is installed."""
    path = [str(ROOT), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), **variables}


def python(*arguments, cwd=None, **variables):
    """Start Python with these arguments and variables of the environment."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(*arguments, **more):
    """Start the command `bnjax`, as a user does; nothing has switched x64 on."""
    return python("-c", "from bnjax.app.main import main; main()", *arguments, **more)


def cpus(number, flags=""):
    """The variables with which JAX has so many devices, with more flags for the compiler."""
    devices = f"--xla_force_host_platform_device_count={number}"
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{devices} {flags}"}


def ended(process, code=0, **more):
    """Wait for a process that ends with this code, and return its stdout and stderr."""
    ((out, err),) = all_ended(process, code=code, **more)
    return out, err


def all_ended(*processes, code=0, hanging=HANGING):
    """Wait for several processes, of which none is left, and return (stdout, stderr) of each."""
    try:
        printed = [process.communicate(timeout=hanging) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, printed, strict=True):
        assert process.returncode == code, f"{out[-20_000:]}\n{err[-20_000:]}"
    return printed


def until(ready, process):
    """Wait until `ready()`, which a process brings about that must not end before."""
    latest = time.monotonic() + HANGING
    while True:
        running = process.poll() is None and time.monotonic() < latest
        if ready():
            return
        if not running:
            process.kill()
            raise AssertionError("the process ended, or hangs, before what was waited for")
        time.sleep(0.001)


def free_address():
    """A port of this machine where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def check_on_eight_devices(*files, mark="not slow", flags=""):
    """Run files of tests in a process that has eight devices."""
    arguments = ["-m", "pytest", "-q", "-n0", "-m", mark, "--durations=20"]
    arguments += [TESTS / file for file in files]
    out, _ = ended(python(*arguments, cwd=ROOT, **cpus(8, flags)))
    print(out)
