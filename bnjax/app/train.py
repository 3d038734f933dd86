"""`bnjax train`: the baseline and the normalized network on the same data, side by side."""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bnjax import training
from bnjax.app import (
    checkpoints,
    devices,
    diagnostics,
    divergence,
    evaluation,
    gradients,
    inputs,
    results,
    resuming,
    sessions,
    tasks,
)
from bnjax.app import data as datasets
from bnjax.app.data import Data
from bnjax.app.errors import UserError
from bnjax.app.options import Train
from bnjax.app.progress import TrainingProgress, say
from bnjax.app.runs import RunFolder
from bnjax.app.sessions import Run, Session
from bnjax.app.signals import ctrl_c

_PROBE = 1000  # samples on which the inputs of the last hidden layer are looked at


def train(options: Train, *, given: frozenset[str] = frozenset()) -> int:
    """Train as the options say; write the run folder; print the summary.

    Args:
        options: The options.
        given: The names of those that were spelt out, as --epochs.

    Returns:
        The exit code: 0, 3 where a network diverged and the run stopped for it, or 130 after
        Ctrl-C.

    Raises:
        UserError: Options or data do not fit, and nothing has been trained; or the folder cannot
            be written, and what stands in it is whole.
    """
    began = time.perf_counter()
    options.check_processes()
    devices.join(options)
    with contextlib.ExitStack() as stack:
        session, problem = None, None
        try:
            session = _begin(options, given, stack)
        except UserError as error:
            problem = error
        if not devices.everyone(problem is None):
            raise problem or UserError("another process of this run cannot begin; see what it says")
        if session is None:
            return 0
        with ctrl_c() as asked_to_stop:
            if options.resume is not None:
                sessions.take_up(session, Path(options.resume))
            interrupted = _train(session, asked_to_stop)
        return results.leave(session, began, interrupted=interrupted)


def _begin(options: Train, given: frozenset[str], stack: contextlib.ExitStack) -> Session | None:
    """Read the data, open the folder, build the networks; None where all is done already."""
    old = None if options.resume is None else resuming.read(options, given)
    folder = None
    if old is not None:
        options = old.options
        if devices.is_first():
            folder = RunFolder.reopen(old.path)
            stack.callback(folder.close)
        if old.finished:
            if devices.is_first():
                say(
                    f"the run in {old.path} is finished: {options.epochs} epochs; more with "
                    f"--epochs, predictions with bnjax predict {old.path} FILE"
                )
            return None
    options.check()
    if options.checkpoint_every:
        checkpoints.require()
    mesh = devices.choose(options)
    data, batch_size = tasks.load(options, seed=options.seed)
    resolved = {
        "learning_rate": options.resolved_learning_rate(),
        "batch_size": batch_size,
        "data": datasets.absolute(options.data),
        "digest": datasets.digest(data),
        "devices": 1 if mesh is None else mesh.size,
    }
    optimizer = tasks.make_optimizer(options.optimizer, options.resolved_learning_rate())
    runs = _start(options, data, optimizer, mesh)
    if old is not None:
        resuming.check(old, resolved)
    elif devices.is_first():
        folder = RunFolder.create(options.out, overwrite=options.overwrite)
        stack.callback(folder.close)
    if folder is not None and (old is None or old.options.epochs > old.config["options"]["epochs"]):
        folder.write_config(dataclasses.asdict(options), resolved)
    return Session(
        options,
        data,
        batch_size,
        folder,
        optimizer,
        runs,
        key=jax.random.fold_in(jax.random.key(options.seed), 1),  # not the weights' key
        mesh=mesh,
    )


def _start(
    options: Train, data: Data, optimizer: optax.GradientTransformation, mesh: Mesh | None
) -> dict[str, Run]:
    """Build the networks: the same weights for both, as they share sizes and key."""
    names = ("baseline", "bn") if options.network == "both" else (options.network,)
    runs = {}
    for name in names:
        # both running kinds, for the summary to compare
        averages = {"decay": options.decay, "other_decays": (None,)}
        net = tasks.make_network(options, data, norm=name == "bn", **averages)
        start = training.init(net, optimizer, jax.random.key(options.seed))
        try:
            epoch = training.make_epoch(
                net,
                optimizer,
                gradient=options.gradient,
                mesh=mesh,
                sync_statistics=options.sync_statistics,
            )
        except ValueError as error:  # a gradient that knows one device only
            raise UserError(f"--gradient {options.gradient}, --devices: {error}") from error
        runs[name] = Run(
            net,
            devices.place(mesh, start),
            epoch,
            evaluation.make_evaluate(net, classify=bool(data.classes)),
            inputs.make_percentiles(net, jnp.asarray(data.x_train[:_PROBE]))
            if options.hidden
            else None,
        )
    return runs


def _train(session: Session, asked_to_stop: list[int]) -> bool:
    """Train all networks epoch by epoch, from where the session stands.

    Returns:
        Whether Ctrl-C has ended it.
    """
    options, data, runs = session.options, session.data, session.runs
    arrays = data.x_train, data.targets_train, data.x_test, data.targets_test
    x, targets, x_test, targets_test = (jnp.asarray(array) for array in arrays)
    shares = devices.share(session.mesh, x, targets)
    samples = x.shape[0]
    shuffle = jax.jit(
        lambda epoch: training.shuffle(
            jax.random.fold_in(session.key, epoch), samples, session.batch_size
        )
    )

    def deal(epoch: int) -> np.ndarray:
        return np.asarray(shuffle(epoch))

    order = deal(session.epoch)
    epochs = {  # compiled ahead, so that speed is measured without it
        name: run.epoch.lower(run.train_state, order, *shares).compile()
        for name, run in runs.items()
    }
    compare = None
    if "bn" in runs and any(runs["bn"].net.normalized):
        compare = gradients.make_comparison(runs["bn"].net)
    at = {(options.epochs + 1) // 2: "middle", 1: "start"}

    def check(moment: str, indices: np.ndarray) -> None:
        if compare is not None:
            batch = data.x_train[indices], data.targets_train[indices], indices >= 0
            session.checks[moment] = compare(runs["bn"].here, *batch)

    for run in runs.values():
        if run.percentiles is not None and not run.inputs:
            run.inputs.append(np.asarray(run.percentiles(run.here)))
    recorder = diagnostics.Recorder(session, x, targets)
    silent = not devices.is_first()
    stop = False
    with TrainingProgress(tuple(runs), options.epochs, silent=silent) as progress:
        for epoch in range(session.epoch + 1, options.epochs + 1):
            order = deal(epoch)
            if epoch in at:
                check(at[epoch], order[0])
            for name, run in runs.items():
                before = jax.tree.map(np.array, run.here)  # the epoch is given the buffers
                started = time.perf_counter()
                run.train_state, batch_costs = epochs[name](run.train_state, order, *shares)
                jax.block_until_ready(run.train_state)
                run.seconds += time.perf_counter() - started
                batch_costs = np.asarray(devices.here(batch_costs))
                here, state = run.here, sessions.statistics(session, run, x)
                _, train_accuracy = run.evaluate(here.params, state, x, targets)
                test_cost, test_accuracy = run.evaluate(here.params, state, x_test, targets_test)
                line = {
                    "network": name,
                    "epoch": epoch,
                    "step": int(here.step),
                    "cost": float(np.mean(batch_costs)),
                    "test_cost": float(test_cost),
                    "train_accuracy": float(train_accuracy) if data.classes else None,
                    "test_accuracy": float(test_accuracy) if data.classes else None,
                    "seconds": run.seconds,
                }
                line |= recorder.look(name, epoch)
                run.metrics.append(line)
                if session.folder is not None:
                    session.folder.write_metrics(line)
                if run.percentiles is not None:
                    run.inputs.append(np.asarray(run.percentiles(here)))
                speed = samples * epoch / run.seconds
                left = (options.epochs - epoch) * run.seconds / epoch
                result = _result(line)
                progress.advance(
                    name,
                    epoch,
                    f"cost {_short(line['cost'])}  {result}  {speed:,.0f} samples/s",
                    left,
                )
                if run.divergence is None:
                    run.divergence = divergence.find(
                        training.make_step(run.net, session.optimizer, gradient=options.gradient),
                        (before, here),
                        (order, x, targets),
                        epoch=epoch,
                        costs=batch_costs,
                    )
                    if run.divergence is not None:
                        progress.say(divergence.describe(name, run.divergence))
            session.epoch = epoch
            if session.stopped:
                break
            stop = devices.anyone(bool(asked_to_stop))
            every = options.checkpoint_every
            if every and (epoch % every == 0 or (stop and epoch < options.epochs)):
                recorder.write()  # before: a checkpoint counts on what was seen up to it
                sessions.save(session)
            if stop:
                break
    recorder.write()
    check("end", order[0])
    return stop


def _result(line: dict[str, Any]) -> str:
    if line["test_accuracy"] is None:
        return f"test cost {_short(line['test_cost'])}"
    return f"test accuracy {line['test_accuracy']:.1%}"


def _short(cost: float) -> str:
    return f"{cost:.4f}" if cost < 1e4 else f"{cost:.3g}"
