"""A run on its way: its networks and what has been seen of them, saved and taken up again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from bnjax.app import checkpoints, devices, evaluation, gradients, saved
from bnjax.app.checkpoints import Checkpoint
from bnjax.app.data import Data
from bnjax.app.divergence import Divergence
from bnjax.app.options import Train
from bnjax.app.progress import say
from bnjax.app.runs import RunFolder
from bnjax.network import Network, State
from bnjax.population import PopulationState
from bnjax.training import TrainState

# of the statistics in checkpoints that do not say what they hold
_FIRST_FIELDS = ("mean", "var", "batches", "skipped", "remainder")


@dataclass
class Run:
    """One network in training, and what has been seen of it."""

    net: Network
    train_state: TrainState  # on all devices of the run
    epoch: jax.stages.Wrapped
    evaluate: evaluation.Evaluate
    percentiles: Callable[[TrainState], Array] | None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    inputs: list[np.ndarray] = field(default_factory=list)  # (3, n) per epoch, the first before
    seconds: float = 0.0
    divergence: Divergence | None = None

    @property
    def here(self) -> TrainState:
        """Return the train state on one device of this process."""
        return devices.here(self.train_state)


@dataclass
class Session:
    """A whole run: its networks, and what they share."""

    options: Train
    data: Data
    batch_size: int
    folder: RunFolder | None  # None where another process writes
    optimizer: optax.GradientTransformation
    runs: dict[str, Run]
    key: Array  # deals the data's order
    mesh: Mesh | None  # None for one device
    epoch: int = 0  # the last one that all networks have finished
    checks: dict[str, gradients.Differences] = field(default_factory=dict)

    @property
    def diverged(self) -> dict[str, Divergence]:
        """Return the networks that were lost."""
        return {name: run.divergence for name, run in self.runs.items() if run.divergence}

    @property
    def stopped(self) -> bool:
        """Return whether the run ends because a network was lost."""
        return bool(self.diverged) and self.options.on_divergence == "stop"


def statistics(session: Session, run: Run, x: Array) -> State:
    """Return the statistics that a network is evaluated with; x is the training set's."""
    kind, (params, kept, *_) = session.options.statistics, run.here
    return evaluation.choose(kind, run.net, params, kept, x, batch_size=session.batch_size)


def save(session: Session) -> None:
    """Write a checkpoint of where the session stands."""
    if session.folder is None:
        return
    runs = session.runs.items()
    arrays = {
        "key": np.asarray(jax.random.key_data(session.key)),
        "networks": {name: _to_disk(run) for name, run in runs},
        "inputs": {name: np.stack(run.inputs) for name, run in runs if run.inputs},
    }
    about = {
        "seconds": {name: run.seconds for name, run in runs},
        "checks": session.checks,
        "diverged": session.diverged,
        "statistics": PopulationState._fields,
    }
    checkpoint = Checkpoint(session.epoch, arrays, about)
    session.folder.write_checkpoint(checkpoint, keep=session.options.keep)


def take_up(session: Session, path: Path) -> None:
    """Bring the session to the newest checkpoint in `path`; without one it begins anew."""
    runs, folder = session.runs, session.folder
    widths = {name: run.net.sizes[-2] for name, run in runs.items() if run.percentiles}
    dtype = jnp.result_type(float)

    def template(epoch: int) -> dict[str, Any]:
        fields = checkpoints.about(path, epoch).get("statistics", _FIRST_FIELDS)
        return {
            "key": np.asarray(jax.random.key_data(session.key)),
            "networks": {name: _to_disk(run, fields) for name, run in runs.items()},
            "inputs": {name: np.zeros((epoch + 1, 3, n), dtype) for name, n in widths.items()},
        }

    checkpoint, lines = None, []
    if folder is not None:
        most = saved.covered(saved.read_metrics(path), tuple(runs))
        checkpoint = checkpoints.newest(path, template, most=most, say=say)
    epoch = devices.from_first(0 if checkpoint is None else checkpoint.epoch)
    if folder is not None:
        lines = folder.keep_metrics(epoch)
        if checkpoint is None:
            say(f"no checkpoint to go on from in {path}: starting over from its config.json")
        else:
            say(f"going on from the checkpoint of epoch {epoch} in {path}")
    if not epoch:
        return
    checkpoint = checkpoint or checkpoints.read(path, epoch, template(epoch))
    arrays, about = checkpoint.arrays, checkpoint.about
    session.epoch = epoch
    session.key = jax.random.wrap_key_data(jnp.asarray(arrays["key"]))
    session.checks = about["checks"]
    for name, run in runs.items():
        run.train_state = devices.place(session.mesh, _from_disk(arrays["networks"][name]))
        run.inputs = list(arrays["inputs"].get(name, ()))
        run.metrics = [line for line in lines if line["network"] == name]
        run.seconds = about["seconds"][name]
        if name in about["diverged"]:
            run.divergence = Divergence(*about["diverged"][name])


def _to_disk(run: Run, fields: Sequence[str] = PopulationState._fields) -> Any:
    """Return a train state as checkpoints hold it: a normalization's statistics side by side."""
    train_state = jax.tree.map(np.asarray, run.here)
    each = sum(run.net.normalized)
    state = [{field: getattr(one, field) for field in fields} for one in train_state.state]
    kinds = (state[first : first + each] for first in (0, each))
    return train_state._replace(state=tuple(zip(*kinds, strict=True)))


def _from_disk(train_state: Any) -> TrainState:
    """Return the train state of a checkpoint: all statistics of a kind, then those of the next."""
    kinds = zip(*train_state.state, strict=True)
    state = tuple(saved.statistics(one) for kind in kinds for one in kind)
    return train_state._replace(state=state)
