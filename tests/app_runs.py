"""Run folders of the application: their metrics, and kills that end a run before its time."""

import json
from contextlib import contextmanager

import pytest

from bnjax.app.run import config
from bnjax.app.run.folder import RunFolder
from bnjax.app.run.metrics import Line


class Killed(BaseException):
    """A kill that the program does not see coming."""


def begun(path, options, *, digest="", batch_size=16):
    """A run folder as a run of these options begins it."""
    folder = RunFolder.create(str(path), overwrite=False)
    resolved = config.Resolved(
        data=options.data, digest=digest, batch_size=batch_size, learning_rate=0.5, devices=1
    )
    folder.write(config.FILE, config.make(options, resolved))
    return folder


def line(network, epoch, **more):
    """A line of metrics.jsonl."""
    rest = {"train_accuracy": None, "test_accuracy": None, "seconds": 0.1 * epoch} | more
    return Line(network=network, epoch=epoch, step=3 * epoch, cost=1.0, test_cost=1.0) | rest


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


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
