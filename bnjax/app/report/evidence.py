"""What a run folder holds that explains it, as recordings with titles, and networks with angles.

What is missing is named, and the rest still used.
"""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnjax import geometry
from bnjax.app import data as datasets
from bnjax.app.errors import UserError
from bnjax.app.io import files
from bnjax.app.measures import looks
from bnjax.app.measures.looks import Batch
from bnjax.app.options import Train
from bnjax.app.run import config as run_config
from bnjax.app.run import metrics as run_metrics
from bnjax.app.run.config import Config
from bnjax.app.run.metrics import Line
from bnjax.app.run.networks import NAMES, TITLES, make_network
from bnjax.app.run.saved import SavedNetwork, load_run
from bnjax.geometry import Angles, Recording, look_dtype
from bnjax.report import Curve, Subject

_FEW = 10
_MOST = 2**32  # bytes of a recording
_BOUNDED = ("sigmoid", "tanh")
# what a run records beside the figures of a recording
_MORE = {"percentiles": (len(geometry.PERCENTILES),), "directions": ()}
_observe = jax.jit(geometry.observe, static_argnums=0)


@dataclass
class Evidence:
    """A run as far as it can be read.

    Attributes:
        path: Its folder.
        config: What config.json holds.
        metrics: Of each network the lines of metrics.jsonl.
        history: Of each network the rows of geometry.npz; one row, of the end, where only that is
            known.
        batch: The samples that were looked at.
        networks: As they were at the end.
        angles: Of each of those the layers' angles, at the end.
        missing: Sentences: what cannot be shown, and why.
    """

    path: Path
    config: Config
    metrics: dict[str, list[Line]]
    history: dict[str, np.ndarray] = field(default_factory=dict)
    batch: Batch | None = None
    networks: dict[str, SavedNetwork] = field(default_factory=dict)
    angles: dict[str, tuple[Angles, ...]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def options(self) -> dict[str, Any]:
        """Return the run's options."""
        return self.config["options"]

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """Return a recording of each network, with its curves."""
        return tuple(
            Subject(
                name,
                TITLES[name],
                _as_recording(self, name, self.history.get(name)),
                unit="epoch",
                curves=_curves(self.metrics.get(name, [])),
                color=color,
            )
            for color, name in enumerate(NAMES)
            if name in self.metrics or name in self.history
        )

    @property
    def about(self) -> str:
        """Say in a sentence what was trained, and what was looked at."""
        options, resolved = self.options, self.config["resolved"]
        hidden = "–".join(map(str, options["hidden"])) or "none"
        text = (
            f"{options['data']}, hidden layers {hidden} ({options['activation']}), "
            f"{options['cost']}, {options['optimizer']} with learning rate "
            f"{resolved['learning_rate']:g}, batches of {resolved['batch_size']}."
        )
        looks = [f"{len(rows)} at {TITLES[name]}" for name, rows in self.history.items()]
        if looks:
            text += (
                f" Looks at its geometry: {', '.join(looks)}, on the same {self.samples} samples "
                "of the training set."
            )
        return text

    @property
    def samples(self) -> int:
        """Return B, how many samples were looked at; 0 if none."""
        return 0 if self.batch is None else len(self.batch[0])


def recordings_in(path: Path) -> list[Subject]:
    """Read the recording that a file is, or those in a folder that is no run of `bnjax train`.

    Raises:
        UserError: A file cannot be read, or holds no recording or no look.
    """
    single = path.is_file() or not path.is_dir() and path.exists()
    if not single and (os.path.exists(path / run_config.FILE) or not path.is_dir()):
        return []
    found = [path] if single else sorted(path.glob("*.jsonl"))
    found = [file for file in found if single or file.name != run_metrics.FILE]
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
        if not len(recording.steps):
            raise UserError(f"{file}: holds no look yet; go on training, and ask again")
        title = file.stem if len(found) > 1 else ""
        subjects.append(Subject(file.stem, title, recording, color=color))
    return subjects


def gather(path: str | Path) -> Evidence:
    """Read a run.

    Raises:
        UserError: There is nothing in it to show.
    """
    path = Path(path)
    config, options = run_config.read(path)
    # complete, for a run of an older version may lack some; the data as they were named
    named = dataclasses.replace(options, data=config["options"].get("data", options.data))
    config["options"] = dataclasses.asdict(named)
    found = Evidence(path, config, {})
    _read_metrics(found)
    _read_geometry(found, options)
    _read_networks(found)
    _look_at_the_end(found)
    if 0 < found.samples < _FEW:
        found.missing.append(
            f"{found.samples} samples were looked at, as the run has such batches: so few are "
            "nearly aligned by chance, two always."
        )
    if not found.metrics and not found.history:
        raise UserError(
            f"{path}: nothing to show: {' '.join(found.missing)} Go on with bnjax train --resume "
            f"{path}"
        )
    return found


def _read_metrics(found: Evidence) -> None:
    try:
        lines = run_metrics.read(found.path)
    except UserError as error:
        found.missing.append(f"There are no curves: {error}.")
        return
    of_each = {name: [line for line in lines if line["network"] == name] for name in NAMES}
    found.metrics = {name: own for name, own in of_each.items() if own}
    if not lines:
        found.missing.append(f"{run_metrics.FILE} holds no whole line: no epoch has ended.")


def _read_geometry(found: Evidence, options: Train) -> None:
    try:
        batch, history = looks.read(found.path)
        for name, rows in history.items():
            if name not in NAMES:
                raise ValueError(f"{name!r} is no network")
            net = make_network(options, batch[0].shape[1], batch[1].shape[1], name, decay=None)
            looks.check_rows(name, rows, net, batch)
        found.batch = batch
    except FileNotFoundError:
        if options.diagnostics:
            found.missing.append(f"{looks.FILE} is missing: the angles are known at the end alone.")
        else:
            found.missing.append(
                "The run was trained without --diagnostics: there are no looks at its geometry on "
                "the way, only at its end. For all of it: bnjax train --diagnostics 1."
            )
        return
    except (OSError, ValueError) as error:
        found.missing.append(
            f"{looks.FILE} cannot be read ({error}): the angles are known at the end alone; train "
            "again."
        )
        return
    for name, rows in history.items():
        finite = np.isfinite(rows["error"]).all(1) & np.isfinite(rows["W_bar"]).all(1)
        if not finite.all():
            found.missing.append(
                f"After epoch {rows['epoch'][~finite][0]} the figures of {name} are not finite: "
                "it diverged, and is left out from there."
            )
        if finite.any():
            found.history[name] = rows[finite]


def _read_networks(found: Evidence) -> None:
    if not any(found.path.glob("params_*.npz")):
        found.missing.append(
            "The run has not ended (there is no params_NETWORK.npz): nothing is known of single "
            f"weights. Go on with bnjax train --resume {found.path}."
        )
        return
    try:
        found.networks = load_run(found.path).networks
    except (UserError, OSError, KeyError) as error:
        found.missing.append(f"The trained networks cannot be read: {error}.")


def _look_at_the_end(found: Evidence) -> None:
    if found.networks and found.batch is None:
        found.batch = _batch(found)
    if found.batch is None:
        return
    for name, (net, params, *_) in found.networks.items():
        if net.sizes[0] != found.batch[0].shape[1] or net.sizes[-1] != found.batch[1].shape[1]:
            found.missing.append(f"The looks at {name} were taken on other data: left out.")
            continue
        angles = _observe(net, params, *found.batch)
        if not all(bool(jnp.isfinite(each.sd_delta).all()) for each in angles):
            found.missing.append(f"The weights of {name} are not finite: it diverged.")
            continue
        found.angles[name] = angles
        if name not in found.history:
            lines = found.metrics.get(name)
            look = looks.make_look(net, params, found.batch, looks=1)
            found.history[name] = np.array([look(params, lines[-1]["epoch"] if lines else 0)])


def _batch(found: Evidence) -> Batch | None:
    """Choose from the run's data what --diagnostics would have chosen."""
    options, resolved = found.options, found.config["resolved"]
    try:
        data = datasets.load(
            resolved["data"],
            **{key: options[key] for key in datasets.OPTIONS},
        )
        if datasets.digest(data) != resolved["digest"]:
            raise UserError(f"{resolved['data']} is not what the run was trained on")
    except (UserError, KeyError) as error:
        found.missing.append(f"Its data cannot be looked at again: {error}.")
        return None
    x, targets = jnp.asarray(data.x_train), jnp.asarray(data.targets_train)
    return looks.choose_batch(x, targets, batch_size=resolved["batch_size"], seed=options["seed"])


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
    more = [(key, np.float64, (hidden + 1, *shape)) for key, shape in _MORE.items()]
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
