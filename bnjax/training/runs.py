"""Whole runs: many epochs, several of them in one call of a compiled program.

A run takes one step per mini-batch (BL.6), and uses each sample once per epoch. Epochs are counted
from 1, and the order of epoch e depends on the key and on e alone: a run resumed from a checkpoint
sees the batches that it would have seen without the interruption.

Source: S3 (the three regimes of gradient descent).
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh
from jax.tree_util import Partial
from jax.typing import ArrayLike

from bnjax import _xla
from bnjax.network import Network
from bnjax.training import devices
from bnjax.training.epochs import Epoch, pure_epoch, shuffle
from bnjax.training.host import as_numbers
from bnjax.training.steps import StepConfig, TrainState

Evaluation = Callable[[TrainState], Any]


class Progress(NamedTuple):
    """The state of a run after some of its epochs.

    Attributes:
        epoch: The number of epochs so far, including those of earlier runs.
        train_state: The train state after that epoch. It is donated when the iteration continues:
            use it before, or copy it (`jax.tree.map(jnp.copy, ...)`, or `jax.device_get`).
        costs: The cost of each batch since the last `Progress`, (epochs, steps).
        evaluations: What `evaluate` returned after each of these epochs, stacked: (epochs, ...);
            None without it.
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
    evaluate: Evaluation | None = None,
    mesh: Mesh | None = None,
    sync_statistics: bool = True,
    samples: int | None = None,
) -> Iterator[Progress]:
    """Train for many epochs, `epochs_per_call` of them in each call of one compiled program.

    Arguments are checked, data placed and the program compiled before `fit` returns; training
    happens while the result is iterated over. Leave the loop to stop early. Calls end at multiples
    of `epochs_per_call` and at the last epoch, wherever the run starts, all with one program.
    Another `fit` with the same `net`, `optimizer`, `mesh`, numbers and shapes compiles nothing;
    optimizers and `evaluate` count as the same if they are the same objects.

    To be able to go back to before a call, for instance when it diverges, copy the train state
    before the iteration continues, and `fit` from that copy with `start`: all else that a run
    depends on, `key` and the number of the epoch, does not change.

    Args:
        net: The network.
        optimizer: As in `make_step`.
        train_state: The state to start from, as returned by `init` or by an earlier run. Donated.
        x: Inputs, (N, n_in); they are copied to the device once. DataFrames of numbers, lists and
            tensors of other libraries are accepted, too.
        targets: φ, (N, n_out); integer labels become such rows by `jax.nn.one_hot`.
        epochs: The number of the last epoch, counted from 1.
        batch_size: The number of samples per batch; a smaller last one is masked, not dropped.
        key: A `jax.random.key`. `shuffle` orders epoch e with `jax.random.fold_in(key, e)`.
        start: The number of epochs that earlier runs have trained `train_state` for.
        epochs_per_call: k, the number of epochs between two `Progress`.
        gradient: As in `make_step`.
        evaluate: None, or a pure function of the train state, for instance the accuracy on a test
            set, which the compiled program calls after each epoch. Large arrays that it needs are
            passed as arguments if it is a `jax.tree_util.Partial(f, *arrays)`, and compiled into
            the program as constants if it closes over them.
        mesh: None for one device, or the devices to train on together, as in `make_epoch`.
        sync_statistics: As in `make_step`.
        samples: N, with several processes: x and targets are then the rows of this process, as
            selected by `local_rows`. Also required with arrays that `spread` has returned.

    Returns:
        An iterator of `Progress`.

    Raises:
        TypeError: x or targets do not hold numbers.
        ValueError: A number is out of its range, or an argument does not fit the network.

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
    x, targets = (as_numbers("training.fit", *one) for one in (("x", x), ("targets", targets)))
    samples = check_run(
        "training.fit",
        x,
        targets,
        batch_size=batch_size,
        epochs=epochs,
        epochs_per_call=epochs_per_call,
        start=start,
        samples=samples,
    )
    train_state, key, x, targets = _put_on_devices(mesh, samples, train_state, key, x, targets)
    config = StepConfig("training.fit", net, gradient, devices.mesh_axes(mesh), sync_statistics)
    run = _jit_run(config, optimizer, mesh, samples, batch_size, epochs_per_call)
    evaluation = as_pytree(evaluate)

    if not jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        # JAX keeps what it compiles here for the first call
        run.lower(train_state, x, targets, key, np.int32(0), np.int32(0), evaluation).compile()

    def advance(train_state: TrainState, done: int, count: int) -> tuple[TrainState, Array, Any]:
        numbers = np.int32(done), np.int32(count)
        # they are meant to be copied; a `device_put` of their own would take as long as two steps
        with jax.transfer_guard_host_to_device("allow"):
            return run(train_state, x, targets, key, *numbers, evaluation)

    return _iterate(advance, train_state, start, epochs, epochs_per_call)


@lru_cache(maxsize=16)
def _jit_run(
    config: StepConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None,
    samples: int,
    batch_size: int,
    epochs_per_call: int,
) -> jax.stages.Wrapped:
    """Return the jitted run, the same function for the same arguments: it is compiled once."""
    return jax.jit(
        pure_run(pure_epoch(config, optimizer, mesh), samples, batch_size, epochs_per_call),
        donate_argnums=0,
        out_shardings=None if mesh is None else devices.replicated(mesh),
        compiler_options=_xla.options_for_loops(),
    )


def _put_on_devices(
    mesh: Mesh | None,
    samples: int,
    train_state: TrainState,
    key: Array,
    x: ArrayLike,
    targets: ArrayLike,
) -> tuple[TrainState, Array, ArrayLike, ArrayLike]:
    """Copy train state and key to all devices, and spread the data over them."""
    train_state, key = devices.copy_to(mesh, (train_state, key))
    if mesh is None:
        return train_state, key, *jax.device_put((x, targets))
    x, targets = (devices.spread(mesh, rows, samples) for rows in (x, targets))
    return train_state, key, x, targets


def _iterate(
    advance: Callable[[TrainState, int, int], tuple[TrainState, Array, Any]],
    train_state: TrainState,
    done: int,
    epochs: int,
    epochs_per_call: int,
) -> Iterator[Progress]:
    """Yield `Progress` after each call of `advance`(train_state, epochs done, epochs to do)."""
    while done < epochs:
        # up to the next multiple, counted from the very first epoch
        count = min(epochs_per_call - done % epochs_per_call, epochs - done)
        train_state, costs, evaluations = advance(train_state, done, count)
        done += count
        if count < epochs_per_call:  # slicing takes as long as ten steps of a small network
            # not a[:n], whose start is a number from the host: a transfer guard would refuse it
            first = partial(lax.slice_in_dim, start_index=0, limit_index=count)
            costs, evaluations = jax.tree.map(first, (costs, evaluations))
        yield Progress(done, train_state, costs, evaluations)


def pure_run(epoch: Epoch, samples: int, batch_size: int, epochs_per_call: int) -> Callable:
    """Return the function that trains for several epochs, not jitted.

    Returns:
        run(train_state, x, targets, key, done, count, evaluate) -> (train_state, costs,
        evaluations): epochs done + 1 to done + count. The latter two have `epochs_per_call` rows,
        of which `count` are filled. `count` is traced: programs compiled for other counts would
        round differently.
    """
    epoch = jax.jit(epoch)  # traced once, although `eval_shape` below needs it too

    def run(
        train_state: TrainState,
        x: Array,
        targets: Array,
        key: Array,
        done: Array,
        count: Array,
        evaluate: Evaluation,
    ) -> tuple[TrainState, Array, Any]:
        def train_epoch(
            train_state: TrainState, number: Array
        ) -> tuple[TrainState, tuple[Array, Any]]:
            order = shuffle(jax.random.fold_in(key, number), samples, batch_size)
            train_state, costs = epoch(train_state, order, x, targets)
            return train_state, (costs, evaluate(train_state))

        return _repeat(jax.jit(train_epoch), train_state, done, count, epochs_per_call)

    return run


def _repeat(
    train_epoch: Callable[[TrainState, Array], tuple[TrainState, Any]],
    train_state: TrainState,
    done: Array,
    count: Array,
    rows: int,
) -> tuple[TrainState, Array, Any]:
    """Train for `count` epochs; return their costs and evaluations as the first of `rows` rows."""
    _, shapes = jax.eval_shape(train_epoch, train_state, done)
    empty = jax.tree.map(lambda s: jnp.zeros((rows, *s.shape), s.dtype), shapes)

    def body(i: Array, carry: tuple[TrainState, Any]) -> tuple[TrainState, Any]:
        train_state, filled = carry
        train_state, row = train_epoch(train_state, done + 1 + i)
        return train_state, jax.tree.map(lambda all, one: all.at[i].set(one), filled, row)

    train_state, (costs, evaluations) = lax.fori_loop(0, count, body, (train_state, empty))
    return train_state, costs, evaluations


def as_pytree(evaluate: Evaluation | None) -> Partial:
    """Return a function of the train state as a pytree, which compiled programs accept."""
    return evaluate if isinstance(evaluate, Partial) else Partial(evaluate or _no_evaluation)


def _no_evaluation(train_state: TrainState) -> None:
    return None


def check_run(
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
    """Raise for data of different lengths and for numbers out of range; return N."""
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
            f"{function}: `epochs`, the number of the last epoch (those of earlier runs included), "
            f"must be at least 1 and at least `start`, {start}; got {epochs}."
        )
    if epochs_per_call < 1:
        raise ValueError(
            f"{function}: `epochs_per_call` must be at least 1; got {epochs_per_call}."
        )
    return n
