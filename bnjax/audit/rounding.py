"""The size of the terms that cancel: a program run again with every intermediate result rounded.

The reference is traced in float64 and run again with each result rounded to `BITS` binary digits.
How far that moves a result, in units of the rounding, is the size of the terms that cancelled on
the way to it. It depends on the function and the point alone, not on the dtype.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.extend import core

BITS = 36  # far coarser than float64, and fine enough for results to move in proportion
UNIT = 2.0**-BITS
# primitives that hold a program, and the parameter it is in; "pjit" and "remat2" are JAX's older
# names of "jit" and "checkpoint"
PROGRAM_PARAMETERS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
# these move numbers without computing new ones
_EXACT_PRIMITIVES = frozenset(
    "broadcast_in_dim concatenate copy dynamic_slice gather max min neg optimization_barrier pad "
    "reduce_max reduce_min reshape rev select_n slice squeeze stop_gradient transpose".split()
)


def with_rounding(program: Any) -> Callable[..., list[Array]]:
    """Return the function that runs a traced program and rounds every float64 result in it.

    Args:
        program: What `jax.make_jaxpr` returns.

    Returns:
        run(*flat arguments) -> flat results.

    Example:
        >>> import jax
        >>> with jax.enable_x64(True):
        ...     program = jax.make_jaxpr(lambda x: x / 3)(1.0)
        ...     third = with_rounding(program)(jnp.float64(1))[0]
        ...     print(abs(third - 1 / 3) < UNIT, third == 1 / 3)
        True False
    """
    return lambda *arguments: _run(program.jaxpr, program.consts, arguments)


def _run(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Run a program equation by equation."""
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        results = _run_equation(equation, [value(atom) for atom in equation.invars])
        if equation.primitive.name not in _EXACT_PRIMITIVES:
            results = [_round(result) for result in results]
        values |= dict(zip(equation.outvars, results, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _run_equation(equation: Any, values: list[Any]) -> Sequence[Any]:
    primitive, params = equation.primitive, equation.params
    if primitive.name in PROGRAM_PARAMETERS:
        return _run_inner(params[PROGRAM_PARAMETERS[primitive.name]], values)
    if primitive.name == "scan":
        return _run_scan(equation, values)
    results = primitive.bind(*values, **params)
    return results if primitive.multiple_results else [results]


def _run_inner(inner: Any, values: Sequence[Any]) -> list[Any]:
    return _run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values)


def _run_scan(equation: Any, values: list[Any]) -> list[Any]:
    body = equation.params["jaxpr"]
    inner = getattr(body, "jaxpr", body)
    # constants and carries; JAX's own names for these numbers have changed
    fixed = _count_unsliced(equation.invars, inner.invars)
    carried = _count_unsliced(equation.outvars, inner.outvars)

    def step(carry: list[Any], rows: list[Any]) -> tuple[list[Any], list[Any]]:
        results = _run_inner(body, [*values[: fixed - carried], *carry, *rows])
        return results[:carried], results[carried:]

    carry, rows = lax.scan(
        step,
        values[fixed - carried : fixed],
        values[fixed:],
        length=equation.params["length"],
        reverse=equation.params["reverse"],
    )
    return [*carry, *rows]


def _count_unsliced(outer: Sequence[Any], step: Sequence[Any]) -> int:
    """Count what a step of a scan receives or returns whole, not as one row of many."""
    pairs = zip(outer, step, strict=True)
    return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in pairs)


def _round(value: Any) -> Any:
    if getattr(value, "dtype", None) != jnp.float64:
        return value
    return lax.reduce_precision(value, exponent_bits=11, mantissa_bits=BITS)
