"""Sums across devices: one all_gather forward, one psum backward, and what varies over which axis.

Under `shard_map` with types checked (check_vma), a value that is equal on all devices of a mesh
axis is typed so, and its cotangent is the whole sum over them; unchecked, each device holds its
own part. `resolve` settles at the boundary what the rules need to know of this.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

Name = Hashable
Names = Name | tuple[Name, ...] | None
Groups = tuple[tuple[int, ...], ...]
Tree = TypeVar("Tree")
Vectors = TypeVar("Vectors", bound=tuple[Array, ...])  # (channels,) each


class Axes(NamedTuple):
    """Where sums go beyond this device. Static.

    Attributes:
        names: The mesh or vmapped axes that are summed over.
        groups: `axis_index_groups`, or None.
        copies: How many devices hold equal copies of x: they only count.
        checked: Whether shard_map checks the types of what varies.
    """

    names: tuple[Name, ...] = ()
    groups: Groups | None = None
    copies: int = 1
    checked: bool = False


def varying(*arrays: Array | None) -> frozenset[Name]:
    """Return the mesh axes that arrays vary over, by type; none where types are not checked."""
    types = (jax.typeof(a) for a in arrays if a is not None)
    return frozenset().union(*(t.manual_axis_type.varying for t in types))


def to_varying(a: Array, axes: frozenset[Name]) -> Array:
    """Cast `a` to vary over `axes` too; the transpose is one psum over those that were missing."""
    missing = tuple(sorted(axes - varying(a), key=str))
    return lax.pcast(a, missing, to="varying") if missing else a


def resolve(
    function: str,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    constants: tuple[Array | None, ...],
    axis_name: Names,
    groups: Groups | None,
) -> tuple[Array, Array | None, Array | None, Axes]:
    """Resolve what `axis_name` means under the transforms around the call.

    `constants` are what else the rule reads, weights say.

    Returns:
        x, gamma and beta with types that go together, and the axes to sum over.

    Raises:
        ValueError: JAX has no such collective here, or the groups do not fit.
    """
    names, checked = _names(axis_name), _types_are_checked()
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
    vary = varying(x, gamma, beta, *constants)
    x = to_varying(x, vary)
    summed = tuple(name for name in names if name in vary)
    copies = int(lax.axis_size(tuple(name for name in names if name not in vary)))
    # not over `summed`, where the rule's own psum makes γ̄ and β̄ whole; both or none, so that
    # one psum carries both
    if not varying(gamma, beta) & set(summed):
        vary -= set(summed)
    gamma, beta = (v if v is None else to_varying(v, vary) for v in (gamma, beta))
    return x, gamma, beta, Axes(summed, None, copies, True)


def as_device_local(tree: Tree, axis_name: Names) -> Tree:
    """Return arrays that are equal on all devices, typed as each device's own.

    The gradient in them is then that of this device's part of the cost, everywhere. Without this,
    JAX would sum it over the devices under `shard_map` with types checked (check_vma=True), where
    the arrays are typed as equal, but not with check_vma=False and not under `vmap`.
    """
    axes = frozenset(_names(axis_name)) & {*_mesh_axes()}
    return jax.tree.map(lambda a: to_varying(a, axes), tree) if _types_are_checked() else tree


def sum_pulled_back(
    sums: tuple[Vectors, Array],
    coefficients: Callable[[Vectors], Vectors],
    moments_bar: Vectors,
    channel_params: tuple[Array | None, ...],
    axes: Axes,
) -> tuple[tuple[Vectors, Array], Vectors]:
    """Add up what a pull-back sums on each device, by at most one psum.

    Every device's x̄ needs the coefficients of the whole batch. What travels depends on who holds
    what:

    - Types are checked, and γ and β are equal on all devices: so must their cotangents be, whole
      sums. The sums travel, and every device computes the same coefficients from them.
    - Types are checked, and γ or β differs between devices: γ̄ and β̄ are those of this device's
      samples. The coefficients travel, each computed with its device's own γ.
    - Types are not checked: every device has a part of each cotangent, of the moments' too. The
      coefficients travel with those parts added, and γ̄ and β̄ stay parts.

    So does JAX's own derivative of a psum in each case.

    Args:
        sums: This device's inner products of ȳ⁺ with 1 and a (x − μ), and β̄; (channels,) each.
        coefficients: The linear map from the inner products to c₁ and c₂ (`kernel.coefficients`).
        moments_bar: μ̄ and 2 σ̄²/a, which the moments' cotangents add to c₁ and c₂ (D.7).
        channel_params: γ and β.
        axes: Where sums go.

    Returns:
        The sums, from which γ̄ and β̄ are read, and c₁ and c₂ with the moments' share.
    """
    if not axes.checked:
        parts = _add(coefficients(sums[0]), moments_bar)
        return sums, sum_vectors(parts, axes)
    if not varying(*channel_params) & set(axes.names):
        sums = sum_vectors(sums, axes)
        return sums, _add(coefficients(sums[0]), moments_bar)
    return sums, _add(sum_vectors(coefficients(sums[0]), axes), moments_bar)


def sum_pushed_forward(
    inner: tuple[Array, Array], channel_dots: Sequence[Array], x: Array, axes: Axes
) -> tuple[Array, Array]:
    """Add up what a push-forward sums on each device, by one psum whose transpose is one, too.

    Args:
        inner: This device's inner products of p ẋ with 1 and a (x − μ); (channels,) each.
        channel_dots: γ̇ and β̇.
        x: The batch, whose type tells over which axes ẏ varies.
        axes: Where sums go.

    Returns:
        The two sums with the type of the moments, (2, channels); and the two sums, γ̇ and β̇ with
        the type of x, (4, channels). The four are cast together: the transpose of a cast is a psum.
    """
    sums = _psum(jnp.stack(inner), axes)
    both = jnp.concatenate([sums, jnp.stack(tuple(channel_dots))])
    return sums, to_varying(both, varying(x))


def gather(a: Array, axes: Axes) -> Array:
    """Stack what each device holds along a new leading axis: one all_gather over the mesh."""
    mesh, vmapped = (part.names for part in split_vmapped(axes))
    # "invarying", else the moments cannot leave shard_map through P(); unchecked, that has a
    # wrong transpose in JAX 0.10
    to = "invarying" if axes.checked else "varying"
    out = a[None]
    # JAX refuses a tuple that holds a vmapped axis
    for name in ((mesh,) if mesh else ()) + tuple((name,) for name in vmapped):
        out = lax.all_gather(out, name, axis_index_groups=axes.groups, to=to, tiled=True)
    return out


def sum_vectors(vectors: Tree, axes: Axes) -> Tree:
    """Sum a tree of vectors of one shape over the axes, stacked where they travel."""
    if not axes.names:
        return vectors
    leaves, tree = jax.tree.flatten(vectors)
    total, (mesh, vmapped) = jnp.stack(leaves), split_vmapped(axes)
    for name in vmapped.names:  # not psum: over a vmap, JAX's fails on an explicit mesh
        total = jnp.sum(lax.all_gather(total, name), 0)
    return jax.tree.unflatten(tree, _psum(total, mesh))


def split_vmapped(axes: Axes) -> tuple[Axes, Axes]:
    """Split axes into those of a mesh and those of a vmap."""
    vmapped = _vmapped(axes.names)
    mesh = tuple(name for name in axes.names if name not in vmapped)
    return axes._replace(names=mesh), Axes(vmapped)


def _psum(a: Array, axes: Axes) -> Array:
    return lax.psum(a, axes.names, axis_index_groups=axes.groups) if axes.names else a


def _add(a: Tree, b: Tree) -> Tree:
    return jax.tree.map(jnp.add, a, b)


def _names(axis_name: Names) -> tuple[Name, ...]:
    return () if axis_name is None else axis_name if isinstance(axis_name, tuple) else (axis_name,)


def _mesh_axes() -> tuple[Name, ...]:
    """Return the mesh axes of the `shard_map`s around."""
    return jax.sharding.get_abstract_mesh().manual_axes


def _types_are_checked() -> bool:
    mesh = _mesh_axes()
    return bool(mesh) and bool(varying(lax.axis_index(mesh)))


def _vmapped(names: tuple[Name, ...]) -> tuple[Name, ...]:
    return tuple(name for name in names if name not in _mesh_axes())


def _check_groups(function: str, names: tuple[Name, ...], groups: Groups, checked: bool) -> Groups:
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
