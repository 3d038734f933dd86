"""Run folders of the application: their metrics, and kills that end a run before its time."""

import json
from contextlib import contextmanager

import pytest

from bnjax.app.runs import RunFolder


class Killed(BaseException):
    """A kill that the program does not see coming."""


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def lines_written(folder):
    """How many lines a run, which may only just begin, has written."""
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@contextmanager
def killed_before(network, epoch, torn=""):
    """Kill the run in this process before its line of an epoch, of which `torn` is written."""
    write = RunFolder.write_metrics

    def killed(self, line):
        if (line["network"], line["epoch"]) == (network, epoch):
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(torn)
            raise Killed
        write(self, line)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunFolder, "write_metrics", killed)
        yield
