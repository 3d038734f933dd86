"""What a run folder holds that explains it; what is missing is named, and the rest still used."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnjax import geometry
from bnjax.app import data as datasets
from bnjax.app import diagnostics, saved
from bnjax.app.diagnostics import Batch
from bnjax.app.errors import UserError
from bnjax.app.saved import SavedNetwork
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
    config: dict[str, Any]
    metrics: dict[str, list[dict[str, Any]]]
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
    if not (path / "config.json").is_file():
        raise UserError(
            f"{path} holds no config.json, so no run has begun in it; name the folder of a run of "
            "bnjax train"
        )
    config = saved.read_config(path)
    if not isinstance(config, dict) or not {"options", "resolved"} <= config.keys():
        raise UserError(f"{path}/config.json is not one of bnjax train; train again")
    found = Evidence(path, config, {})
    _read_metrics(found)
    _read_geometry(found)
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
        lines = saved.read_metrics(found.path)
    except OSError as error:
        found.missing.append(f"{saved.METRICS} cannot be read ({error.strerror}): no curves.")
        return
    names = [name for name in ("baseline", "bn") if any(line["network"] == name for line in lines)]
    found.metrics = {name: [line for line in lines if line["network"] == name] for name in names}
    if not lines:
        found.missing.append(f"{saved.METRICS} holds no whole line: no epoch has ended.")


def _read_geometry(found: Evidence) -> None:
    try:
        found.batch, history = diagnostics.read(found.path)
    except FileNotFoundError:
        if found.options.get("diagnostics"):
            found.missing.append(f"{diagnostics.FILE} is not there any more: no course of angles.")
        else:
            found.missing.append(
                "The run was trained without --diagnostics: there are no looks at its geometry on "
                "the way, only at its end. For all of it: bnjax train --diagnostics 1."
            )
        return
    except (OSError, ValueError) as error:
        found.missing.append(
            f"{diagnostics.FILE} cannot be read ({error}): no course of angles; train again."
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
        found.networks = saved.load_run(found.path).networks
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
            look = diagnostics.make_look(net, params, found.batch, looks=1)
            found.history[name] = np.array([look(params, lines[-1]["epoch"] if lines else 0)])


def _batch(found: Evidence) -> Batch | None:
    """Choose from the run's data what --diagnostics would have chosen."""
    options, resolved = found.options, found.config["resolved"]
    try:
        data = datasets.load(
            resolved["data"],
            **{key: (datasets.BEFORE | options)[key] for key in datasets.OPTIONS},
        )
        if datasets.digest(data) != resolved["digest"]:
            raise UserError(f"{resolved['data']} is not what the run was trained on")
    except (UserError, KeyError) as error:
        found.missing.append(f"Its data cannot be looked at again: {error}.")
        return None
    x, targets = jnp.asarray(data.x_train), jnp.asarray(data.targets_train)
    return diagnostics.choose_batch(
        x, targets, batch_size=resolved["batch_size"], seed=options["seed"]
    )
