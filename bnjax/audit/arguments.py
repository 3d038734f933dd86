"""A function of pytrees as a function of flat lists: its differentiated leaves and its outputs."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class ArgumentLayout(NamedTuple):
    """How the leaves of the arguments are distributed; hashable, and static under jit.

    Attributes:
        tree: The structure of the arguments.
        roles: For each leaf, "differentiated", "constant" (any other array) or "static".
        static: The leaves that are not arrays.
        labels: The names of the differentiated leaves, for reports.
    """

    tree: Any
    roles: tuple[str, ...]
    static: tuple[Any, ...]
    labels: tuple[str, ...]


class OutputLayout(NamedTuple):
    """The leaves that a function returns, floating ones first.

    Attributes:
        tree: The structure of the output.
        labels: The names of the leaves, for reports.
        shapes: Their shapes.
        dtypes: Their dtypes.
        floating: How many of them are floating.
        reference_dtypes: The dtypes that the reference returns; None without a reference.
    """

    tree: Any
    labels: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    floating: int
    reference_dtypes: tuple[Any, ...]


def flatten_arguments(
    function: str, f: Callable[..., Any], args: Sequence[Any], argnums: int | Sequence[int] | None
) -> tuple[ArgumentLayout, list[np.ndarray], list[Any]]:
    """Split the arguments of `f` into the leaves to differentiate and the constants.

    Args:
        function: The public function that was called, for error messages.
        f: The function, for the names of its parameters.
        args: Its arguments.
        argnums: Which of them to differentiate with respect to; None for all.

    Returns:
        The layout, the differentiated leaves and the constants.

    Raises:
        TypeError: `args` is not a tuple or list, or a leaf to differentiate is complex.
        ValueError: `argnums` is out of range, or there is nothing to differentiate, or all of it is
            empty.
    """
    chosen = _differentiated_positions(function, args, argnums)
    paths, tree = jax.tree_util.tree_flatten_with_path(tuple(args))
    common = _common_dtype(leaf for _, leaf in paths)
    names = _argument_names(f, len(args))
    roles, static, labels, leaves, constants = [], [], [], [], []
    for path, leaf in paths:
        if type(leaf) is float:  # a Python number has no dtype of its own
            leaf = np.asarray(leaf, common)
        if not _is_array(leaf):
            roles.append("static")
            static.append(leaf)
        elif _kind(leaf) == "inexact" and path[0].idx in chosen:
            label = names[path[0].idx] + jax.tree_util.keystr(path[1:])
            _require_real(function, label, leaf)
            roles.append("differentiated")
            labels.append(label)
            leaves.append(_to_host(leaf))
        else:
            roles.append("constant")
            constants.append(leaf if _kind(leaf) == "key" else _to_host(leaf))
    if not leaves:
        raise ValueError(
            f"{function}: `args` must hold a floating array to differentiate with respect to; "
            f"got none{'' if argnums is None else f' under argnums={argnums!r}'}."
        )
    if not any(leaf.size for leaf in leaves):
        shapes = ", ".join(f"{a.shape} of `{b}`" for a, b in zip(leaves, labels, strict=True))
        raise ValueError(
            f"{function}: `args` must hold at least one number to differentiate with respect to; "
            f"got the shape {shapes}."
        )
    return ArgumentLayout(tree, tuple(roles), tuple(static), tuple(labels)), leaves, constants


def _differentiated_positions(
    function: str, args: Sequence[Any], argnums: int | Sequence[int] | None
) -> set[int]:
    """Check `args` and `argnums`; return the positions in `args`, counted from 0."""
    if not isinstance(args, (tuple, list)):
        raise TypeError(
            f"{function}: `args` must be a tuple of f's arguments; got {type(args).__name__}; "
            "write (x,) for a single one."
        )
    chosen = range(len(args)) if argnums is None else np.atleast_1d(np.asarray(argnums)).tolist()
    for number in chosen:
        if not (isinstance(number, int) and -len(args) <= number < len(args)):
            raise ValueError(
                f"{function}: `argnums` must hold positions among the {len(args)} arguments, "
                f"counted from 0; got {argnums!r}."
            )
    return {number % len(args) for number in chosen}


def _common_dtype(leaves: Iterable[Any]) -> Any:
    """Return the dtype that the floating arrays promote to, JAX's default without any."""
    floats = [leaf.dtype for leaf in leaves if _is_array(leaf) and _kind(leaf) == "inexact"]
    # not result_type: it warns about NumPy's float64 where x64 is off
    return reduce(jnp.promote_types, floats) if floats else jnp.result_type(float)


def _require_real(function: str, label: str, leaf: Any) -> None:
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        raise TypeError(
            f"{function}: `{label}` must be real to be audited; got {leaf.dtype}; audit a "
            "function of its real and imaginary parts, or leave it out of `argnums`."
        )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (Array, np.ndarray, np.generic))


def _to_host(leaf: Any) -> np.ndarray:
    """Copy an array to the host, in the dtype in which JAX would compute with it."""
    return np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))


def _kind(leaf: Any) -> str:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return "key"
    return "inexact" if jnp.issubdtype(leaf.dtype, jnp.inexact) else "exact"


def _argument_names(f: Callable[..., Any], count: int) -> list[str]:
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    positional = [one.name for one in parameters if one.kind <= one.POSITIONAL_OR_KEYWORD]
    return [*positional, *(f"args[{i}]" for i in range(len(positional), count))][:count]


def bind(
    f: Callable[..., Any], layout: ArgumentLayout, constants: Sequence[Any]
) -> Callable[..., list]:
    """Return `f` as a function of the list of differentiated leaves alone.

    It returns the list of output leaves, floating ones first.
    """

    def bound(leaves: Sequence[Any]) -> list[Any]:
        by_role = {
            "differentiated": iter(leaves),
            "constant": iter(constants),
            "static": iter(layout.static),
        }
        args = jax.tree.unflatten(layout.tree, [next(by_role[role]) for role in layout.roles])
        results = [jnp.asarray(leaf) for leaf in jax.tree.leaves(f(*args))]
        return sorted(
            (leaf for leaf in results if _kind(leaf) != "key"),
            key=lambda leaf: _kind(leaf) != "inexact",
        )

    return bound


def output_layout(
    f: Callable[..., Any], layout: ArgumentLayout, leaves: list, constants: list
) -> OutputLayout:
    """Return the layout of what `f` returns, without computing it."""
    returned: list[Any] = []

    def record(*args: Any) -> Any:
        returned.append(f(*args))
        return returned[-1]

    def run(leaves: list[Any], constants: list[Any]) -> Any:
        bind(record, layout, constants)(leaves)
        return returned[-1]

    shapes = jax.eval_shape(run, leaves, constants)
    paths, tree = jax.tree_util.tree_flatten_with_path(shapes)
    arrays = [(path, leaf) for path, leaf in paths if _kind(leaf) != "key"]
    arrays.sort(key=lambda one: _kind(one[1]) != "inexact")
    return OutputLayout(
        tree,
        tuple("output" + jax.tree_util.keystr(path) for path, _ in arrays),
        tuple(leaf.shape for _, leaf in arrays),
        tuple(np.dtype(leaf.dtype) for _, leaf in arrays),
        sum(_kind(leaf) == "inexact" for _, leaf in arrays),
        (None,) * len(arrays),
    )


def cast_floating(tree: Any, dtype: Any) -> Any:
    """Cast every floating array in a tree to `dtype`, and leave the rest as it is."""

    def cast(leaf: Any) -> Any:
        floating = _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return np.asarray(leaf, dtype) if floating else leaf

    return jax.tree.map(cast, tree)
