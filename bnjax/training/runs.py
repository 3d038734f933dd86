"""Whole runs, with Python in between only where somebody wants to look.

(BL.6)  one step for each mini-batch, each sample once an epoch

Epochs are counted from 1, and the order of epoch e follows from the key and e alone: a run that
goes on from a checkpoint deals what it would have dealt without the break.

Source: S3 (the three regimes of gradient descent).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh
from jax.tree_util import Partial
from jax.typing import ArrayLike

from bnjax.network import Network
from bnjax.training import devices
from bnjax.training.epochs import Epoch, pure_epoch, shuffle
from bnjax.training.steps import TrainState

Evaluate = Callable[[TrainState], Any]


class Progress(NamedTuple):
    """Where a run is, whenever Python gets to see it.

    Attributes:
        epoch: Epochs done, the ones of earlier runs included.
        train_state: After that epoch. It is donated when the run goes on: use it before, or copy
            it (`jax.tree.map(jnp.copy, ...)`, or to the host by `jax.device_get`).
        costs: One per batch of the epochs since the last `Progress`, (epochs, steps).
        evaluations: What `evaluate` found after each of these epochs, stacked: (epochs, ...); None
            without.
    """

    epoch: int
    train_state: TrainState
    costs: Array
    evaluations: Any


def fit(
    net: Network,
    optimizer: optax.GradientTransformation,
    train_state: TrainState,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    epochs: int,
    batch_size: int,
    key: Array,
    start: int = 0,
    epochs_per_call: int = 1,
    gradient: str = "rule",
    evaluate: Evaluate | None = None,
    mesh: Mesh | None = None,
    sync_statistics: bool = True,
    samples: int | None = None,
) -> Iterator[Progress]:
    """Train for many epochs, `epochs_per_call` of them in one call of one compiled program.

    It checks, places the data and compiles before it returns; what it returns trains as it is
    iterated over. Break off the loop to stop early. Stops for a look fall on multiples of
    `epochs_per_call` and on the last epoch, wherever the run starts, and one program serves all.

    Args:
        net: The network.
        optimizer: As in `make_step`.
        train_state: Where to start, as `init` gives it or an earlier run left it. Donated.
        x: Inputs, (N, n_in); they are put on the device once.
        targets: φ, (N, n_out).
        epochs: The last epoch, counted from 1.
        batch_size: How many samples a batch holds; a smaller last one is masked, not dropped.
        key: A `jax.random.key`. `shuffle` deals epoch e from `jax.random.fold_in(key, e)`.
        start: Epochs done before, by the run that `train_state` comes from.
        epochs_per_call: k, how many epochs go by until Python sees the next `Progress`.
        gradient: As in `make_step`.
        evaluate: None, or a pure function of the train state, for instance the accuracy on a test
            set, which the compiled program calls after each epoch. Large arrays that it needs go
            along as arguments if it is a `jax.tree_util.Partial(f, *arrays)`, and as constants of
            the program if it closes over them.
        mesh: None for one device, or devices to train on together, as in `make_epoch`.
        sync_statistics: As in `make_step`.
        samples: N, with several processes: x and targets are then the rows of this one, as
            `local_rows` tells. Arrays from `spread` are taken as they are, and need it too.

    Returns:
        An iterator of `Progress`.

    Raises:
        ValueError: A number is out of its range, or arguments do not fit the network.

    Example:
        >>> from bnjax import training
        >>> net, optimizer = Network((2, 4, 1)), optax.sgd(0.5)
        >>> start = training.init(net, optimizer, jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (10, 2))
        >>> run = fit(net, optimizer, start, x, x[:, :1] > 0, epochs=5, batch_size=4,
        ...           key=jax.random.key(2), epochs_per_call=2)
        >>> for progress in run:
        ...     print(progress.epoch, progress.train_state.step, progress.costs.shape)
        2 6 (2, 3)
        4 12 (2, 3)
        5 15 (1, 3)
    """
    samples = check(
        "fit",
        x,
        targets,
        batch_size=batch_size,
        epochs=epochs,
        epochs_per_call=epochs_per_call,
        start=start,
        samples=samples,
    )
    found = as_argument(evaluate)
    if mesh is None:
        train_state, key, *data = jax.device_put((train_state, key, x, targets))
        result = None
    else:
        train_state, key = devices.copy_everywhere(mesh, (train_state, key))
        data = [devices.spread(mesh, rows, samples) for rows in (x, targets)]
        result = devices.everywhere(mesh)
    epoch = pure_epoch(
        net, optimizer, gradient=gradient, mesh=mesh, sync_statistics=sync_statistics
    )
    run = jax.jit(
        pure_run(epoch, samples, batch_size, epochs_per_call),
        donate_argnums=0,
        out_shardings=result,
    )
    compiled = run.lower(train_state, *data, key, np.int32(0), np.int32(1), found).compile()

    def go_on(train_state: TrainState) -> Iterator[Progress]:
        done = start
        while done < epochs:
            # up to the next multiple, counted from the first epoch of all
            count = min(epochs_per_call - done % epochs_per_call, epochs - done)
            numbers = np.int32(done), np.int32(count)
            train_state, costs, evaluations = compiled(train_state, *data, key, *numbers, found)
            done += count
            costs, evaluations = jax.tree.map(lambda a, n=count: a[:n], (costs, evaluations))
            yield Progress(done, train_state, costs, evaluations)

    return go_on(train_state)


def pure_run(epoch: Epoch, samples: int, batch_size: int, epochs_per_call: int) -> Callable:
    """Make (train_state, x, targets, key, done, count, evaluate) -> that of count more epochs.

    Returns:
        A pure function that gives (train_state, costs, evaluations), the latter two with
        `epochs_per_call` rows, of which `count` are filled. `count` is traced, and the trip count
        of one loop: programs of their own for other counts would round differently.
    """
    epoch = jax.jit(epoch)  # whose shapes are asked for below: traced once all the same

    def run(
        train_state: TrainState,
        x: Array,
        targets: Array,
        key: Array,
        done: Array,
        count: Array,
        evaluate: Evaluate,
    ) -> tuple[TrainState, Array, Any]:
        def order(number: Array) -> Array:
            return shuffle(jax.random.fold_in(key, number), samples, batch_size)

        def once(train_state: TrainState, number: Array) -> tuple[TrainState, tuple[Array, Any]]:
            train_state, costs = epoch(train_state, order(number), x, targets)
            return train_state, (costs, evaluate(train_state))

        once = jax.jit(once)
        _, shapes = jax.eval_shape(once, train_state, done)
        empty = jax.tree.map(lambda s: jnp.zeros((epochs_per_call, *s.shape), s.dtype), shapes)

        def more(i: Array, carry: tuple[TrainState, Any]) -> tuple[TrainState, Any]:
            train_state, rows = carry
            train_state, row = once(train_state, done + 1 + i)
            return train_state, jax.tree.map(lambda all, one: all.at[i].set(one), rows, row)

        train_state, (costs, evaluations) = lax.fori_loop(0, count, more, (train_state, empty))
        return train_state, costs, evaluations

    return run


def as_argument(evaluate: Evaluate | None) -> Partial:
    """Make a function of the train state a pytree that can go into a compiled program."""
    return evaluate if isinstance(evaluate, Partial) else Partial(evaluate or _nothing)


def check(
    function: str,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    batch_size: int,
    epochs: int,
    epochs_per_call: int,
    start: int = 0,
    samples: int | None = None,
) -> int:
    """Refuse data that do not go together, and numbers that no run can have; hand out N."""
    rows = np.shape(x)[0]
    if np.shape(targets)[0] != rows:
        raise ValueError(
            f"{function}: `targets` must have one row per row of `x`, {rows}; got "
            f"{np.shape(targets)[0]}."
        )
    n: int = rows if samples is None else samples
    if not 1 <= batch_size <= n:
        raise ValueError(
            f"{function}: `batch_size` must be between 1 and the {n} samples; got {batch_size}."
        )
    if not 0 <= start <= epochs or epochs < 1:
        raise ValueError(
            f"{function}: `epochs` is the last epoch, counted from 1, those done before included: "
            f"at least 1 and at least `start`, {start}; got {epochs}."
        )
    if epochs_per_call < 1:
        raise ValueError(
            f"{function}: `epochs_per_call` must be at least 1; got {epochs_per_call}."
        )
    return n


def _nothing(train_state: TrainState) -> None:
    return None
