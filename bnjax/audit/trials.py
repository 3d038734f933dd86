"""What is tried: which leaves are differentiated, at which points, along which directions.

A trial is a point x with a cotangent v of the outputs and a tangent u of the arguments. The first
trials have random v and u, each at a point of its own (the given one and small relative variations
of it, which leave zeros and signs alone); the others are at the given point, along every axis
while there are few, else along random directions.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

POINTS = 3


class Layout(NamedTuple):
    """Where each leaf of the arguments belongs: all static.

    Attributes:
        tree: The structure of the arguments.
        roles: For each leaf "differentiated", "constant" (another array) or "static".
        static: The leaves that are no arrays.
        labels: Names of the differentiated leaves.
    """

    tree: Any
    roles: tuple[str, ...]
    static: tuple[Any, ...]
    labels: tuple[str, ...]


class Outputs(NamedTuple):
    """What f returns: names, shapes and dtypes, the `inexact` floating leaves first.

    `due` are the dtypes that the reference returns, None where there is no reference.
    """

    tree: Any
    labels: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    inexact: int
    due: tuple[Any, ...]


class Trials(NamedTuple):
    """Points and directions, as lists of stacked leaves.

    Attributes:
        points: Per differentiated leaf (POINTS, *shape); the given values first.
        at: The point of each trial, (T,).
        v: Per floating output (T, *shape).
        u: Per differentiated leaf (T, *shape).
    """

    points: list[Any]
    at: np.ndarray
    v: list[Any]
    u: list[Any]


def read(
    function: str, f: Callable[..., Any], args: Sequence[Any], argnums: int | Sequence[int] | None
) -> tuple[Layout, list[np.ndarray], list[Any]]:
    """Part the arguments into the differentiated leaves and the constants.

    Raises:
        TypeError: `args` is no sequence, or a leaf to be differentiated is complex.
        ValueError: `argnums` names no argument, or nothing is left to differentiate.
    """
    if not isinstance(args, (tuple, list)):
        raise TypeError(
            f"{function}: `args` must be a tuple of f's arguments; got {type(args).__name__}; "
            "write (x,) for a single one."
        )
    chosen = range(len(args)) if argnums is None else np.atleast_1d(np.asarray(argnums)).tolist()
    for number in chosen:
        if not (isinstance(number, int) and -len(args) <= number < len(args)):
            raise ValueError(
                f"{function}: `argnums` must name some of the {len(args)} arguments, from 0; "
                f"got {argnums!r}."
            )
    chosen = {number % len(args) for number in chosen}
    paths, tree = jax.tree_util.tree_flatten_with_path(tuple(args))
    floats = [leaf.dtype for _, leaf in paths if _is_array(leaf) and _kind(leaf) == "inexact"]
    # not result_type: that warns of NumPy's float64 where x64 is off
    common = reduce(jnp.promote_types, floats) if floats else jnp.result_type(float)
    names = _names(f, len(args))
    roles, static, labels, leaves, constants = [], [], [], [], []
    for path, leaf in paths:
        if type(leaf) is float:  # a Python number has no dtype of its own
            leaf = np.asarray(leaf, common)
        if not _is_array(leaf):
            roles.append("static")
            static.append(leaf)
        elif _kind(leaf) == "inexact" and path[0].idx in chosen:
            label = names[path[0].idx] + jax.tree_util.keystr(path[1:])
            if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
                raise TypeError(
                    f"{function}: `{label}` must be real to be audited; got {leaf.dtype}; audit a "
                    "function of its real and imaginary parts, or leave it out of `argnums`."
                )
            roles.append("differentiated")
            labels.append(label)
            leaves.append(_host(leaf))
        else:
            roles.append("constant")
            constants.append(leaf if _kind(leaf) == "key" else _host(leaf))
    if not leaves:
        raise ValueError(
            f"{function}: `args` must hold a floating array to differentiate by; "
            f"got none{'' if argnums is None else f' under argnums={argnums!r}'}."
        )
    return Layout(tree, tuple(roles), tuple(static), tuple(labels)), leaves, constants


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (Array, np.ndarray, np.generic))


def _host(leaf: Any) -> np.ndarray:
    """Take an array to the host, in the dtype in which JAX would compute with it."""
    return np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))


def _kind(leaf: Any) -> str:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return "key"
    return "inexact" if jnp.issubdtype(leaf.dtype, jnp.inexact) else "exact"


def _names(f: Callable[..., Any], count: int) -> list[str]:
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    plain = [one.name for one in parameters if one.kind <= one.POSITIONAL_OR_KEYWORD]
    return [*plain, *(f"args[{i}]" for i in range(len(plain), count))][:count]


def bind(f: Callable[..., Any], layout: Layout, constants: Sequence[Any]) -> Callable[..., list]:
    """Make f a function of the differentiated leaves alone: list -> list, floating leaves first."""

    def bound(leaves: Sequence[Any]) -> list[Any]:
        kinds = {
            "differentiated": iter(leaves),
            "constant": iter(constants),
            "static": iter(layout.static),
        }
        args = jax.tree.unflatten(layout.tree, [next(kinds[role]) for role in layout.roles])
        results = [jnp.asarray(leaf) for leaf in jax.tree.leaves(f(*args))]
        return sorted(
            (leaf for leaf in results if _kind(leaf) != "key"),
            key=lambda leaf: _kind(leaf) != "inexact",
        )

    return bound


def outputs(f: Callable[..., Any], layout: Layout, leaves: list, constants: list) -> Outputs:
    """Find out what f returns, without computing it."""

    def run(leaves: list[Any], constants: list[Any]) -> Any:
        kept: list[Any] = []

        def keep(*args: Any) -> Any:
            kept.append(f(*args))
            return kept[-1]

        bind(keep, layout, constants)(leaves)
        return kept[-1]

    found = jax.eval_shape(run, leaves, constants)
    paths, tree = jax.tree_util.tree_flatten_with_path(found)
    kept = [(path, leaf) for path, leaf in paths if _kind(leaf) != "key"]
    kept.sort(key=lambda one: _kind(one[1]) != "inexact")
    return Outputs(
        tree,
        tuple("output" + jax.tree_util.keystr(path) for path, _ in kept),
        tuple(leaf.shape for _, leaf in kept),
        tuple(np.dtype(leaf.dtype) for _, leaf in kept),
        sum(_kind(leaf) == "inexact" for _, leaf in kept),
        (None,) * len(kept),
    )


def draw(
    leaves: Sequence[np.ndarray], returned: Outputs, *, few: int, random: int, points: int, rng: Any
) -> Trials:
    """Draw the trials, in the dtypes of the arguments and outputs.

    Args:
        leaves: The differentiated leaves.
        returned: What the function returns.
        few: Up to so many numbers all axes are tried.
        random: Where there are more, so many random directions.
        points: How many points.
        rng: NumPy's generator.
    """
    shapes, dtypes = returned.shapes[: returned.inexact], returned.dtypes[: returned.inexact]
    sizes = [sum(leaf.size for leaf in leaves), sum(int(np.prod(shape)) for shape in shapes)]
    # the only axis there is says no more than the random directions
    axes = max((size for size in sizes if size <= few), default=0) if max(sizes) > 1 else 0
    count = points + max(axes, random if max(sizes) > few else 0)

    def directions(size: int) -> np.ndarray:
        all_of = rng.standard_normal((count, size))
        if size <= few and count > points:
            all_of[points : points + size] = np.eye(size)
        return all_of

    def vary(leaf: np.ndarray) -> np.ndarray:
        wide = np.asarray(leaf, np.float64)
        factors = 1 + rng.uniform(-1, 1, (points, *leaf.shape)) / 8
        factors[0] = 1
        return (wide * factors).astype(leaf.dtype)

    return Trials(
        [vary(leaf) for leaf in leaves],
        np.array([*range(points), *[0] * (count - points)], np.int32),
        _part(directions(sizes[1]), shapes, dtypes),
        _part(directions(sizes[0]), [a.shape for a in leaves], [a.dtype for a in leaves]),
    )


def _part(flat: np.ndarray, shapes: Sequence[Any], dtypes: Sequence[Any]) -> list[np.ndarray]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    parts = np.split(flat, ends, axis=1)
    return [
        part.reshape(-1, *shape).astype(dtype)
        for part, shape, dtype in zip(parts, shapes, dtypes, strict=True)
    ]


def lift(tree: Any, dtype: Any) -> Any:
    """Cast every floating leaf; the numbers stay what they are."""

    def cast(leaf: Any) -> Any:
        inexact = _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return np.asarray(leaf, dtype) if inexact else leaf

    return jax.tree.map(cast, tree)
