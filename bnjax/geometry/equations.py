"""The equations of a traced program: evaluated one by one, and what they hold."""

from collections.abc import Iterator
from math import prod
from typing import Any

from jax.extend.core import ClosedJaxpr, DebugInfo, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

LINEAR = ("dot_general", "conv_general_dilated")
RESHAPING = ("reshape", "squeeze", "broadcast_in_dim")
UNCHANGED = ("convert_element_type", "reduce_precision", "copy", "sharding_constraint", "reshard")
_ELEMENTWISE = {
    *UNCHANGED,
    *("abs", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "cbrt", "clamp", "cos"),
    *("cosh", "div", "eq", "erf", "erfc", "exp", "exp2", "expm1", "ge", "gt", "integer_pow"),
    *("is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "name", "ne"),
    *("neg", "not", "or", "pow", "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square"),
    *("stop_gradient", "sub", "tan", "tanh", "xor"),
}
# functions with a derivative of their own, such as jax.nn.relu, and functions in functions
_CALLS = ("custom_jvp_call", "custom_vjp_call", "jit", "pjit", "closed_call", "core_call")


def evaluate(eqn: JaxprEqn, arrays: list[Any]) -> list[Any]:
    """Evaluate one equation as it is, with its own rules of differentiation."""
    given = {
        atom: a for atom, a in zip(eqn.invars, arrays, strict=True) if not isinstance(atom, Literal)
    }
    names = ("",) * len(given), ("",) * len(eqn.outvars)
    described = DebugInfo("observe_function", eqn.primitive.name, *names)
    program = Jaxpr([], [*given], eqn.outvars, [eqn], eqn.effects, described)
    return jaxpr_as_fun(ClosedJaxpr(program, []))(*given.values())


def called_name(eqn: JaxprEqn) -> str:
    """Return the name of the function that an equation calls, or of its operation."""
    called = eqn.params.get("call_jaxpr")
    if called is not None:
        return getattr(called, "jaxpr", called).debug_info.func_name
    return eqn.params.get("name", eqn.primitive.name)


def inner_programs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """Yield the programs that an equation holds."""
    for value in eqn.params.values():
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, Jaxpr):
                yield one


def holds_linear(jaxpr: Jaxpr) -> bool:
    """Return whether a linear operation is in a program, or in what it holds."""
    return any(
        eqn.primitive.name in LINEAR or any(map(holds_linear, inner_programs(eqn)))
        for eqn in jaxpr.eqns
    )


def is_elementwise(eqn: JaxprEqn) -> bool:
    """Return whether each entry of the result depends on one entry of each operand, moved or not.

    Scalars may be operands, too.
    """
    name = eqn.primitive.name
    if name in _CALLS:
        return all(is_elementwise(one) for jaxpr in inner_programs(eqn) for one in jaxpr.eqns)
    if name == "transpose" or name in RESHAPING:
        before, after = (prod(getattr(v.aval, "shape", ())) for v in (eqn.invars[0], *eqn.outvars))
        return before in (1, after)
    return name in _ELEMENTWISE
