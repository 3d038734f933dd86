"""Data spread over devices, and mini-batches drawn from them.

Each device holds a part of the samples and trains on a part of each batch. The batches are the
same as on one device, wherever their samples are held, and the cost of one is the weighted mean
over the samples of all devices, Σ_s w_s C_s / Σ_s w_s (BL.2). The devices may belong to one
process or to several (`jax.distributed`).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from bnjax.collectives import Tree


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh of devices for data-parallel training.

    Args:
        devices: The devices; None for all, including those of other processes.

    Returns:
        A mesh with the single axis "data".

    Example:
        >>> print(data_mesh(jax.devices()[:1]).axis_names)
        ('data',)
    """
    return Mesh(np.array(jax.devices() if devices is None else devices), ("data",))


def local_rows(mesh: Mesh, samples: int) -> slice:
    """Return which samples this process has to load: those for its devices in the mesh.

    Args:
        mesh: The mesh; the devices of one process must be next to each other in it.
        samples: N, the number of samples over all processes.

    Returns:
        A slice of the N samples; all of them where there is a single process.

    Raises:
        ValueError: The devices of this process are not next to each other, or not in the mesh.

    Example:
        >>> print(local_rows(data_mesh(jax.devices()[:1]), 5))
        slice(0, 5, None)
    """
    each = _rows_per_device(mesh, samples)
    here = jax.process_index()
    mine = [i for i, device in enumerate(mesh.devices.flat) if device.process_index == here]
    if not mine or mine != list(range(mine[0], mine[-1] + 1)):
        raise ValueError(
            "training.local_rows: `mesh` must hold the devices of this process next to each "
            f"other; got them at positions {mine} of {mesh.size}. Use training.data_mesh(), which "
            "orders them by process."
        )
    return slice(min(mine[0] * each, samples), min((mine[-1] + 1) * each, samples))


def spread(mesh: Mesh, rows: ArrayLike, samples: int) -> Array:
    """Spread samples over the devices of a mesh, along the first axis.

    Args:
        mesh: The mesh; all of its axes are used.
        rows: The samples of this process, (n, ...), as selected by `local_rows`. An array that
            has been spread already is returned as it is.
        samples: N, the number of samples over all processes.

    Returns:
        One array over all devices and processes: the N samples, followed by zeros where N is not
        a multiple of the number of devices.

    Raises:
        ValueError: The number of rows is not that of `local_rows`.

    Example:
        >>> x = spread(data_mesh(jax.devices()[:1]), np.ones((5, 2)), 5)
        >>> print(x.shape)
        (5, 2)
    """
    each = _rows_per_device(mesh, samples)
    if (
        isinstance(rows, Array)
        and rows.sharding == row_sharding(mesh)
        and len(rows) == each * mesh.size
    ):
        return rows
    host = np.asarray(jax.device_get(rows))
    mine = local_rows(mesh, samples)
    if len(host) != mine.stop - mine.start:
        raise ValueError(
            f"training.spread: `rows` must be the {mine.stop - mine.start} of {samples} samples "
            f"that `local_rows` selects for this process; got {len(host)}."
        )
    devices = sum(d.process_index == jax.process_index() for d in mesh.devices.flat)
    padding = ((0, each * devices - len(host)),) + ((0, 0),) * (host.ndim - 1)
    return jax.make_array_from_process_local_data(
        row_sharding(mesh), np.pad(host, padding), (each * mesh.size, *host.shape[1:])
    )


def mesh_axes(mesh: Mesh | None) -> tuple[str, ...] | None:
    """Return the mesh axes as `axis_name` of `make_step`; None for one device."""
    return None if mesh is None else tuple(mesh.axis_names)


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of the first axis over all axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that holds the whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def copy_everywhere(mesh: Mesh, tree: Tree) -> Tree:
    """Copy arrays, for instance a train state, to each device of a mesh.

    Args:
        mesh: The devices.
        tree: A pytree of arrays and keys, the same in every process. Arrays over several processes
            are on the mesh already, and stay as they are.

    Returns:
        The same tree, with a whole copy on each device.

    Example:
        >>> both = copy_everywhere(data_mesh(), {"W": np.ones((2, 3))})
        >>> print(both["W"].sharding.is_fully_replicated)
        True
    """

    def place(a: ArrayLike) -> Array:
        if isinstance(a, Array) and not a.is_fully_addressable:
            return a  # on the mesh already
        if isinstance(a, Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(a))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(a))
        # device_put does not accept devices of other processes
        return jax.make_array_from_process_local_data(
            replicated(mesh), np.asarray(jax.device_get(a))
        )

    return jax.tree.map(place, tree)


def copy_to(mesh: Mesh | None, tree: Tree) -> Tree:
    """Copy arrays to each device of a mesh, or to the one device where there is none."""
    return jax.device_put(tree) if mesh is None else copy_everywhere(mesh, tree)


def scatter_batch(indices: Array, axis_name: tuple[str, ...], *arrays: Array) -> tuple[Array, ...]:
    """Distribute a batch over the devices, whichever of them holds its samples.

    Args:
        indices: The samples of the whole batch, the same on all devices; −1 for padding. Their
            number is a multiple of the number of devices.
        axis_name: The mesh axes.
        *arrays: The samples that this device holds, (n, ...) each.

    Returns:
        The indices of this device's part of the batch, and for each array their rows, zeros for
        padding. One reduce-scatter per array: only the batch is communicated.
    """
    devices, device = lax.axis_size(axis_name), lax.axis_index(axis_name)
    size = len(indices) // devices
    mine = lax.dynamic_slice(indices, (device * size,), (size,))

    def rows(a: Array) -> Array:
        a = a.astype(jnp.uint8) if a.dtype == jnp.bool_ else a
        here = indices - device * len(a)
        held = (here >= 0) & (here < len(a))  # on no device for padding
        found = a[jnp.where(held, here, 0)]
        found = jnp.where(lax.expand_dims(held, range(1, a.ndim)), found, 0)
        return lax.psum_scatter(found, axis_name, scatter_dimension=0, tiled=True)

    return mine, *(rows(a) for a in arrays)


def _rows_per_device(mesh: Mesh, samples: int) -> int:
    return -(-samples // mesh.size)
