"""A run on its way: its networks and what has been seen of them, saved and taken up again."""

from dataclasses import dataclass, field
from pathlib import Path

import jax
import optax
from jax import Array
from jax.sharding import Mesh

from bnjax.app.data import Data
from bnjax.app.io.terminal import say
from bnjax.app.measures.divergence import Divergence
from bnjax.app.options import Train
from bnjax.app.run import checkpoints, metrics, processes
from bnjax.app.run.checkpoints import About, Checkpoint
from bnjax.app.run.folder import RunFolder
from bnjax.app.run.metrics import Line
from bnjax.network import Network
from bnjax.training import TrainState


@dataclass
class Run:
    """One network in training, and what has been seen of it."""

    net: Network
    state: TrainState  # of NumPy arrays, after the last epoch
    metrics: list[Line] = field(default_factory=list)
    seconds: float = 0.0
    divergence: Divergence | None = None


@dataclass
class Session:
    """A whole run: its networks, and what they share."""

    options: Train
    data: Data
    batch_size: int
    folder: RunFolder | None  # None where another process writes
    optimizer: optax.GradientTransformation
    runs: dict[str, Run]
    mesh: Mesh | None  # None for one device
    epoch: int = 0  # the last one that all networks have finished
    checks: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def key(self) -> Array:
        """Return the key that orders the samples; not the one that the weights come from."""
        return jax.random.fold_in(jax.random.key(self.options.seed), 1)

    @property
    def diverged(self) -> dict[str, Divergence]:
        """Return the networks that were lost."""
        return {name: run.divergence for name, run in self.runs.items() if run.divergence}

    @property
    def stopped(self) -> bool:
        """Return whether the run ends because a network was lost."""
        return bool(self.diverged) and self.options.on_divergence == "stop"


def save(session: Session) -> None:
    """Write a checkpoint of where the session stands."""
    if session.folder is None:
        return
    session.folder.sync_metrics()
    about = About(
        seconds={name: run.seconds for name, run in session.runs.items()},
        checks=session.checks,
        diverged=session.diverged,
    )
    networks = {name: run.state for name, run in session.runs.items()}
    checkpoint = Checkpoint(session.epoch, networks, about)
    checkpoints.write(session.folder, checkpoint, keep=session.options.keep)


def take_up(session: Session, path: Path) -> None:
    """Bring the session to the newest checkpoint in `path`; without any it begins anew.

    Raises:
        UserError: There are checkpoints, and none can be read; or metrics.jsonl cannot be.
    """
    runs, folder = session.runs, session.folder
    template = {name: run.state for name, run in runs.items()}
    checkpoint, lines = None, []
    if folder is not None:
        most = metrics.covered(metrics.read(path), runs)
        checkpoint = checkpoints.newest(path, template, most=most)
    epoch = processes.from_first(0 if checkpoint is None else checkpoint.epoch)
    if folder is not None:
        lines = folder.keep_metrics(epoch)
        checkpoints.clean(folder, checkpoints.newest_epochs(path, epoch)[: session.options.keep])
        if checkpoint is None:
            say(f"no checkpoint in {path} yet: starting over with its own options")
        else:
            say(f"going on from the checkpoint of epoch {epoch} in {path}")
    if not epoch:
        return
    checkpoint = checkpoint or checkpoints.read(path, epoch, template)
    session.epoch, about = epoch, checkpoint.about
    session.checks = about["checks"]
    for name, run in runs.items():
        run.state = checkpoint.networks[name]
        run.metrics = [line for line in lines if line["network"] == name]
        run.seconds = about["seconds"].get(name, 0.0)
        if (lost := about["diverged"].get(name)) is not None:
            run.divergence = lost
