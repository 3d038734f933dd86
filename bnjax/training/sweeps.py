"""Many networks trained at once: seeds by hyperparameters.

(BL.6)  θ ← θ − η ∂C/∂θ, for each η and each seed as it would be alone

Source: S3, its claim that normalization allows much higher learning rates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from bnjax.network import Network
from bnjax.training import steps
from bnjax.training.epochs import pure_epoch
from bnjax.training.runs import Evaluate, as_argument, check, pure_run
from bnjax.training.steps import TrainState

_ROOM = 0.8  # of the device's free memory: the allocator's own waste, and other programs


class Sweep(NamedTuple):
    """What a grid of networks did, H hyperparameters by S seeds; on the host.

    Attributes:
        costs: One per batch, (H, S, epochs, steps).
        evaluations: What `evaluate` found after each epoch, (H, S, epochs, ...); None without.
        diverged: The first epoch with a cost that is not finite, counted from 1; 0 for a network
            that did not diverge; (H, S) int.
        train_state: After the last epoch, H and S the leading axes of every leaf.
        at_once: How many networks were trained side by side; 1: one after the other.
    """

    costs: np.ndarray
    evaluations: Any
    diverged: np.ndarray
    train_state: TrainState
    at_once: int


def sweep(
    net: Network,
    make_optimizer: Callable[[Any], optax.GradientTransformation],
    hyperparameters: Any,
    keys: Array,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    epochs: int,
    batch_size: int,
    gradient: str = "rule",
    evaluate: Evaluate | None = None,
    at_once: int | None = None,
    epochs_per_call: int = 1,
    report: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Train one network for each hyperparameter and each seed, each as it would be alone.

    The network of key k starts as `init(net, optimizer, k)`, and its batches are dealt as by
    `fit(..., key=jax.random.fold_in(k, 1))`: networks of one seed share start and batches.

    Args:
        net: The network. Its sizes, ε and d shape the program, or are constants in it: for a
            sweep over these, sweep each `dataclasses.replace(net, eps=...)`.
        make_optimizer: One row of `hyperparameters` -> an optimizer of optax; `optax.sgd` if they
            are learning rates. It gets traced numbers.
        hyperparameters: An array with H rows, or a pytree of such.
        keys: `jax.random.key`s, (S,).
        x: As in `fit`.
        targets: As in `fit`.
        epochs: How many.
        batch_size: As in `fit`.
        gradient: As in `make_step`.
        evaluate: As in `fit`.
        at_once: How many networks are trained side by side, by one `vmap`; it bounds the memory.
            None: on a CPU 1, one after the other, as its products of small matrices gain nothing
            from being batched; elsewhere as many as fit into the device's free memory, as the
            compiler counts it.
        epochs_per_call: How many epochs go by between two reports.
        report: None, or called with (done, all): epochs of single networks.

    Returns:
        A `Sweep`.

    Raises:
        ValueError: As in `fit`; or the grid is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jax.random.normal(jax.random.key(1), (10, 2))
        >>> rates, keys = jnp.array([0.1, 1.0]), jax.random.split(jax.random.key(0), 3)
        >>> found = sweep(Network((2, 4, 1)), optax.sgd, rates, keys, x, x[:, :1] > 0, epochs=5,
        ...               batch_size=5)
        >>> print(found.costs.shape, found.diverged.max(), found.train_state.params[0].W.shape)
        (2, 3, 5, 2) 0 (2, 3, 2, 4)
    """
    check(
        "sweep", x, targets, batch_size=batch_size, epochs=epochs, epochs_per_call=epochs_per_call
    )
    rows, seeds = len(jax.tree.leaves(hyperparameters)[0]), len(keys)
    networks = rows * seeds
    if not networks or (at_once is not None and at_once < 1):
        raise ValueError(
            "sweep: `hyperparameters`, `keys` and `at_once` must be at least one each; got "
            f"{rows}, {seeds} and {at_once}."
        )
    x, targets = jax.device_put((x, targets))
    rest = x, targets, np.int32(0), np.int32(1), as_argument(evaluate)

    def begin(hyperparameter: Any, key: Array) -> TrainState:
        return steps.init(net, make_optimizer(hyperparameter), key)

    def more(train_state, hyperparameter, key, x, targets, done, count, evaluate):
        optimizer = make_optimizer(hyperparameter)
        epoch = pure_epoch(net, optimizer, gradient=gradient, mesh=None, sync_statistics=True)
        run = pure_run(epoch, len(x), batch_size, epochs_per_call)
        order_key = jax.random.fold_in(key, 1)
        return run(train_state, x, targets, order_key, done, count, evaluate)

    def members(numbers: np.ndarray) -> tuple[Any, Array]:
        """Take the hyperparameters and keys of some networks, counted row by row."""
        row, seed = np.divmod(numbers, seeds)
        return jax.tree.map(lambda a: np.asarray(a)[row], hyperparameters), keys[seed]

    def compiled(size: int) -> tuple[Callable[..., TrainState], jax.stages.Compiled]:
        some = members(np.arange(size))
        start = jax.jit(_side_by_side(begin, size, 2))
        run = jax.jit(_side_by_side(more, size, 3), donate_argnums=0)
        return start, run.lower(jax.eval_shape(start, *some), *some, *rest).compile()

    size = at_once or (1 if jax.default_backend() == "cpu" else networks)
    size = _even(networks, size)
    start, run = compiled(size)
    if at_once is None and (fitting := _fitting(run, size)) < size:
        size = _even(networks, fitting)
        start, run = compiled(size)

    parts = []
    for first in range(0, networks, size):
        present = min(size, networks - first)
        # the last part may have places left: its last network is trained there once more
        some = members(np.minimum(np.arange(first, first + size), networks - 1))
        train_state, seen = start(*some), []
        for done in range(0, epochs, epochs_per_call):
            count = min(epochs_per_call, epochs - done)
            numbers = np.int32(done), np.int32(count)
            train_state, *lines = run(train_state, *some, x, targets, *numbers, rest[-1])
            seen.append(jax.tree.map(lambda a, n=count: np.asarray(a)[:, :n], lines))
            if report is not None:
                report(first * epochs + present * (done + count), networks * epochs)
        lines = jax.tree.map(lambda *a: np.concatenate(a, axis=1), *seen)
        parts.append(jax.tree.map(lambda a, n=present: np.asarray(a)[:n], (train_state, *lines)))
    train_state, costs, evaluations = jax.tree.map(
        lambda *a: np.concatenate(a).reshape(rows, seeds, *a[0].shape[1:]), *parts
    )
    broken = ~np.isfinite(costs).all(axis=3)
    diverged = np.where(broken.any(axis=2), broken.argmax(axis=2) + 1, 0)
    return Sweep(costs, evaluations, diverged, train_state, size)


def _side_by_side(f: Callable, size: int, mapped: int) -> Callable:
    """Map f over the first axis of its first arguments: by vmap, but for a single network."""
    if size > 1:

        def many(*args: Any) -> Any:
            return jax.vmap(f, in_axes=(0,) * mapped + (None,) * (len(args) - mapped))(*args)

        return many

    def alone(*args: Any) -> Any:
        first = jax.tree.map(lambda a: a[0], args[:mapped])
        return jax.tree.map(lambda a: a[None], f(*first, *args[mapped:]))

    return alone


def _even(networks: int, at_once: int) -> int:
    """Share networks out among as few parts as `at_once` allows, so that no part is half empty."""
    parts = -(-networks // at_once)
    return -(-networks // parts)


def _fitting(run: jax.stages.Compiled, networks: int) -> int:
    """Tell how many networks fit into the free memory, when so many need what `run` needs.

    All of them where the device does not say.
    """
    memory, needs = jax.devices()[0].memory_stats(), run.memory_analysis()
    if memory is None or needs is None or "bytes_limit" not in memory:
        return networks
    free = _ROOM * (memory["bytes_limit"] - memory["bytes_in_use"])
    needed = needs.temp_size_in_bytes + needs.argument_size_in_bytes
    return max(1, min(networks, int(networks * free / needed)))
