"""Epochs compiled into one program each: a step per mini-batch (BL.6), each sample used once.

Source: S3 (the three regimes of gradient descent).
"""

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from bnjax import network
from bnjax.network import Network
from bnjax.training import devices
from bnjax.training.steps import Step, StepConfig, TrainState, build_step

Epoch = Callable[[TrainState, Array, Array, Array], tuple[TrainState, Array]]


@partial(jax.jit, static_argnums=(1, 2))
def shuffle(key: Array, samples: int, batch_size: int) -> Array:
    """Return a random partition of the samples into mini-batches.

    Args:
        key: A `jax.random.key`.
        samples: N, the number of samples.
        batch_size: The number of samples per batch.

    Returns:
        Indices of samples, (⌈N / batch_size⌉, batch_size) int32. Each sample occurs once; the last
        batch is filled up with −1.

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
    """Return the function that trains for one epoch, compiled into one program.

    Args:
        net: The network.
        optimizer: As in `make_step`.
        gradient: As in `make_step`.
        mesh: None for one device, or the devices among which the data are divided, as `spread`
            does it; each trains on its part of every batch. The batches are the same as on one
            device, and so are the results, up to rounding.
        sync_statistics: As in `make_step`.

    Returns:
        epoch(train_state, order, x, targets) -> (train_state, costs): `order` as returned by
        `shuffle`, x (N, n_in) and targets (N, n_out) the whole data; costs (steps,), one per
        batch. Full batches are scanned; a last one that is not full follows, masked instead of
        dropped. The function is jitted and traced once. `train_state` is donated: use the returned
        one.

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
    axis_name = devices.mesh_axes(mesh)
    config = StepConfig("training.make_epoch", net, gradient, axis_name, sync_statistics)
    return _jit_epoch(config, optimizer, mesh)


@lru_cache(maxsize=16)
def _jit_epoch(
    config: StepConfig, optimizer: optax.GradientTransformation, mesh: Mesh | None
) -> jax.stages.Wrapped:
    """Return the jitted epoch, the same function for the same arguments: it is compiled once."""
    return jax.jit(pure_epoch(config, optimizer, mesh), donate_argnums=0)


def pure_epoch(
    config: StepConfig, optimizer: optax.GradientTransformation, mesh: Mesh | None
) -> Epoch:
    """Return the epoch that `make_epoch` documents, not jitted."""
    net, step = config.net, build_step(config, optimizer)

    def merged_step(merged: TrainState, *batch: Array | None) -> tuple[TrainState, Array]:
        train_state, cost = step(_split(net, merged), *batch)
        return _merge(net, train_state), cost

    scan_steps = _single_device_epoch if mesh is None else partial(_data_parallel_epoch, mesh)
    merged_epoch = scan_steps(merged_step)

    def epoch(
        train_state: TrainState, order: Array, x: Array, targets: Array
    ) -> tuple[TrainState, Array]:
        network.check_params(
            config.function, net, train_state.params, train_state.state, train=True
        )
        merged, costs = merged_epoch(_merge(net, train_state), order, x, targets)
        return _split(net, merged), costs

    return epoch


def _merge(net: Network, train_state: TrainState) -> TrainState:
    return train_state._replace(state=network.merge_statistics(net, train_state.state))


def _split(net: Network, merged: TrainState) -> TrainState:
    return merged._replace(state=network.split_statistics(net, merged.state))


def _single_device_epoch(step: Step) -> Epoch:
    def epoch(
        train_state: TrainState, order: Array, x: Array, targets: Array
    ) -> tuple[TrainState, Array]:
        def train(train_state: TrainState, indices: Array) -> tuple[TrainState, Array]:
            return step(train_state, x[indices], targets[indices])

        if order.size <= x.shape[0]:
            return lax.scan(train, train_state, order)
        # a mask makes a step a fifth slower: only the batch that needs one gets it
        train_state, costs = lax.scan(train, train_state, order[:-1])
        last = order[-1]
        train_state, cost = step(train_state, x[last], targets[last], last >= 0)
        return train_state, jnp.append(costs, cost)

    return epoch


def _data_parallel_epoch(mesh: Mesh, step: Step) -> Epoch:
    names = tuple(mesh.axis_names)

    def epoch(
        train_state: TrainState, order: Array, x: Array, targets: Array
    ) -> tuple[TrainState, Array]:
        unfilled = -order.shape[1] % mesh.size
        padded = jnp.pad(order, ((0, 0), (0, unfilled)), constant_values=-1)
        return jax.shard_map(
            partial(_device_epoch, step, names, bool(unfilled)),
            mesh=mesh,
            in_specs=(P(), P(), P(names), P(names)),
            out_specs=P(),
        )(train_state, padded, x, targets)

    return epoch


def _device_epoch(
    step: Step,
    names: tuple[str, ...],
    mask_all: bool,
    train_state: TrainState,
    order: Array,
    x: Array,
    targets: Array,
) -> tuple[TrainState, Array]:
    """Train on this device's part of each batch; x and targets are the rows it holds."""

    def train(
        train_state: TrainState, indices: Array, masked: bool = mask_all
    ) -> tuple[TrainState, Array]:
        mine, *batch = devices.scatter_batch(indices, names, x, targets)
        return step(train_state, *batch, mine >= 0 if masked else None)

    if mask_all:
        return lax.scan(train, train_state, order)
    train_state, costs = lax.scan(train, train_state, order[:-1])
    # masked in any case: x may end in padding, so its shape does not say whether the batch is full
    train_state, cost = train(train_state, order[-1], masked=True)
    return train_state, jnp.append(costs, cost)
