"""Every change that a command makes to a folder, and kills between them.

    python kills.py FOLDER N arguments      runs `bnjax arguments`, killed at its N-th change

A write at which a process is killed is torn: half of its bytes are there.
"""

import io
import os
import signal
import sys
from contextlib import contextmanager

import pytest

from bnjax.app.io import files

_CALLS = ("open", "replace", "unlink", "mkdir", "rmdir", "fsync")
KINDS = (*_CALLS, "write", "truncate")


@contextmanager
def watched(folder, at):
    """Call `at(kind, name)` just before each change to `folder`, in the middle of each write."""
    opened = {}  # names of open files by their descriptors

    def note(kind, path):
        at(kind, os.path.relpath(path, folder))

    def noting(kind):
        change = getattr(os, kind)

        def changed(path, *arguments, **more):
            place = opened.get(path) if isinstance(path, int) else os.path.abspath(path)
            inside = place is not None and f"{place}/".startswith(f"{folder}/")
            if inside:
                note(kind, place)
            found = change(path, *arguments, **more)
            if kind == "open":
                opened[found] = place if inside else None
            return found

        return changed

    class Torn(io.FileIO):
        def write(self, data):
            data = bytes(data)
            half = super().write(data[: len(data) // 2])
            note("write", opened[self.fileno()])
            return half + super().write(data[half:])

        def truncate(self, size=None):
            note("truncate", opened[self.fileno()])
            return super().truncate(size)

    def open_torn(descriptor, mode, buffering=-1):
        raw = Torn(descriptor, mode)
        return raw if buffering == 0 else io.BufferedWriter(raw)

    with pytest.MonkeyPatch.context() as patch:
        for kind in _CALLS:
            patch.setattr(os, kind, noting(kind))
        patch.setattr(files, "open", open_torn, raising=False)
        yield


def killed(folder, number, arguments):
    """Run a command that kills itself at one of its changes to a folder."""
    from bnjax.app.main import run

    left = number

    def at(kind, name):
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    with watched(folder, at):
        sys.exit(run(arguments))


if __name__ == "__main__":
    killed(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
