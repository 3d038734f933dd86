"""Epochs that are one compiled program.

(BL.6)  one step for each mini-batch, each sample once

Source: S3 (the three regimes of gradient descent).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from bnjax.network import Network
from bnjax.training import devices
from bnjax.training.steps import Step, TrainState, make_step

Epoch = Callable[[TrainState, Array, Array, Array], tuple[TrainState, Array]]


@partial(jax.jit, static_argnums=(1, 2))
def shuffle(key: Array, samples: int, batch_size: int) -> Array:
    """Deal the samples into mini-batches, in random order, each exactly once.

    Args:
        key: A `jax.random.key`.
        samples: N, how many there are.
        batch_size: How many a batch holds.

    Returns:
        Indices, (⌈N / batch_size⌉, batch_size) int32. Places of the last batch that stay empty
        hold −1.

    Example:
        >>> order = shuffle(jax.random.key(0), 5, 2)
        >>> print(order.shape, sorted(order.ravel().tolist()))
        (3, 2) [-1, 0, 1, 2, 3, 4]
    """
    order = jax.random.permutation(key, samples).astype(jnp.int32)
    steps = -(-samples // batch_size)
    order = jnp.pad(order, (0, steps * batch_size - samples), constant_values=-1)
    return order.reshape(steps, batch_size)


def make_epoch(
    net: Network,
    optimizer: optax.GradientTransformation,
    *,
    gradient: str = "rule",
    mesh: Mesh | None = None,
    sync_statistics: bool = True,
) -> jax.stages.Wrapped:
    """Make the function that trains for one epoch: one compiled program, one trace.

    Args:
        net: The network.
        optimizer: As in `make_step`.
        gradient: As in `make_step`.
        mesh: None for one device; or devices that hold the data in shares, as `spread` hands them
            out, and train on their share of each batch. The batches are those of one device, and
            the results too, but for rounding.
        sync_statistics: As in `make_step`.

    Returns:
        epoch(train_state, order, x, targets) -> (train_state, costs): order as `shuffle` deals
        it, x (N, n_in) and targets (N, n_out) the whole data; costs (steps,), one per batch. Full
        batches are scanned; a last one with empty places follows them, masked, not dropped. It is
        jitted; `train_state` is donated: use the returned one.

    Raises:
        ValueError: As in `make_step`.

    Example:
        >>> from bnjax import training
        >>> net, optimizer = Network((2, 4, 1)), optax.sgd(0.5)
        >>> epoch = make_epoch(net, optimizer)
        >>> state = training.init(net, optimizer, jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (10, 2))
        >>> state, costs = epoch(state, shuffle(jax.random.key(2), 10, 4), x, x[:, :1] > 0)
        >>> print(state.step, costs.shape)
        3 (3,)
    """
    epoch = pure_epoch(
        net, optimizer, gradient=gradient, mesh=mesh, sync_statistics=sync_statistics
    )
    return jax.jit(epoch, donate_argnums=0)


def pure_epoch(
    net: Network,
    optimizer: optax.GradientTransformation,
    *,
    gradient: str,
    mesh: Mesh | None,
    sync_statistics: bool,
) -> Epoch:
    """Make the epoch that `make_epoch` jits."""
    if mesh is None:
        return _on_one_device(make_step(net, optimizer, gradient=gradient))
    names = tuple(mesh.axis_names)
    step = make_step(
        net, optimizer, gradient=gradient, axis_name=names, sync_statistics=sync_statistics
    )
    return _across(step, mesh, names)


def _on_one_device(step: Step) -> Epoch:
    def epoch(
        train_state: TrainState, order: Array, x: Array, targets: Array
    ) -> tuple[TrainState, Array]:
        def train(train_state: TrainState, indices: Array) -> tuple[TrainState, Array]:
            return step(train_state, x[indices], targets[indices])

        if order.size <= x.shape[0]:
            return lax.scan(train, train_state, order)
        # a mask costs a fifth of a step: only the batch that needs one has it
        train_state, costs = lax.scan(train, train_state, order[:-1])
        last = order[-1]
        train_state, cost = step(train_state, x[last], targets[last], last >= 0)
        return train_state, jnp.append(costs, cost)

    return epoch


def _across(step: Step, mesh: Mesh, names: tuple[str, ...]) -> Epoch:
    def epoch(
        train_state: TrainState, order: Array, x: Array, targets: Array
    ) -> tuple[TrainState, Array]:
        unfilled = -order.shape[1] % mesh.size
        padded = jnp.pad(order, ((0, 0), (0, unfilled)), constant_values=-1)

        def local(
            train_state: TrainState, order: Array, x: Array, targets: Array
        ) -> tuple[TrainState, Array]:
            def train(
                train_state: TrainState, indices: Array, masked: bool = bool(unfilled)
            ) -> tuple[TrainState, Array]:
                mine, *batch = devices.deal(indices, names, x, targets)
                return step(train_state, *batch, mine >= 0 if masked else None)

            if unfilled:
                return lax.scan(train, train_state, order)
            train_state, costs = lax.scan(train, train_state, order[:-1])
            # how many samples there are, x does not tell: rows of zeros may follow them
            train_state, cost = train(train_state, order[-1], masked=True)
            return train_state, jnp.append(costs, cost)

        return jax.shard_map(
            local, mesh=mesh, in_specs=(P(), P(), P(names), P(names)), out_specs=P()
        )(train_state, padded, x, targets)

    return epoch
