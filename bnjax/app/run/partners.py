"""The processes of one run, watched, so that none waits for ever for one that is gone.

A collective waits for every process. JAX notices after 100 s that one has died or stopped, and that
the first has died at once; then it aborts, with a stack of C++. Therefore the processes keep
connections of their own (see `meeting`): a closed one is a process that died, a silent one a
process that stopped. Whoever notices tells the others, prints one line and ends with exit code 2,
wherever the main thread waits.

What is sent are lines: an empty one every second, and `run`, `end`, `left`.
"""

import atexit
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from bnjax.app.errors import UserError
from bnjax.app.run import checkpoints

_BEAT = 1  # seconds between two signs of life
_SILENT = 30  # so many missing in turn are a process that stopped
_CODES = {UserError: 2, MemoryError: 2, KeyboardInterrupt: 130, BrokenPipeError: 1}


class Partners:
    """The connections of the first process to all others, or of another one to the first."""

    def __init__(self, process: int, links: dict[int, socket.socket]) -> None:
        """Watch the links of this process, each to the process of its number."""
        self._process, self._links = process, links
        self._run: Path | None = None
        self._ending, self._parted = threading.Lock(), threading.Event()
        self._watches = [
            threading.Thread(target=self._watch, args=[number], daemon=True) for number in links
        ]
        if links:
            for thread in (*self._watches, threading.Thread(target=self._beat, daemon=True)):
                thread.start()

    def announce(self, run: Path) -> None:
        """Tell the others which folder the run is in."""
        self._run = run
        self._tell(f"run {run}")

    def part(self) -> None:
        """End the watch, where all processes do."""
        self._parted.set()
        self._tell("left")
        for link in self._links.values():
            with suppress(OSError):
                link.shutdown(socket.SHUT_WR)
        for watch in self._watches:  # until the others have parted too
            watch.join(_BEAT * 5)

    def desert(self, error: BaseException) -> None:
        """End the others, where this process alone has failed, and will say so."""
        if not self._links:
            return
        code = next((_CODES[kind] for kind in _CODES if isinstance(error, kind)), None)
        if code is None:
            self.wait()
        self._parted.set()
        self._tell(f"end process {self._process} has failed, see what it says; {self._way_out()}")
        # instead of JAX's own end, which waits for the others
        atexit.register(_exit, 1 if code is None else code)

    def wait(self) -> None:
        """Wait, after a collective has failed, until the watch would know whose fault it is."""
        if self._links:
            time.sleep(_SILENT + 5)

    def _beat(self) -> None:
        while not self._parted.wait(_BEAT):
            self._tell("")

    def _watch(self, number: int) -> None:
        link, missing, rest = self._links[number], 0, b""
        link.settimeout(_BEAT)
        while True:
            try:
                got = link.recv(4096)
            except TimeoutError:
                missing += 1  # counted, not timed: this process may have been stopped itself
                if missing >= _SILENT:
                    self._end(f"process {number} has not answered for {_SILENT} s, end it")
                continue
            except OSError:
                got = b""
            if not got:
                return self._end(f"process {number} has died")
            missing = 0
            *lines, rest = (rest + got).split(b"\n")
            for line in lines:
                word, _, text = line.decode(errors="replace").partition(" ")
                if word == "run":
                    self._run = Path(text)
                elif word == "end":
                    self._end(text, told=True)
                elif word == "left":
                    return None

    def _end(self, reason: str, *, told: bool = False) -> None:
        """Tell the others, say the reason on one line, and end, whatever the main thread does."""
        if self._parted.is_set():
            return
        self._ending.acquire()  # for ever: one line is enough
        line = reason if told else f"{reason}; {self._way_out()}"
        self._tell(f"end {line}")
        before = "\x1b[?25h\n" if os.isatty(2) else ""  # progress in a terminal hides the cursor
        os.write(2, f"{before}bnjax: {line}\n".encode(errors="backslashreplace"))
        os._exit(2)

    def _tell(self, line: str) -> None:
        sent = " ".join(line.splitlines()).encode(errors="backslashreplace") + b"\n"
        for link in self._links.values():
            with suppress(OSError):  # the watch will notice
                link.sendall(sent)

    def _way_out(self) -> str:
        if self._run is None:
            return "start all processes again"
        epochs = []
        with suppress(OSError):
            epochs = checkpoints.newest_epochs(self._run, sys.maxsize)
        last = f"the last checkpoint is of epoch {epochs[0]}, " if epochs else ""
        return f"{last}bnjax train --resume {self._run} in all processes goes on"


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
