"""Ctrl-C and SIGTERM: at once where nothing can be lost, between two epochs while training.

At once means that the process leaves without unwinding: an exception would be lost inside a
callback of JAX, or end in a traceback while a library is imported. Nothing is lost by it: files are
renamed once they are whole, and locks die with the process.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130  # the exit code

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave_at_once() -> None:
    """Let signals end the process with one line and the exit code 130."""
    for number in _SIGNALS:
        signal.signal(number, _leave)


@contextlib.contextmanager
def held_back() -> Iterator[list[int]]:
    """Collect the first signal, for the run to end between two epochs; the second ends at once.

    Donated buffers are gone while an epoch runs: stopping inside one would lose the network.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            _leave(number, frame)
        asked.append(number)

    before = {}
    with contextlib.suppress(ValueError):  # not the main thread, where no signals come
        for number in _SIGNALS:
            before[number] = signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"bnjax: interrupted\n")
    os._exit(INTERRUPTED)
