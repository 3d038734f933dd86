"""`bnjax sweep`: both networks for each learning rate and seed, and what becomes of them."""

import contextlib
import csv
import dataclasses
import io
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from bnjax import training
from bnjax.app import data as datasets
from bnjax.app.data import Data
from bnjax.app.io import files
from bnjax.app.io.folder import Folder
from bnjax.app.io.terminal import TrainingProgress, say
from bnjax.app.measures import evaluation
from bnjax.app.options import Sweep
from bnjax.app.report import pictures, tables
from bnjax.app.run import config
from bnjax.app.run.metrics import TARGET_ACCURACY
from bnjax.app.run.networks import NAMES, load, make_network, make_optimizer
from bnjax.network import Network
from bnjax.training import TrainState

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
    say(f"reading {options.data}")
    data, batch_size = load(options, seed=options.split_seed)
    resolved = config.Resolved(
        data=datasets.absolute(options.data),
        digest=datasets.digest(data),
        batch_size=batch_size,
        learning_rate=None,
        devices=1,
    )
    with contextlib.closing(SweepFolder.create(options.out, overwrite=options.overwrite)) as folder:
        folder.write(config.FILE, config.make(options, resolved))
        rows, at_once = _train(options, data, batch_size)
        result = {
            "data": data.name,
            "options": dataclasses.asdict(options),
            "batch_size": batch_size,
            "at_once": at_once,
            "how": "loop: one network after the other"
            if at_once == 1
            else f"vmap: {at_once} at once",
            "device": config.device_name(),
            "networks": rows,
            "classes": list(data.classes),
            "seconds": time.perf_counter() - began,
            "out": str(folder.path),
        }
        folder.write("sweep.json", result)
        folder.write("sweep.csv", _table(rows).encode())
        draw = partial(pictures.sweep, rows=rows, data=data.name, classify=bool(data.classes))
        folder.write("sweep.png", draw)
    if options.json:
        print(files.to_json(result).decode())
    else:
        tables.show_sweep(result)
    return 0


def _train(options: Sweep, data: Data, batch_size: int) -> tuple[list[dict[str, Any]], int]:
    """Train every network; return what became of each, and how many were trained at once."""
    rates = np.array(options.learning_rates)
    keys = jax.vmap(jax.random.key)(jnp.arange(options.seeds))  # as `bnjax train --seed` has them
    x, targets, *test = map(
        jnp.asarray, (data.x_train, data.targets_train, data.x_test, data.targets_test)
    )
    rows: list[dict[str, Any]] = []
    at_once = 1
    total = len(rates) * options.seeds * options.epochs
    with TrainingProgress(NAMES, total, unit="epochs of single networks") as progress:
        for name in NAMES:
            net = make_network(options, data.n_in, data.n_out, name, decay=options.decay)
            found = training.sweep(
                net,
                partial(make_optimizer, options.optimizer),
                jnp.asarray(rates),
                keys,
                x,
                targets,
                epochs=options.epochs,
                batch_size=batch_size,
                gradient=options.gradient,
                evaluate=Partial(partial(_judge, net, bool(data.classes)), *test),
                at_once=options.at_once,
                epochs_per_call=max(1, options.epochs // _REPORTS),
                report=_reporter(progress, name),
            )
            at_once = found.at_once
            rows += _rows(name, rates, found, steps=-(-len(data.x_train) // batch_size))
    return rows, at_once


def _judge(
    net: Network, classify: bool, x: Array, targets: Array, train_state: TrainState
) -> tuple[Array, Array]:
    params, state, *_ = train_state
    return evaluation.evaluate(net, params, state, x, targets, classify=classify)


def _reporter(progress: TrainingProgress, name: str) -> Callable[[int, int], None]:
    began = time.perf_counter()

    def report(done: int, total: int) -> None:
        seconds = time.perf_counter() - began
        progress.advance(
            name, done, f"{done / seconds:,.0f} per second", seconds / done * (total - done)
        )

    return report


def _rows(name: str, rates: np.ndarray, found: training.Sweep, *, steps: int) -> list[dict]:
    """Describe each network: what it reached, when, and whether it was lost."""
    test_costs, accuracies = found.evaluations
    rows = []
    for (i, j), lost in np.ndenumerate(found.diverged):
        reached = np.flatnonzero(accuracies[i, j] >= TARGET_ACCURACY)
        classify = not np.isnan(accuracies[i, j]).all()
        rows.append(
            {
                "network": name,
                "learning_rate": float(rates[i]),
                "seed": j,
                "final_test_accuracy": float(accuracies[i, j, -1]) if classify else None,
                "final_test_cost": float(test_costs[i, j, -1]),
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
