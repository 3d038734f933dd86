"""Sums across devices: one gather forward, one psum backward, and who varies over what.

Under `shard_map` with types checked (check_vma), a value that is equal on all devices of a mesh
axis is typed so, and its cotangent is the whole sum over them; unchecked, each device holds its
own part. `resolve` settles at the boundary what the rules need to know of this.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

Names = str | tuple[str, ...] | None
Groups = tuple[tuple[int, ...], ...]
Tree = TypeVar("Tree")


class Axes(NamedTuple):
    """Where sums go beyond this device. Static.

    Attributes:
        names: The mesh or vmapped axes that are summed over.
        groups: `axis_index_groups`, or None.
        copies: How many devices hold equal copies of x: they only count.
        checked: Whether shard_map checks the types of what varies.
    """

    names: tuple[str, ...] = ()
    groups: Groups | None = None
    copies: int = 1
    checked: bool = False


def varying(*arrays: Array | None) -> frozenset[str]:
    """Tell the mesh axes that arrays vary over, by type; none where types are not checked."""
    types = (jax.typeof(a) for a in arrays if a is not None)
    return frozenset().union(*(t.manual_axis_type.varying for t in types))


def to_varying(a: Array, axes: frozenset[str]) -> Array:
    """Let `a` vary over `axes` too. The transpose is one psum over those that were missing."""
    missing = tuple(sorted(axes - varying(a)))
    return lax.pcast(a, missing, to="varying") if missing else a


def resolve(
    function: str,
    x: Array,
    weights: Array | None,
    gamma: Array | None,
    beta: Array | None,
    axis_name: Names,
    groups: Groups | None,
) -> tuple[Array, Array | None, Array | None, Axes]:
    """Settle what `axis_name` means here.

    Returns:
        x, gamma and beta with types that go together, and the axes to sum over.

    Raises:
        ValueError: JAX has no such collective here, or the groups do not fit.
    """
    names = () if axis_name is None else (axis_name,) if isinstance(axis_name, str) else axis_name
    mesh = jax.sharding.get_abstract_mesh().manual_axes
    checked = bool(mesh) and bool(varying(lax.axis_index(mesh)))
    if checked and _vmapped(names):
        raise ValueError(
            f"{function}: `axis_name` must not name an axis of vmap inside shard_map with "
            f"check_vma=True, over which JAX has no collectives; got {axis_name!r}. Use "
            "shard_map(..., check_vma=False)."
        )
    if groups is not None:
        groups = _check_groups(function, names, groups, checked)
    if not checked:
        return x, gamma, beta, Axes(tuple(names), groups)
    vary = varying(x, weights, gamma, beta)
    x = to_varying(x, vary)
    summed = tuple(name for name in names if name in vary)
    copies = int(lax.axis_size(tuple(name for name in names if name not in vary)))
    # not over `summed`, where the rule's own psum makes γ̄ and β̄ whole; both or none, so that
    # one psum carries both
    if not varying(gamma, beta) & set(summed):
        vary -= set(summed)
    gamma, beta = (v if v is None else to_varying(v, vary) for v in (gamma, beta))
    return x, gamma, beta, Axes(summed, None, copies, True)


def psum(a: Array, axes: Axes) -> Array:
    """Sum over the axes; the identity where there are none."""
    return lax.psum(a, axes.names, axis_index_groups=axes.groups) if axes.names else a


def psum_together(vectors: tuple[Array, ...], axes: Axes) -> tuple[Array, ...]:
    """Sum vectors of one shape over the axes, in one psum; stacked only where they travel."""
    return tuple(psum(jnp.stack(vectors), axes)) if axes.names else vectors


def gather(a: Array, axes: Axes) -> Array:
    """Collect what each device holds, along a new leading axis: one all_gather over the mesh."""
    vmapped = _vmapped(axes.names)
    mesh = tuple(name for name in axes.names if name not in vmapped)
    # "invarying", else the moments cannot leave shard_map through P(); unchecked, that has a
    # wrong transpose in JAX 0.10
    to = "invarying" if axes.checked else "varying"
    out = a[None]
    # JAX refuses a tuple that holds a vmapped axis
    for name in ((mesh,) if mesh else ()) + tuple((name,) for name in vmapped):
        out = lax.all_gather(out, name, axis_index_groups=axes.groups, to=to, tiled=True)
    return out


def one_per_device(tree: Tree, axes: Axes) -> Tree:
    """Return the tree, but mapped over vmapped axes.

    What is common to all of a vmap gets one whole cotangent there, which psum would multiply.
    """
    names = _vmapped(axes.names)
    if not names:
        return tree
    mine = lax.axis_index(names) >= 0
    return jax.tree.map(lambda a: jnp.where(mine, a, a), tree)


def _vmapped(names: tuple[str, ...]) -> tuple[str, ...]:
    mesh = jax.sharding.get_abstract_mesh().manual_axes
    return tuple(name for name in names if name not in mesh)


def _check_groups(function: str, names: tuple[str, ...], groups: Groups, checked: bool) -> Groups:
    if not names:
        raise ValueError(f"{function}: `axis_index_groups` needs `axis_name`; got none.")
    if checked or _vmapped(names):
        raise ValueError(
            f"{function}: `axis_index_groups` works under pmap and shard_map(check_vma=False) "
            "only, as JAX's collectives do. Split the mesh axis in two and name one of them."
        )
    size = int(lax.axis_size(names))
    members = sorted(member for group in groups for member in group)
    if members != list(range(size)) or len({len(group) for group in groups}) != 1:
        raise ValueError(
            f"{function}: `axis_index_groups` must hold each of 0..{size - 1} once, in groups of "
            f"one size; got {groups}."
        )
    return tuple(tuple(group) for group in groups)
