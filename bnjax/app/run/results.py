"""What a run leaves behind: its networks, folded too, its summary, its pictures."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import jax.numpy as jnp

from bnjax import network
from bnjax.app import data as datasets
from bnjax.app.errors import UserError
from bnjax.app.io import files, signals
from bnjax.app.io.terminal import say
from bnjax.app.measures import evaluation
from bnjax.app.options import Train
from bnjax.app.report import pictures, tables
from bnjax.app.run import metrics
from bnjax.app.run.folder import RunFolder
from bnjax.app.run.metrics import Line
from bnjax.app.run.session import Run, Session

DIVERGED = 3  # the exit code


def leave(session: Session, began: float, *, interrupted: bool) -> int:
    """Write what a run leaves behind, and print its summary.

    Args:
        session: The run.
        began: When, by `time.perf_counter`.
        interrupted: Whether a signal has ended it.

    Returns:
        The exit code.
    """
    options, folder = session.options, session.folder
    interrupted = interrupted and session.epoch < options.epochs
    code = DIVERGED if session.stopped else signals.INTERRUPTED if interrupted else 0
    if folder is None:
        return code
    folder.write(datasets.FILE, datasets.to_json(session.data.preparation))
    measured = {
        name: _leave_network(session, folder, name, run)
        for name, run in session.runs.items()
        if not (session.stopped and run.divergence)  # its last good checkpoint is worth more
    }
    summary = tables.gather(session)
    for name, figures in summary["networks"].items():
        figures |= measured.get(name, {})
    summary["finished"] = session.epoch == options.epochs and not session.stopped
    summary["interrupted"] = interrupted
    summary["seconds"] = time.perf_counter() - began
    summary["out"] = str(folder.path)
    folder.write("summary.json", summary)
    lines = {name: run.metrics for name, run in session.runs.items() if run.metrics}
    _draw(folder, options, lines, session.data.name)
    if options.json:
        print(files.to_json(summary).decode())
    else:
        tables.show(summary)
    if session.stopped:
        say(
            f"stopped after epoch {session.epoch} of {options.epochs}: {folder.path} keeps its "
            "last good checkpoint; use a smaller --learning-rate, or --on-divergence continue"
        )
    elif interrupted:
        say(
            f"interrupted after epoch {session.epoch} of {options.epochs}: what has been learnt is "
            f"in {folder.path}; bnjax train --resume {folder.path} goes on"
        )
    return code


class _Summary(TypedDict):
    finished: bool
    options: dict[str, Any]


def finished(path: Path, epochs: int) -> bool:
    """Return whether the run in a folder has come to the end of so many epochs.

    Raises:
        UserError: Its summary.json is damaged.
    """
    file = path / "summary.json"
    if not file.exists():
        return False
    summary = files.read_json(file, _Summary, "delete it, and the run can go on")
    trained = summary["options"].get("epochs")
    return summary["finished"] and isinstance(trained, int) and trained >= epochs


def draw_missing(path: Path, options: Train) -> None:
    """Draw the pictures of a finished run that was killed before it had drawn them.

    Raises:
        UserError: The folder is in use or cannot be written, or metrics.jsonl cannot be read.
    """
    if (path / "curves.png").exists() and ((path / "inputs.png").exists() or not options.hidden):
        return
    with closing(RunFolder.reopen(path)) as folder:
        lines: dict[str, list[Line]] = {}
        for line in metrics.read(path):
            lines.setdefault(line["network"], []).append(line)
        _draw(folder, options, lines, Path(options.data).name)


def _draw(
    folder: RunFolder, options: Train, lines: Mapping[str, Sequence[Line]], data: str
) -> None:
    """Draw the pictures; none that cannot be drawn costs the run its results."""
    if not lines:
        return
    try:
        curves = partial(pictures.curves, metrics=lines, data=data, cost=options.cost)
        folder.write("curves.png", curves)
        if options.hidden:
            inputs = partial(pictures.inputs, metrics=lines, activation=options.activation)
            folder.write("inputs.png", inputs)
    except UserError:
        raise
    except Exception as error:  # a library for fonts and pictures may raise anything
        say(f"the pictures cannot be drawn: {files.reason(error)}")


def _leave_network(session: Session, folder: RunFolder, name: str, run: Run) -> dict[str, Any]:
    """Write a network, a normalized one folded too; return what was measured."""
    data, net, (params, kept, *_) = session.data, run.net, run.state
    classify, batch_size = bool(data.classes), session.batch_size
    x, x_test = map(jnp.asarray, (data.x_train, data.x_test))
    kind = session.options.statistics
    state = evaluation.choose(kind, net, params, kept, x, batch_size=batch_size)
    folder.write_params(f"params_{name}", params, state)
    measured: dict[str, Any] = {}
    if not classify:
        y, _ = network.bn_apply(net, params, state, x_test, train=False)
        measured["test_error"] = data.preparation.errors(y, data.targets_test)
    if not any(net.normalized):
        return measured
    folded, differ, difference = evaluation.fold(net, params, state, x_test, classify=classify)
    if not differ:
        folder.write_params("folded", folded, ())
    return measured | {
        "statistics": evaluation.compare_statistics(net, run.state, data, batch_size=batch_size),
        "folded": {"test_predictions_changed": differ, "largest_difference": difference},
    }
