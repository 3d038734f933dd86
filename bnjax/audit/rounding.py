"""How large the terms are that cancel: a program run with every number in it rounded.

The reference is traced in float64 and run again with each result rounded to `BITS` binary digits.
What that moves a result by, in units of the rounding, is the size of the terms that cancelled on
the way to it. It is a property of the function and the point, the same for every dtype.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.extend import core

BITS = 36  # far above float64's own roundings, and small enough for what it moves to be linear
UNIT = 2.0**-BITS
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
# these move numbers without making new ones
_MOVES = frozenset(
    "broadcast_in_dim concatenate copy dynamic_slice gather max min neg optimization_barrier pad "
    "reduce_max reduce_min reshape rev select_n slice squeeze stop_gradient transpose".split()
)


def rounded(program: Any) -> Callable[..., list[Array]]:
    """Make the function that runs a traced program and rounds every float64 in it.

    Args:
        program: What `jax.make_jaxpr` returns.

    Returns:
        run(*flat arguments) -> flat results.

    Example:
        >>> import jax
        >>> with jax.enable_x64(True):
        ...     third = rounded(jax.make_jaxpr(lambda x: x / 3)(1.0))(jnp.float64(1))[0]
        ...     print(abs(third - 1 / 3) < UNIT, third == 1 / 3)
        True False
    """
    return lambda *arguments: _run(program.jaxpr, program.consts, arguments)


def narrowest(program: Any) -> float:
    """Find the largest machine epsilon among the floating results inside a traced program.

    A function that takes float64 may still compute in float32: it is as exact as that.

    Example:
        >>> import jax
        >>> through = lambda x: jnp.sin(x.astype(jnp.float16)).astype(x.dtype)
        >>> print(narrowest(jax.make_jaxpr(through)(jnp.ones(3))) == jnp.finfo(jnp.float16).eps)
        True
    """
    dtypes = {dtype for dtype in _dtypes(program.jaxpr) if jnp.issubdtype(dtype, jnp.floating)}
    return max((float(jnp.finfo(dtype).eps) for dtype in dtypes), default=0.0)


def _dtypes(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield from (v.aval.dtype for v in equation.outvars if hasattr(v.aval, "dtype"))
    for inner in core.subjaxprs(jaxpr):
        yield from _dtypes(inner)


def _run(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    known = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        results = _apply(equation, [read(atom) for atom in equation.invars])
        if equation.primitive.name not in _MOVES:
            results = [_round(result) for result in results]
        known |= dict(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, values: list[Any]) -> Sequence[Any]:
    primitive, params = equation.primitive, equation.params
    if primitive.name in _CALLS:
        return _call(params[_CALLS[primitive.name]], values)
    if primitive.name == "scan":
        return _scan(equation, values)
    results = primitive.bind(*values, **params)
    return results if primitive.multiple_results else [results]


def _call(inner: Any, values: Sequence[Any]) -> list[Any]:
    return _run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values)


def _scan(equation: Any, values: list[Any]) -> list[Any]:
    body = equation.params["jaxpr"]
    inner = getattr(body, "jaxpr", body)

    def whole(outer: Sequence[Any], step: Sequence[Any]) -> int:
        """Count what a step takes or gives whole; JAX's own names for it change."""
        pairs = zip(outer, step, strict=True)
        return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in pairs)

    fixed = whole(equation.invars, inner.invars)
    carried = whole(equation.outvars, inner.outvars)

    def step(carry: list[Any], rows: list[Any]) -> tuple[list[Any], list[Any]]:
        results = _call(body, [*values[: fixed - carried], *carry, *rows])
        return results[:carried], results[carried:]

    carry, rows = lax.scan(
        step,
        values[fixed - carried : fixed],
        values[fixed:],
        length=equation.params["length"],
        reverse=equation.params["reverse"],
    )
    return [*carry, *rows]


def _round(value: Any) -> Any:
    if getattr(value, "dtype", None) != jnp.float64:
        return value
    return lax.reduce_precision(value, exponent_bits=11, mantissa_bits=BITS)
