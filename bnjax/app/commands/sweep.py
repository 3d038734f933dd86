"""`bnjax sweep`: both networks for each learning rate, value and seed, and what becomes of them."""

import contextlib
import csv
import dataclasses
import io
import itertools
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.tree_util import Partial

from bnjax import network, training
from bnjax.app.data import Data
from bnjax.app.io import files
from bnjax.app.io.folder import Folder
from bnjax.app.io.terminal import TrainingProgress, say
from bnjax.app.measures import evaluation
from bnjax.app.options import Sweep
from bnjax.app.report import sweep_picture, sweep_table
from bnjax.app.run import config
from bnjax.app.run.metrics import TARGET_ACCURACY
from bnjax.app.run.networks import (
    NAMES,
    choose_batch_size,
    load,
    make_network,
    make_optimizer,
)
from bnjax.network import Network, Params, State
from bnjax.training import TrainState
from bnjax.training.sweeps import Initialization, ReportEpochs

_REPORTS = 10  # over one network's epochs


class SweepFolder(Folder):
    """A folder that holds one sweep."""

    kind = "sweep"
    names = ("config.json", "sweep.json", "sweep.csv", "sweep.png")


def sweep(options: Sweep) -> int:
    """Sweep as the options say; write the folder; print the table.

    Returns:
        The exit code, 0: that some diverge is what the sweep is to find out.

    Raises:
        UserError: Options or data do not fit, or the folder cannot be written.
    """
    began = time.perf_counter()
    options.check()
    options.check_normalizes()
    parts = _load(options)
    data, batch_size = parts[0].data, parts[0].batch_size
    resolved = config.resolve(options.data, data, batch_size)
    with contextlib.closing(SweepFolder.create(options.out, overwrite=options.overwrite)) as folder:
        folder.write(config.FILE, config.make(options, resolved))
        rows, at_once = _train(options, parts)
        varied, classify = options.varied and options.varied.option, bool(data.classes)
        result = {
            "data": data.name,
            "options": dataclasses.asdict(options),
            "varied": varied,
            "batch_size": batch_size,
            "at_once": at_once,
            "how": "loop: one network after the other"
            if at_once == 1
            else f"vmap: {at_once} at once",
            "device": config.device_name(),
            "networks": rows,
            "best": sweep_table.best(rows, varied),
            "classes": list(data.classes),
            "seconds": time.perf_counter() - began,
            "out": str(folder.path),
        }
        folder.write("sweep.json", result)
        folder.write("sweep.csv", _table(rows).encode())
        draw = partial(
            sweep_picture.draw, rows=rows, varied=varied, data=data.name, classify=classify
        )
        folder.write("sweep.png", draw)
    if options.json:
        print(files.to_json(result).decode())
    else:
        sweep_table.show(result)
    return 0


class _Part(NamedTuple):
    """Networks that one compiled program trains: their options, initial scales and data."""

    options: Sweep
    scales: tuple[float, ...]
    data: Data
    batch_size: int

    @property
    def rows(self) -> list[tuple[float, float]]:
        """Return each initial scale with each learning rate."""
        return list(itertools.product(self.scales, self.options.learning_rates))

    @property
    def epochs(self) -> int:
        """Return the number of epochs of all networks of one kind."""
        return len(self.rows) * self.options.seeds * self.options.epochs


def _load(options: Sweep) -> list[_Part]:
    """Load the data for each value of what is varied; all initial scales share a program."""
    option = options.varied and options.varied.option
    if options.varied is not None and option == "init_scale":
        each, scales = (options,), options.varied.values
    else:
        each, scales = options.each(), (options.init_scale,)
    parts: list[_Part] = []
    for one in each:
        if parts and option not in ("test_fraction", "split_seed"):
            data = parts[0].data
            parts.append(_Part(one, scales, data, choose_batch_size(one, len(data.x_train))))
        else:
            say(f"reading {one.data}")
            parts.append(_Part(one, scales, *load(one, seed=one.split_seed)))
    return parts


def _train(options: Sweep, parts: list[_Part]) -> tuple[list[dict[str, Any]], int]:
    """Train every network; return what became of each, and how many were trained at once."""
    keys = jax.vmap(jax.random.key)(jnp.arange(options.seeds))  # as `bnjax train --seed` has them
    total = sum(part.epochs for part in parts)
    rows: list[dict[str, Any]] = []
    at_once = 1
    with TrainingProgress(NAMES, total, unit="epochs of single networks") as progress:
        for name in NAMES:
            began, before = time.perf_counter(), 0
            for part in parts:
                report = partial(_report, progress, name, began, before, total)
                found = _train_part(options, part, name, keys, report)
                at_once = max(at_once, found.at_once)
                before += part.epochs
                rows += _rows(name, options, part, found)
    return rows, at_once


def _train_part(
    options: Sweep, part: _Part, name: str, keys: Array, report: ReportEpochs
) -> training.Sweep:
    one, data = part.options, part.data
    net = make_network(one, data.n_in, data.n_out, name, decay=one.decay)
    net = dataclasses.replace(net, init_scale=1.0)  # the scale comes with the row
    scales, rates = map(jnp.asarray, np.array(part.rows).T)
    x, targets, *test = map(
        jnp.asarray, (data.x_train, data.targets_train, data.x_test, data.targets_test)
    )
    return training.sweep(
        net,
        _optimizer(one.optimizer),
        {"init_scale": scales, "learning_rate": rates},
        keys,
        x,
        targets,
        epochs=one.epochs,
        batch_size=part.batch_size,
        gradient=one.gradient,
        initialize=_initialization(net),
        evaluate=Partial(_judgement(net, bool(data.classes)), *test),
        at_once=one.at_once,
        epochs_per_call=max(1, options.epochs // _REPORTS),  # one number for all parts
        report=report,
    )


# The same functions for the same arguments: what was compiled for one part serves the next.


@lru_cache
def _optimizer(name: str) -> Callable[[dict[str, Array]], optax.GradientTransformation]:
    return lambda row: make_optimizer(name, row["learning_rate"])


@lru_cache
def _initialization(net: Network) -> Initialization:
    def initialize(row: dict[str, Array], key: Array) -> tuple[Params, State]:
        params, state = network.init(net, key)
        return tuple(layer._replace(W=row["init_scale"] * layer.W) for layer in params), state

    return initialize


@lru_cache
def _judgement(net: Network, classify: bool) -> Callable[..., tuple[Array, Array]]:
    def judge(x: Array, targets: Array, train_state: TrainState) -> tuple[Array, Array]:
        params, state, *_ = train_state
        return evaluation.evaluate(net, params, state, x, targets, classify=classify)

    return judge


def _report(
    progress: TrainingProgress,
    name: str,
    began: float,
    before: int,
    total: int,
    done: int,
    _: int,
) -> None:
    """Show how many epochs of a kind of network are done, those of the parts before too."""
    seconds, done = time.perf_counter() - began, before + done
    progress.advance(
        name, done, f"{done / seconds:,.0f} per second", seconds / done * (total - done)
    )


def _rows(name: str, options: Sweep, part: _Part, found: training.Sweep) -> list[dict[str, Any]]:
    """Describe each network: what it reached, when, and whether it was lost."""
    test_costs, accuracies = found.evaluations
    steps = -(-len(part.data.x_train) // part.batch_size)
    rows = []
    for (i, seed), lost in np.ndenumerate(found.diverged):
        scale, rate = part.rows[i]
        own: dict[str, Any] = {}
        if options.varied is not None:
            option = options.varied.option
            own[option] = scale if option == "init_scale" else getattr(part.options, option)
        reached = np.flatnonzero(accuracies[i, seed] >= TARGET_ACCURACY)
        classify = not np.isnan(accuracies[i, seed]).all()
        rows.append(
            {
                "network": name,
                "learning_rate": rate,
                **own,
                "seed": seed,
                "final_test_accuracy": float(accuracies[i, seed, -1]) if classify else None,
                "final_test_cost": float(test_costs[i, seed, -1]),
                "steps_to_95": int(steps * (reached[0] + 1)) if reached.size else None,
                "diverged_in_epoch": int(lost) or None,
            }
        )
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
