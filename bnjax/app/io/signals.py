"""Ctrl-C and SIGTERM, held back until they can do no harm."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def held_back() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM, for the run to end between two epochs; the second ends at once.

    Donated buffers are gone while an epoch runs: stopping inside one would lose the network.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise KeyboardInterrupt

    before = {}
    with suppress(ValueError):  # not the main thread: signals do not come here
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
