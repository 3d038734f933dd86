"""What a run leaves behind: its networks, folded too, its pictures, its summary."""

import json
import time
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from bnjax import network
from bnjax.app import data as datasets
from bnjax.app import evaluation, plots, sessions, summaries
from bnjax.app.folders import finite
from bnjax.app.progress import say
from bnjax.app.runs import RunFolder
from bnjax.app.sessions import Run, Session


def leave(session: Session, began: float, *, interrupted: bool) -> int:
    """Write what a run leaves behind, and print its summary.

    Args:
        session: The run.
        began: When, by `time.perf_counter`.
        interrupted: Whether Ctrl-C has ended it.

    Returns:
        The exit code.
    """
    options, data, runs, folder = session.options, session.data, session.runs, session.folder
    if folder is None:
        return _code(session, interrupted)
    folder.write_json(datasets.FILE, datasets.to_json(data.preparation))
    measured = {
        name: _leave_network(session, folder, name, run)
        for name, run in runs.items()
        if not (session.stopped and run.divergence)  # its last good checkpoint is worth more
    }
    if session.epoch:
        draw = partial(
            plots.curves,
            metrics={name: run.metrics for name, run in runs.items()},
            data=data.name,
            cost=options.cost,
        )
        folder.write("curves.png", draw)
    if session.epoch and options.hidden:
        draw = partial(
            plots.inputs,
            percentiles={name: np.stack(run.inputs) for name, run in runs.items()},
            steps_per_epoch=-(-len(data.x_train) // session.batch_size),
            activation=options.activation,
        )
        folder.write("inputs.png", draw)
    summary = summaries.gather(session)
    for name, figures in summary["networks"].items():
        figures |= measured.get(name, {})
    summary["finished"] = session.epoch == options.epochs and not session.stopped
    summary["interrupted"] = interrupted and session.epoch < options.epochs
    summary["seconds"] = time.perf_counter() - began
    summary["out"] = str(folder.path)
    folder.write_json("summary.json", summary)
    if options.json:
        print(json.dumps(finite(summary), allow_nan=False))
    else:
        summaries.show(summary)
    if session.stopped:
        say(
            f"stopped after epoch {session.epoch} of {options.epochs}: {folder.path} keeps its "
            "last good checkpoint; use a smaller --learning-rate, or --on-divergence continue"
        )
    elif summary["interrupted"]:
        say(
            f"interrupted after epoch {session.epoch} of {options.epochs}: what has been learnt is "
            f"in {folder.path}; bnjax train --resume {folder.path} goes on"
        )
    return _code(session, interrupted)


def _code(session: Session, interrupted: bool) -> int:
    if session.stopped:
        return 3
    return 130 if interrupted and session.epoch < session.options.epochs else 0


def _leave_network(session: Session, folder: RunFolder, name: str, run: Run) -> dict[str, Any]:
    """Write a network, a normalized one folded too; hand out what was measured."""
    data, (params, kept, *_) = session.data, run.here
    classify = bool(data.classes)
    x, x_test, targets_test = map(jnp.asarray, (data.x_train, data.x_test, data.targets_test))
    state = sessions.statistics(session, run, x)
    folder.write_params(f"params_{name}", params, state)
    measured: dict[str, Any] = {}
    if not classify:
        y, _ = network.bn_apply(run.net, params, state, x_test, train=False)
        measured["test_error"] = data.preparation.errors(y, data.targets_test)
    if not any(run.net.normalized):
        return measured
    folded, differ, difference = evaluation.fold(run.net, params, state, x_test, classify=classify)
    if not differ:
        folder.write_params("folded", folded, ())
    return measured | {
        "statistics": evaluation.gaps(
            run.net,
            params,
            kept,
            x,
            x_test,
            targets_test,
            evaluate=run.evaluate,
            classify=classify,
            batch_size=session.batch_size,
        ),
        "folded": {"test_predictions_changed": differ, "largest_difference": difference},
    }
