"""What a report is about: the networks of a run, or recordings, each with its title and curves."""

import os
from pathlib import Path

import numpy as np

from bnjax.app.errors import UserError
from bnjax.app.io import files
from bnjax.app.report.evidence import Evidence
from bnjax.app.run import config as run_config
from bnjax.app.run import metrics as run_metrics
from bnjax.app.run.metrics import Line
from bnjax.app.run.networks import NAMES, TITLES
from bnjax.geometry import Recording, look_dtype
from bnjax.report import Curve, Subject

_MOST = 2**32  # bytes of a recording
_BOUNDED = ("sigmoid", "tanh")


def recordings_in(path: Path) -> list[Subject]:
    """Read the recording that a file is, or those in a folder that is no run of `bnjax train`.

    Raises:
        UserError: A file cannot be read, or holds no recording or no look.
    """
    folder = os.path.isdir(path)  # False, too, for a name that no system has
    if not os.path.exists(path) or (folder and (path / run_config.FILE).exists()):
        return []
    found = sorted(set(path.glob("*.jsonl")) - {path / run_metrics.FILE}) if folder else [path]
    subjects = []
    for color, file in enumerate(found):
        try:
            files.check_plain(file, most=_MOST)
            recording = Recording.read(file)
        except OSError as error:
            raise UserError(
                f"{file}: {files.reason(error)}; name the folder of a run, or what a "
                "geometry.Recorder wrote"
            ) from None
        except ValueError as error:
            raise UserError(f"{error} Name what a geometry.Recorder wrote.") from None
        if not len(recording.steps) or not recording.names:
            raise UserError(f"{file}: holds no look at a layer; go on training, and ask again")
        title = file.stem if len(found) > 1 else ""
        subjects.append(Subject(file.stem, title, recording, color=color))
    return subjects


def networks_of(found: Evidence) -> tuple[Subject, ...]:
    """Return a recording of each network of a run, with its curves."""
    return tuple(
        Subject(
            name,
            TITLES[name],
            _as_recording(found, name, found.history.get(name)),
            unit="epoch",
            curves=_curves(found.metrics.get(name, [])),
            color=color,
        )
        for color, name in enumerate(NAMES)
        if name in found.metrics or name in found.history
    )


def describe_run(found: Evidence) -> str:
    """Say in a sentence what was trained, and how."""
    options, resolved = found.options, found.config["resolved"]
    hidden = "–".join(map(str, options["hidden"])) or "none"
    return (
        f"{options['data']}, hidden layers {hidden} ({options['activation']}), "
        f"{options['cost']}, {options['optimizer']} with learning rate "
        f"{resolved['learning_rate']:g}, batches of {resolved['batch_size']}."
    )


def _as_recording(found: Evidence, name: str, rows: np.ndarray | None) -> Recording:
    """Return rows of geometry.npz as a recording; without looks where there are no rows."""
    options = found.options
    hidden = len(options["hidden"])
    norm = [name == "bn" and (at < hidden or options["norm_output"]) for at in range(hidden + 1)]
    # what only normalized layers have, and what only hidden ones have
    places = {
        hidden: np.arange(hidden),
        sum(norm): np.flatnonzero(norm),
        hidden + 1: np.arange(hidden + 1),
    }
    more = [("directions", np.float64, (hidden + 1,))]
    dtype = np.dtype(look_dtype(hidden + 1).descr + more)
    looks = np.full(0 if rows is None else len(rows), np.nan, dtype)
    if rows is not None:
        for key in {*(dtype.names or ())} & {*(rows.dtype.names or ())}:
            looks[key][:, places[rows[key].shape[1]]] = rows[key]
    looks["bounded"] = options["activation"] in _BOUNDED
    return Recording(
        names=tuple(f"layer {at}" for at in range(hidden + 1)),
        norm=tuple(norm),
        unfollowed=("",) * (hidden + 1),
        skipped=(),
        samples=(found.samples,) * (hidden + 1),
        steps=np.zeros(0, np.int64) if rows is None else rows["epoch"].astype(np.int64),
        looks=looks,
    )


def _curves(lines: list[Line]) -> dict[str, Curve]:
    """Return the course of cost and accuracy; of the test cost, for regression."""
    if not lines:
        return {}
    test = "test_cost" if lines[0]["test_accuracy"] is None else "test_accuracy"
    steps = np.array([line["step"] for line in lines])
    return {
        title: Curve(steps, np.array([line[key] for line in lines], np.float64))
        for title, key in (("training cost", "cost"), (test.replace("_", " "), test))
    }
