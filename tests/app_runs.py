"""Run folders of the application: their metrics, and kills that end a run before its time."""

import json
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest

from bnjax.app.measures import evaluation, looks
from bnjax.app.report import pictures
from bnjax.app.run import config, networks
from bnjax.app.run.checkpoints import About, Checkpoint
from bnjax.app.run.folder import RunFolder
from bnjax.app.run.metrics import Line
from bnjax.network import Dense
from bnjax.training import TrainState


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


def after(epoch, width=4):
    """A checkpoint of a network that learnt nothing but its epoch."""
    params = (Dense(np.arange(3.0 * width).reshape(3, width), np.zeros(width)),)
    state = TrainState(params, (), (), np.array(epoch, np.int32))
    return Checkpoint(epoch, {"bn": state}, About(seconds={"bn": 0.5}, checks={}, diverged={}))


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


@contextmanager
def compiled_once(*, draw=True):
    """Within it, runs on the same data find what the first has compiled for the same network.

    Without `draw` their pictures are not drawn, but written.
    """
    after_epoch, make_look = evaluation.after_epoch, looks.make_look
    evaluations, seen = {}, {}

    def evaluated(net, data, **more):
        if net not in evaluations:
            evaluations[net] = after_epoch(net, data, **more)
        return evaluations[net]

    def look(net, params, batch, *, looks):
        if net not in seen:
            seen[net] = make_look(net, params, batch, looks=looks)
        return seen[net]

    def written(file, **more):
        for _ in range(3):
            file.write(bytes(10_000))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "after_epoch", evaluated)
        patch.setattr(looks, "make_look", look)
        patch.setattr(networks, "make_optimizer", cache(networks.make_optimizer))
        if not draw:
            patch.setattr(pictures, "curves", written)
            patch.setattr(pictures, "inputs", written)
        yield
