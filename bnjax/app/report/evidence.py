"""What a run folder holds that explains it; what is missing is named, and the rest still used."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnjax import geometry
from bnjax.app import data as datasets
from bnjax.app.errors import UserError
from bnjax.app.measures import looks
from bnjax.app.measures.looks import Batch
from bnjax.app.options import Train
from bnjax.app.run import config as run_config
from bnjax.app.run import metrics as run_metrics
from bnjax.app.run.config import Config
from bnjax.app.run.metrics import Line
from bnjax.app.run.networks import NAMES, make_network
from bnjax.app.run.saved import SavedNetwork, load_run
from bnjax.geometry import Angles

_FEW = 10
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
    def samples(self) -> int:
        """Return B, how many samples were looked at; 0 if none."""
        return 0 if self.batch is None else len(self.batch[0])


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
