"""`bnjax train`: the baseline and the normalized network on the same data, side by side."""

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from bnjax import network, training
from bnjax.app import data as datasets
from bnjax.app import evaluation, gradients, plots, summaries
from bnjax.app.data import Data
from bnjax.app.errors import UserError
from bnjax.app.options import Train
from bnjax.app.progress import TrainingProgress
from bnjax.app.runs import RunFolder, device_name, finite
from bnjax.network import Network, State
from bnjax.training import TrainState

TARGET_ACCURACY = 0.95
_PROBE = 1000  # samples on which the inputs of the last hidden layer are looked at


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


def train(options: Train) -> int:
    """Train as the options say; write the run folder; print the summary.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.

    Raises:
        UserError: Options or data do not fit; nothing has been trained then.
    """
    began = time.perf_counter()
    options.check()
    data = datasets.load(
        options.data,
        cost=options.cost,
        label=options.label,
        test_fraction=options.test_fraction,
        seed=options.seed,
        scale=options.scale,
    )
    samples = len(data.x_train)
    batch_size = samples if options.batch_size == "full" else options.batch_size
    if batch_size > samples:
        raise UserError(
            f"--batch-size: expected at most {samples}, the size of the training set, got "
            f"{batch_size}; use a smaller batch, or full"
        )
    folder = RunFolder(options.out, overwrite=options.overwrite)
    folder.write_config(
        dataclasses.asdict(options),
        {"learning_rate": options.resolved_learning_rate(), "batch_size": batch_size},
    )
    with _ctrl_c() as asked_to_stop:
        runs = _start(options, data)
        checks = _train(options, data, batch_size, runs, folder, asked_to_stop)
    folder.close()
    measured = _leave_networks(options, data, batch_size, runs, folder)
    epochs_done = min(len(run.metrics) for run in runs.values())
    if epochs_done:
        plots.curves(
            folder.path / "curves.png",
            {name: run.metrics for name, run in runs.items()},
            data=data.name,
            cost=options.cost,
        )
    if epochs_done and options.hidden:
        plots.inputs(
            folder.path / "inputs.png",
            {name: np.stack(run.inputs) for name, run in runs.items()},
            steps_per_epoch=-(-samples // batch_size),
            activation=options.activation,
        )
    summary = _summary(options, data, batch_size, runs, checks)
    for name, figures in summary["networks"].items():
        figures |= measured.get(name, {})
    summary["interrupted"] = bool(asked_to_stop) and epochs_done < options.epochs
    summary["seconds"] = time.perf_counter() - began
    summary["out"] = str(folder.path)
    if options.json:
        print(json.dumps(finite(summary), allow_nan=False))
    else:
        summaries.show(summary)
    if summary["interrupted"]:
        TrainingProgress((), 0).say(
            f"interrupted after epoch {epochs_done} of {options.epochs}: what has been learnt is "
            f"in {folder.path}"
        )
        return 130
    return 0


def _start(options: Train, data: Data) -> dict[str, Run]:
    """Build the networks: the same weights for both, as they share sizes and key."""
    optimizer = _optimizer(options.optimizer, options.resolved_learning_rate())
    names = ("baseline", "bn") if options.network == "both" else (options.network,)
    runs = {}
    for name in names:
        norm = name == "bn"
        net = Network(
            (data.n_in, *options.hidden, data.n_out),
            activation=options.activation,
            cost=options.cost,
            norm=norm,
            norm_output=norm and options.norm_output,
            eps=options.eps,
            decay=(options.decay, None),  # both running kinds, for the summary to compare
        )
        start = training.init(net, optimizer, jax.random.key(options.seed))
        runs[name] = Run(
            net,
            start,
            training.make_epoch(net, optimizer, gradient=options.gradient),
            evaluation.make_evaluate(net, classify=bool(data.classes)),
            _make_percentiles(net, jnp.asarray(data.x_train[:_PROBE])) if options.hidden else None,
        )
    return runs


def _optimizer(name: str, learning_rate: float) -> optax.GradientTransformation:
    match name:
        case "sgd":
            return optax.sgd(learning_rate)
        case "momentum":
            return optax.sgd(learning_rate, momentum=0.9)
        case _:
            return optax.adam(learning_rate)


def _train(
    options: Train,
    data: Data,
    batch_size: int,
    runs: dict[str, Run],
    folder: RunFolder,
    asked_to_stop: list[int],
) -> dict[str, gradients.Differences]:
    """Train all networks epoch by epoch; hand out the gradient comparisons."""
    arrays = data.x_train, data.targets_train, data.x_test, data.targets_test
    x, targets, x_test, targets_test = (jnp.asarray(array) for array in arrays)
    samples = x.shape[0]
    key = jax.random.fold_in(jax.random.key(options.seed), 1)  # not the weights' key
    deal = jax.jit(
        lambda epoch: training.shuffle(jax.random.fold_in(key, epoch), samples, batch_size)
    )
    order = deal(0)
    epochs = {  # compiled ahead, so that speed is measured without it
        name: run.epoch.lower(run.train_state, order, x, targets).compile()
        for name, run in runs.items()
    }
    compare = None
    if "bn" in runs and any(runs["bn"].net.normalized):
        compare = gradients.make_comparison(runs["bn"].net)
    at = {(options.epochs + 1) // 2: "middle", 1: "start"}
    checks: dict[str, gradients.Differences] = {}

    def check(moment: str, indices: np.ndarray) -> None:
        if compare is not None:
            batch = data.x_train[indices], data.targets_train[indices], indices >= 0
            checks[moment] = compare(runs["bn"].train_state, *batch)

    for run in runs.values():
        if run.percentiles is not None:
            run.inputs.append(np.asarray(run.percentiles(run.train_state)))
    with TrainingProgress(tuple(runs), options.epochs) as progress:
        for epoch in range(1, options.epochs + 1):
            order = deal(epoch)
            if epoch in at:
                check(at[epoch], np.asarray(order)[0])
            for name, run in runs.items():
                started = time.perf_counter()
                run.train_state, batch_costs = epochs[name](run.train_state, order, x, targets)
                jax.block_until_ready(run.train_state)
                run.seconds += time.perf_counter() - started
                params, state = run.train_state.params, _statistics(options, run, x, batch_size)
                _, train_accuracy = run.evaluate(params, state, x, targets)
                test_cost, test_accuracy = run.evaluate(params, state, x_test, targets_test)
                line = {
                    "network": name,
                    "epoch": epoch,
                    "step": int(run.train_state.step),
                    "cost": float(np.mean(batch_costs)),
                    "test_cost": float(test_cost),
                    "train_accuracy": float(train_accuracy) if data.classes else None,
                    "test_accuracy": float(test_accuracy) if data.classes else None,
                    "seconds": run.seconds,
                }
                run.metrics.append(line)
                folder.write_metrics(line)
                if run.percentiles is not None:
                    run.inputs.append(np.asarray(run.percentiles(run.train_state)))
                speed = samples * epoch / run.seconds
                left = (options.epochs - epoch) * run.seconds / epoch
                result = _result(line)
                progress.advance(
                    name, epoch, f"cost {line['cost']:.4f}  {result}  {speed:,.0f} samples/s", left
                )
            if asked_to_stop:
                break
    check("end", np.asarray(order)[0])
    return checks


def _statistics(options: Train, run: Run, x: Array, batch_size: int) -> State:
    params, kept = run.train_state.params, run.train_state.state
    return evaluation.choose(options.statistics, run.net, params, kept, x, batch_size=batch_size)


def _leave_networks(
    options: Train, data: Data, batch_size: int, runs: dict[str, Run], folder: RunFolder
) -> dict[str, dict[str, Any]]:
    """Write each network, and the normalized one folded too; hand out what was measured."""
    classify = bool(data.classes)
    x, x_test, targets_test = map(jnp.asarray, (data.x_train, data.x_test, data.targets_test))
    described = {"center": data.center, "spread": data.spread, "classes": data.classes}
    measured: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        params, kept = run.train_state.params, run.train_state.state
        state = _statistics(options, run, x, batch_size)
        folder.write_params(f"params_{name}", params, state, **described)
        if not any(run.net.normalized):
            continue
        folded, differ, difference = evaluation.fold(
            run.net, params, state, x_test, classify=classify
        )
        if not differ:
            folder.write_params("folded", folded, (), **described)
        measured[name] = {
            "statistics": evaluation.gaps(
                run.net,
                params,
                kept,
                x,
                x_test,
                targets_test,
                classify=classify,
                batch_size=batch_size,
            ),
            "folded": {"test_predictions_changed": differ, "largest_difference": difference},
        }
    return measured


def _result(line: dict[str, Any]) -> str:
    if line["test_accuracy"] is None:
        return f"test cost {line['test_cost']:.4f}"
    return f"test accuracy {line['test_accuracy']:.1%}"


def _make_percentiles(net: Network, probe: Array) -> Callable[[TrainState], Array]:
    """Make train_state -> 15th, 50th, 85th percentile of the last hidden layer's inputs, (3, n)."""
    # the network that ends there: its logits are what the last hidden activation is fed with
    inner = dataclasses.replace(net, sizes=net.sizes[:-1], norm_output=net.norm)

    def percentiles(train_state: TrainState) -> Array:
        state = train_state.state[: sum(inner.normalized)]
        y, _ = network.bn_apply(inner, train_state.params[:-1], state, probe, train=True)
        return jnp.percentile(y, jnp.array([15.0, 50.0, 85.0]), axis=0)

    return jax.jit(percentiles)


@contextmanager
def _ctrl_c() -> Iterator[list[int]]:
    """Collect the first Ctrl-C, to end between two epochs; a second one ends at once.

    Donated buffers are gone while an epoch runs: stopping inside one would lose the network.
    """
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _summary(
    options: Train,
    data: Data,
    batch_size: int,
    runs: dict[str, Run],
    checks: dict[str, gradients.Differences],
) -> dict[str, Any]:
    """Gather what the run showed, ready for JSON."""
    networks = {}
    for name, run in runs.items():
        if not run.metrics:
            continue
        accuracies = [line["test_accuracy"] for line in run.metrics]
        reached = [
            line["step"]
            for line in run.metrics
            if data.classes and line["test_accuracy"] >= TARGET_ACCURACY
        ]
        networks[name] = {
            "final_test_accuracy": accuracies[-1],
            "best_test_accuracy": max(accuracies) if data.classes else None,
            "steps_to_95": reached[0] if reached else None,
            "final_test_cost": run.metrics[-1]["test_cost"],
            "best_test_cost": min(line["test_cost"] for line in run.metrics),
            "samples_per_second": len(data.x_train) * len(run.metrics) / run.seconds,
            "steps": run.metrics[-1]["step"],
        }
    return {
        "data": {
            "name": data.name,
            "train_samples": len(data.x_train),
            "test_samples": len(data.x_test),
            "features": data.n_in,
            "classes": list(data.classes),
            "split": data.split,
            "scaling": data.scaling,
        },
        "options": dataclasses.asdict(options),
        "learning_rate": options.resolved_learning_rate(),
        "batch_size": batch_size,
        "networks": networks,
        "gradient_difference": checks,
        "device": device_name(),
    }
