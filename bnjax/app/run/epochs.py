"""The epochs of a run: one network through `training.fit`, and what each epoch showed."""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from bnjax import training
from bnjax.app.errors import UserError
from bnjax.app.measures import divergence, evaluation, inputs
from bnjax.app.measures.divergence import Divergence
from bnjax.app.run import processes
from bnjax.app.run.metrics import Line
from bnjax.app.run.session import Run, Session
from bnjax.training import Progress, TrainState


def compile_training(session: Session, run: Run) -> Iterator[Progress]:
    """Compile the training of one network, from its state on."""
    options, data, mesh = session.options, session.data, session.mesh
    evaluate = evaluation.after_epoch(
        run.net, data, statistics=options.statistics, batch_size=session.batch_size
    )
    try:
        return training.fit(
            run.net,
            session.optimizer,
            run.state,
            *processes.rows(mesh, data.x_train, data.targets_train),
            epochs=options.epochs,
            batch_size=session.batch_size,
            key=session.key,
            start=session.epoch,
            gradient=options.gradient,
            evaluate=processes.everywhere(mesh, evaluate),
            mesh=mesh,
            sync_statistics=options.sync_statistics,
            samples=len(data.x_train),
        )
    except ValueError as error:  # a gradient that knows one device only
        raise UserError(f"--gradient {options.gradient}, --devices: {error}") from error


def advance(
    epochs: Iterator[Progress], run: Run, name: str, *, classify: bool
) -> tuple[Line, np.ndarray]:
    """Train one network for an epoch; return what is known of it, and its costs."""
    started = time.perf_counter()
    progress = jax.block_until_ready(next(epochs))
    run.seconds += time.perf_counter() - started
    run.state = processes.to_host(progress.train_state)
    costs, found = processes.to_host((progress.costs, progress.evaluations))
    line = Line(
        network=name,
        epoch=progress.epoch,
        step=int(run.state.step),
        cost=float(np.mean(costs)),
        test_cost=float(found["test_cost"][0]),
        train_accuracy=float(found["train_accuracy"][0]) if classify else None,
        test_accuracy=float(found["test_accuracy"][0]) if classify else None,
        seconds=run.seconds,
    )
    if "inputs" in found:  # of the same neuron each time
        neuron = next((old["inputs"]["neuron"] for old in run.metrics if "inputs" in old), None)
        line["inputs"] = inputs.of_neuron(found["inputs"][0], neuron)
    return line, costs[0]


def find_divergence(
    session: Session, run: Run, before: TrainState, costs: np.ndarray, epoch: int
) -> Divergence | None:
    """Look whether an epoch lost a network, and where."""
    step = training.make_step(run.net, session.optimizer, gradient=session.options.gradient)
    x, targets = map(jnp.asarray, (session.data.x_train, session.data.targets_train))
    return divergence.find(
        step,
        (before, run.state),
        lambda: (order(session, epoch), x, targets),
        epoch=epoch,
        costs=costs,
    )


def order(session: Session, epoch: int) -> np.ndarray:
    """Return the samples of each batch of an epoch, as `training.fit` orders them."""
    key = jax.random.fold_in(session.key, epoch)
    return np.asarray(training.shuffle(key, len(session.data.x_train), session.batch_size))
