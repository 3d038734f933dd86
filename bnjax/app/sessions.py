"""A run on its way: its networks and what has been seen of them, saved and taken up again."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from bnjax.app import checkpoints, evaluation, gradients, saved
from bnjax.app.checkpoints import Checkpoint
from bnjax.app.data import Data
from bnjax.app.divergence import Divergence
from bnjax.app.options import Train
from bnjax.app.progress import say
from bnjax.app.runs import RunFolder
from bnjax.network import Network, State
from bnjax.training import TrainState


@dataclass
class Run:
    """One network in training, and what has been seen of it."""

    net: Network
    train_state: TrainState
    epoch: jax.stages.Wrapped
    evaluate: evaluation.Evaluate
    percentiles: Callable[[TrainState], Array] | None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    inputs: list[np.ndarray] = field(default_factory=list)  # (3, n) per epoch, the first before
    seconds: float = 0.0
    divergence: Divergence | None = None


@dataclass
class Session:
    """A whole run: its networks, and what they share."""

    options: Train
    data: Data
    batch_size: int
    folder: RunFolder
    optimizer: optax.GradientTransformation
    runs: dict[str, Run]
    key: Array  # deals the data's order
    epoch: int = 0  # the last one that all networks have finished
    checks: dict[str, gradients.Differences] = field(default_factory=dict)

    @property
    def diverged(self) -> dict[str, Divergence]:
        """Return the networks that were lost."""
        return {name: run.divergence for name, run in self.runs.items() if run.divergence}


def statistics(session: Session, run: Run, x: Array) -> State:
    """Give the statistics that a network is evaluated with; x is the training set's."""
    kind, (params, kept, *_) = session.options.statistics, run.train_state
    return evaluation.choose(kind, run.net, params, kept, x, batch_size=session.batch_size)


def save(session: Session) -> None:
    """Write a checkpoint of where the session stands."""
    arrays = {
        "key": np.asarray(jax.random.key_data(session.key)),
        "networks": {
            name: jax.tree.map(np.asarray, run.train_state) for name, run in session.runs.items()
        },
        "inputs": {name: np.stack(run.inputs) for name, run in session.runs.items() if run.inputs},
    }
    about = {
        "seconds": {name: run.seconds for name, run in session.runs.items()},
        "checks": session.checks,
        "diverged": session.diverged,
    }
    checkpoint = Checkpoint(session.epoch, arrays, about)
    session.folder.write_checkpoint(checkpoint, keep=session.options.keep)


def take_up(session: Session) -> None:
    """Bring the session to its newest checkpoint; without one it begins anew."""
    runs, path = session.runs, session.folder.path
    widths = {name: run.net.sizes[-2] for name, run in runs.items() if run.percentiles}
    dtype = jnp.result_type(float)

    def template(epoch: int) -> dict[str, Any]:
        return {
            "key": np.asarray(jax.random.key_data(session.key)),
            "networks": {
                name: jax.tree.map(np.asarray, run.train_state) for name, run in runs.items()
            },
            "inputs": {name: np.zeros((epoch + 1, 3, n), dtype) for name, n in widths.items()},
        }

    most = saved.covered(saved.read_metrics(path), tuple(runs))
    checkpoint = checkpoints.newest(path, template, most=most, say=say)
    session.epoch = 0 if checkpoint is None else checkpoint.epoch
    lines = session.folder.keep_metrics(session.epoch)
    if checkpoint is None:
        say(f"no checkpoint to go on from in {path}: starting over from its config.json")
        return
    say(f"going on from the checkpoint of epoch {checkpoint.epoch} in {path}")
    arrays, about = checkpoint.arrays, checkpoint.about
    session.key = jax.random.wrap_key_data(jnp.asarray(arrays["key"]))
    session.checks = about["checks"]
    for name, run in runs.items():
        run.train_state = jax.tree.map(jnp.asarray, arrays["networks"][name])
        run.inputs = list(arrays["inputs"].get(name, ()))
        run.metrics = [line for line in lines if line["network"] == name]
        run.seconds = about["seconds"][name]
        if name in about["diverged"]:
            run.divergence = Divergence(*about["diverged"][name])
