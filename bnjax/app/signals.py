"""Ctrl-C, held back until it can do no harm."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ctrl_c() -> Iterator[list[int]]:
    """Collect the first Ctrl-C, to end between two epochs; a second one ends at once.

    Donated buffers are gone while an epoch runs: stopping inside one would lose the network.
    """
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
