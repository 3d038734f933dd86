"""Compiled grids of small trainings: what is varied by seeds, one program for each kind of network.

Each network takes the steps (BL.6) that it would take alone. The networks of one seed share their
weights (up to the scale) and their batches, whatever is varied.

Source: S3 (the regimes of gradient descent).
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from bnjax import _xla, network, training
from bnjax.claims.claim import Data, Setting
from bnjax.moments import Moments
from bnjax.network import Network, Params, State
from bnjax.training import TrainState

_THREADS = 2  # a small network keeps one core busy

Varied = dict[str, Any]  # of one row: scalars by name
Found = dict[str, np.ndarray]
# (params, state, x, targets) -> (cost, moments)
Objective = Callable[[Params, State, Array, Array], tuple[Array, tuple[Moments, ...]]]


@dataclass(frozen=True)
class Experiment:
    """One kind of network and how it is trained and judged; all functions are traced.

    Attributes:
        begin: (varied, key) -> train state.
        epoch: (varied, train state, order, x, targets) -> (train state, costs): one step for each
            row of `order`, the indices of a batch.
        evaluate: (train state, data) -> a dict of arrays, after every `every` steps.
        finish: (train state, data) -> a dict of arrays, after the last step; and before the first,
            under names that begin with "start_".
    """

    begin: Callable[[Varied, Array], Any]
    epoch: Callable[[Varied, Any, Array, Array, Array], tuple[Any, Array]]
    evaluate: Callable[[Any, Data], dict[str, Array]]
    finish: Callable[[Any, Data], dict[str, Array]]


class Job(NamedTuple):
    """An experiment over the rows of a grid.

    Attributes:
        experiment: What is trained.
        rows: What is varied: a dict of scalars for each row, all with the same names.
        epochs: Passes over the training set.
        batch_size: Samples of a batch; the samples that fill no batch are left out of an epoch.
        per_epoch: Evaluations per epoch.
    """

    experiment: Experiment
    rows: Sequence[Varied]
    epochs: int
    batch_size: int
    per_epoch: int = 1

    def steps(self, data: Data) -> np.ndarray:
        """Return the number of steps before each evaluation."""
        every, count = self._chunks(len(data.x))
        return every * np.arange(1, count + 1)

    def _chunks(self, samples: int) -> tuple[int, int]:
        in_epoch = samples // self.batch_size
        every = max(1, in_epoch // self.per_epoch)
        return every, self.epochs * in_epoch // every


def train(setting: Setting, jobs: Mapping[str, Job]) -> dict[str, Found]:
    """Train every row of every job with every seed, several at a time.

    Args:
        setting: Data, seeds, and who is told of the progress.
        jobs: The jobs by name.

    Returns:
        For each job what `evaluate` and `finish` returned, (S, H, ...) and (S, H, evaluations,
        ...); and "cost", the mean of the batches' costs since the evaluation before.
    """
    seeds, data = jnp.asarray(setting.seeds), setting.data
    total, done = sum(len(job.rows) for job in jobs.values()), 0
    with ThreadPoolExecutor(_THREADS) as pool:
        compiled = pool.map(partial(_compile, seeds, data), jobs.values())
        programs = dict(zip(jobs, compiled, strict=True))
        calls = {
            name: [pool.submit(_call, programs[name], row, seeds, data) for row in job.rows]
            for name, job in jobs.items()
        }
        found = {}
        for name, rows in calls.items():
            results = []
            for row in rows:
                results.append(row.result())
                done += 1
                setting.report(done, total)
            found[name] = jax.tree.map(lambda *a: np.stack(a, axis=1), *results)
    return found


def _call(program: Callable, row: Varied, seeds: Array, data: Data) -> Found:
    return jax.device_get(program(_as_arrays(row), seeds, data))


def _as_arrays(row: Varied) -> dict[str, Array]:
    return {name: jnp.asarray(value, jnp.result_type(float)) for name, value in row.items()}


def _compile(seeds: Array, data: Data, job: Job) -> Callable:
    """Compile a job's program; the same one for the same experiment, numbers and shapes."""
    arguments = _as_arrays(job.rows[0]), seeds, data
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    leaves, tree = jax.tree.flatten(shapes)
    numbers = job.epochs, job.batch_size, job.per_epoch
    return _compiled(job.experiment, *numbers, tuple(leaves), tree)


@lru_cache(maxsize=64)
def _compiled(
    experiment: Experiment,
    epochs: int,
    batch_size: int,
    per_epoch: int,
    leaves: tuple[jax.ShapeDtypeStruct, ...],
    tree: Any,
) -> Callable:
    varied, seeds, data = jax.tree.unflatten(tree, leaves)
    every, count = Job(experiment, (), epochs, batch_size, per_epoch)._chunks(len(data.x))

    def one(varied: Varied, data: Data, seed: Array) -> dict[str, Array]:
        key = jax.random.key(seed)
        order = _order(jax.random.fold_in(key, 1), len(data.x), batch_size, epochs)
        order = order[: count * every].reshape(count, every, batch_size)

        def advance(train_state: Any, order: Array) -> tuple[Any, dict[str, Array]]:
            train_state, costs = experiment.epoch(varied, train_state, order, data.x, data.targets)
            return train_state, {"cost": costs.mean(), **experiment.evaluate(train_state, data)}

        start = experiment.begin(varied, key)
        train_state, found = lax.scan(advance, start, order)
        before = {f"start_{k}": v for k, v in experiment.finish(start, data).items()}
        return found | before | experiment.finish(train_state, data)

    def all_seeds(varied: Varied, seeds: Array, data: Data) -> dict[str, Array]:
        # side by side where that pays: on a CPU products of small matrices gain nothing by it
        at_once = 1 if jax.default_backend() == "cpu" else len(seeds)
        return lax.map(partial(one, varied, data), seeds, batch_size=at_once)

    program = jax.jit(all_seeds, compiler_options=_xla.options_for_short_loops())
    return program.lower(varied, seeds, data).compile()


def _order(key: Array, samples: int, batch_size: int, epochs: int) -> Array:
    """Return the batches of all epochs, (steps, batch_size), each epoch in an order of its own."""
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(1, epochs + 1))
    orders = lax.map(lambda k: jax.random.permutation(k, samples), keys)
    in_epoch = samples // batch_size
    return orders[:, : in_epoch * batch_size].reshape(epochs * in_epoch, batch_size)


@lru_cache(maxsize=64)
def sgd(net: Network, *looks: Callable[[Network, Any, Data], dict[str, Array]]) -> Experiment:
    """Return the experiment that trains a network by SGD; varied are "rate" and "scale".

    Args:
        net: The network.
        looks: Further functions of (net, train state, data), for `finish`.
    """

    def begin(varied: Varied, key: Array) -> TrainState:
        train_state = training.init(net, optax.sgd(varied["rate"]), key)
        params = tuple(layer._replace(W=varied["scale"] * layer.W) for layer in train_state.params)
        return train_state._replace(params=params)

    def epoch(varied: Varied, train_state: TrainState, order: Array, x: Array, targets: Array):
        return training.make_epoch(net, optax.sgd(varied["rate"]))(train_state, order, x, targets)

    def finish(train_state: TrainState, data: Data) -> dict[str, Array]:
        return {k: v for look in looks for k, v in look(net, train_state, data).items()}

    return Experiment(begin, epoch, partial(accuracy, net), finish)


def sgd_of(net: Network, objective: Objective) -> Experiment:
    """Return the experiment of `sgd` with another way to run the network in training.

    Args:
        net: The network; its running statistics are updated, and evaluated with.
        objective: (params, state, x, targets) -> (cost, the `Moments` of each normalization).
    """

    def step(
        varied: Varied, train_state: TrainState, x: Array, targets: Array
    ) -> tuple[TrainState, Array]:
        params, state, opt_state, count = train_state
        (cost, moments), grads = jax.value_and_grad(objective, has_aux=True)(
            params, state, x, targets
        )
        params = jax.tree.map(lambda p, g: p - varied["rate"] * g, params, grads)  # BL.6
        state = network.update_statistics(net, state, moments)
        return TrainState(params, state, opt_state, count + 1), cost

    def epoch(varied: Varied, train_state: TrainState, order: Array, x: Array, targets: Array):
        def train(train_state: TrainState, batch: Array) -> tuple[TrainState, Array]:
            return step(varied, train_state, x[batch], targets[batch])

        return lax.scan(train, train_state, order)

    return replace(sgd(net), epoch=epoch)


def sgd_with_keys(
    net: Network,
    objective: Callable[..., tuple[Array, tuple[Moments, ...]]],
) -> Experiment:
    """Return the experiment of `sgd_of` for what is drawn anew at each step.

    Args:
        net: The network.
        objective: As in `sgd_of`, after what is varied and a key of each step's own.
    """

    def epoch(varied: Varied, train_state: TrainState, order: Array, x: Array, targets: Array):
        def train(train_state: TrainState, batch: Array) -> tuple[TrainState, Array]:
            # the batch tells the seeds apart
            key = jax.random.fold_in(jax.random.key(0), train_state.step)
            of_step = partial(objective, varied, jax.random.fold_in(key, batch[0]))
            one = sgd_of(net, of_step)
            return one.epoch(varied, train_state, batch[None], x, targets)

        return lax.scan(train, train_state, order)

    return replace(sgd(net), epoch=epoch)


def accuracy(net: Network, train_state: TrainState, data: Data) -> dict[str, Array]:
    """Return the share of the test set that a network gets right, by its running statistics."""
    logits, _ = network.bn_apply(
        net, train_state.params, train_state.state, data.x_test, train=False
    )
    return {"accuracy": share_right(logits, data.targets_test)}


def share_right(logits: Array, targets: Array) -> Array:
    """Return the share of samples whose class has the largest logit."""
    if targets.shape[1] == 1:
        return jnp.mean((logits > 0) == (targets > 0.5))
    right = jnp.argmax(logits, axis=1) == jnp.argmax(targets, axis=1)
    return jnp.mean(right & jnp.all(jnp.isfinite(logits), axis=1))
