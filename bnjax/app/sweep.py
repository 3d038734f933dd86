"""`bnjax sweep`: both networks for each learning rate and seed, and what becomes of them."""

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
from bnjax.app import evaluation, folders, plots, summaries, tasks
from bnjax.app.folders import Folder
from bnjax.app.options import Sweep
from bnjax.app.progress import TrainingProgress
from bnjax.network import Network
from bnjax.training import TrainState

NAMES = ("baseline", "bn")
_REPORTS = 10  # over one network's epochs
_FILES = ("config.json", "sweep.json", "sweep.csv", "sweep.png")


def sweep(options: Sweep) -> int:
    """Sweep as the options say; write the folder; print the table.

    Returns:
        The exit code, 0: that some diverge is what the sweep is to find out.

    Raises:
        UserError: Options or data do not fit, or the folder cannot be written.
    """
    began = time.perf_counter()
    options.check()
    data, batch_size = tasks.load(options, seed=options.split_seed)
    classify = bool(data.classes)
    path, used = folders.prepare(options.out, overwrite=options.overwrite)
    folder = Folder(path)
    if used:
        with folders.naming("--out", path, "name another folder"):
            for name in _FILES:
                (path / name).unlink(missing_ok=True)
    folder.write_config(
        dataclasses.asdict(options),
        {
            "batch_size": batch_size,
            "data": datasets.absolute(options.data),
            "digest": datasets.digest(data),
        },
    )
    rates = np.array(options.learning_rates)
    keys = jax.vmap(jax.random.key)(jnp.arange(options.seeds))  # as `bnjax train --seed` has them
    test = jnp.asarray(data.x_test), jnp.asarray(data.targets_test)
    rows: list[dict[str, Any]] = []
    at_once = 1
    total = len(rates) * options.seeds * options.epochs
    with TrainingProgress(NAMES, total, unit="epochs of single networks") as progress:
        for name in NAMES:
            net = tasks.make_network(options, data, norm=name == "bn", decay=options.decay)
            found = training.sweep(
                net,
                partial(tasks.make_optimizer, options.optimizer),
                jnp.asarray(rates),
                keys,
                jnp.asarray(data.x_train),
                jnp.asarray(data.targets_train),
                epochs=options.epochs,
                batch_size=batch_size,
                gradient=options.gradient,
                evaluate=Partial(_judge(net, classify), *test),
                at_once=options.at_once,
                epochs_per_call=max(1, options.epochs // _REPORTS),
                report=_reporter(progress, name),
            )
            at_once = found.at_once
            rows += _rows(name, rates, found, steps=-(-len(data.x_train) // batch_size))
    result = {
        "data": data.name,
        "options": dataclasses.asdict(options),
        "batch_size": batch_size,
        "at_once": at_once,
        "how": "loop: one network after the other" if at_once == 1 else f"vmap: {at_once} at once",
        "device": folders.device_name(),
        "networks": rows,
        "classes": list(data.classes),
        "seconds": time.perf_counter() - began,
        "out": str(path),
    }
    folder.write_json("sweep.json", result)
    folder.write_text("sweep.csv", _table(rows))
    folder.write("sweep.png", partial(plots.sweep, rows=rows, data=data.name, classify=classify))
    if options.json:
        print(folders.to_json(result))
    else:
        summaries.show_sweep(result)
    return 0


def _judge(net: Network, classify: bool) -> Callable[[Array, Array, TrainState], tuple]:
    evaluate = evaluation.make_evaluate(net, classify=classify)

    def judge(x: Array, targets: Array, train_state: TrainState) -> tuple[Array, Array]:
        return evaluate(train_state.params, train_state.state, x, targets)

    return judge


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
        reached = np.flatnonzero(accuracies[i, j] >= summaries.TARGET_ACCURACY)
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
