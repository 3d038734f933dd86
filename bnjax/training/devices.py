"""Data spread over devices, and the batches that they deal out.

Each device holds its share of the samples, and trains on its share of each batch: the batches are
those that one device would have dealt, whoever holds the samples. JAX's own meshes and collectives
do all of it, in one process or in several (`jax.distributed`).

(BL.2)  C = Σ_s w_s C_s / Σ_s w_s over the samples of all devices
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

Tree = TypeVar("Tree")


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Lay devices out in a row, for data-parallel training.

    Args:
        devices: Which; None for all, those of other processes included.

    Returns:
        A mesh with one axis, "data".

    Example:
        >>> print(data_mesh(jax.devices()[:1]).axis_names)
        ('data',)
    """
    return Mesh(np.array(jax.devices() if devices is None else devices), ("data",))


def local_rows(mesh: Mesh, samples: int) -> slice:
    """Tell which samples this process reads: those of its devices in the mesh.

    Args:
        mesh: The mesh; the devices of one process must be neighbours in it.
        samples: N, how many there are in all.

    Returns:
        A slice of the N samples; all of them in a single process.

    Raises:
        ValueError: The devices of this process are not neighbours, or not in the mesh.

    Example:
        >>> print(local_rows(data_mesh(jax.devices()[:1]), 5))
        slice(0, 5, None)
    """
    each = _rows_per_device(mesh, samples)
    here = jax.process_index()
    mine = [i for i, device in enumerate(mesh.devices.flat) if device.process_index == here]
    if not mine or mine != list(range(mine[0], mine[-1] + 1)):
        raise ValueError(
            "local_rows: `mesh` must hold this process's devices next to each other; got them at "
            f"{mine} of {mesh.size}. Use data_mesh(), which lays them out so."
        )
    return slice(min(mine[0] * each, samples), min((mine[-1] + 1) * each, samples))


def spread(mesh: Mesh, rows: ArrayLike, samples: int) -> Array:
    """Spread samples over the devices of a mesh, each holding its share of them.

    Args:
        mesh: The mesh; all of its axes are used.
        rows: This process's samples, those that `local_rows` tells; (n, ...). What has been
            spread before is handed back.
        samples: N, how many there are in all.

    Returns:
        One array over all devices and processes: the N samples, and zeros after them where the
        devices do not share N evenly.

    Raises:
        ValueError: There are other than as many rows as this process reads.

    Example:
        >>> x = spread(data_mesh(jax.devices()[:1]), np.ones((5, 2)), 5)
        >>> print(x.shape)
        (5, 2)
    """
    each = _rows_per_device(mesh, samples)
    if isinstance(rows, Array) and rows.sharding == by_row(mesh) and len(rows) == each * mesh.size:
        return rows
    host = np.asarray(rows)
    mine = local_rows(mesh, samples)
    if len(host) != mine.stop - mine.start:
        raise ValueError(
            f"spread: `rows` must be the {mine.stop - mine.start} of {samples} samples that "
            f"`local_rows` tells this process to read; got {len(host)}."
        )
    devices = sum(d.process_index == jax.process_index() for d in mesh.devices.flat)
    padding = ((0, each * devices - len(host)),) + ((0, 0),) * (host.ndim - 1)
    return jax.make_array_from_process_local_data(
        by_row(mesh), np.pad(host, padding), (each * mesh.size, *host.shape[1:])
    )


def by_row(mesh: Mesh) -> NamedSharding:
    """Shard the first axis over all axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def everywhere(mesh: Mesh) -> NamedSharding:
    """Hold the whole on each device."""
    return NamedSharding(mesh, PartitionSpec())


def copy_everywhere(mesh: Mesh, tree: Tree) -> Tree:
    """Copy arrays to each device of a mesh, a train state say; every process brings the same.

    Args:
        mesh: The devices.
        tree: A pytree of arrays and keys; what lies on the mesh already stays as it is.

    Returns:
        The same tree, whole on each device.

    Example:
        >>> both = copy_everywhere(data_mesh(), {"W": np.ones((2, 3))})
        >>> print(both["W"].sharding.is_fully_replicated)
        True
    """

    def place(a: ArrayLike) -> Array:
        if isinstance(a, Array) and not a.is_fully_addressable:
            return a  # it comes from the mesh
        if isinstance(a, Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(a))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(a))
        # device_put refuses devices of other processes
        return jax.make_array_from_process_local_data(everywhere(mesh), np.asarray(a))

    return jax.tree.map(place, tree)


def deal(indices: Array, axis_name: tuple[str, ...], *arrays: Array) -> tuple[Array, ...]:
    """Hand each device its share of a batch, whichever device holds the samples.

    Args:
        indices: The whole batch's, the same on all devices; −1 for an empty place. Their number
            is a multiple of the devices'.
        axis_name: The mesh axes.
        *arrays: The samples this device holds, (n, ...) each.

    Returns:
        The places that are this device's, as indices, and for each array their rows; zeros in
        empty places. One reduce-scatter for each array: what travels is the batch.
    """
    devices, device = lax.axis_size(axis_name), lax.axis_index(axis_name)
    places = len(indices) // devices
    mine = lax.dynamic_slice(indices, (device * places,), (places,))

    def rows(a: Array) -> Array:
        a = a.astype(jnp.uint8) if a.dtype == jnp.bool_ else a
        here = indices - device * len(a)
        held = (here >= 0) & (here < len(a))  # on no device, where the place is empty
        found = a[jnp.where(held, here, 0)]
        found = jnp.where(lax.expand_dims(held, range(1, a.ndim)), found, 0)
        return lax.psum_scatter(found, axis_name, scatter_dimension=0, tiled=True)

    return mine, *(rows(a) for a in arrays)


def _rows_per_device(mesh: Mesh, samples: int) -> int:
    return -(-samples // mesh.size)
