"""Cases near both ends of a dtype's range: large, tiny and mixed channels, outliers.

The arguments are u = x / unit with a power of two per channel, the moments are divided by unit and
unit², and ε = 0 unless the name of the case says otherwise:

    batch_norm(unit u, γ, β; ε) = batch_norm(u, γ, β; ε / unit²)                         (BN.5)

A rule computes the left side at the scale of x, its reference the right side at the scale of 1:
the reference overflows in no dtype, and every derivative by u is of the size of 1, so that no
channel hides the errors of another.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bnjax import audit, batch_norm, normalize, renorm
from bnjax.own_rules.case import Arguments, Case, MakeArguments, cast, power_of_two
from bnjax.own_rules.ordinary import renormalization_arguments
from bnjax.own_rules.plain import BOUNDS, plain_in_units, plain_normalize, plain_renorm

# second derivatives go as unit^-2, for which float32 has no room
_FIRST_ORDER = tuple(mode for mode in audit.MODES if mode not in ("rev-over-rev", "fwd-over-rev"))
# exponents of 2 in bfloat16 and float32; others get the same share of their range
_FAR, _NEAR, _OUTLIER = 60, 45, 50


def extreme_cases(rng: np.random.Generator) -> list[Case]:
    """List the cases near the ends of the range."""
    cases = []
    for rule, where in (("vjp", None), ("jvp", rng.uniform(0.2, 2, (5, 1)))):
        normalization = partial(batch_norm, rule=rule, eps=0.0, where=where)
        cases.append(range_case(f"batch_norm {rule}", normalization, rng, where=where))
    cases += [_tiny_beside_epsilon(rng), _given_statistics(rng), _renormalization("jvp", rng)]
    return cases


def range_case(
    rule: str,
    normalization: Callable[..., Any],
    rng: np.random.Generator,
    *,
    where: np.ndarray | None = None,
) -> Case:
    """Build the case that tries a batch normalization at ε = 0 over the range of each dtype.

    Args:
        rule: The name of the rule.
        normalization: (x, γ, β) -> (y, (μ, σ², count)), over axis 0 of (5, 3) numbers.
        rng: What the arguments are drawn from.
        where: The weights that it uses, (5, 1), or None.
    """
    u = 2 * rng.normal(size=(5, 3)) + 1
    gamma, beta = rng.normal(size=(2, 3))

    def with_unit(*exponents: int, variance: bool = True) -> MakeArguments:
        def make(dtype: str) -> Arguments:
            unit = np.array([power_of_two(dtype, k) for k in exponents])
            return cast((u, gamma, beta, unit, np.array(float(variance))), dtype)

        return make

    def with_outlier(dtype: str) -> Arguments:
        unit = power_of_two(dtype, _OUTLIER)
        one = u.copy()
        one[1:, 1] /= unit
        one[0, 1] = 1
        return cast((one, gamma, beta, np.array([1, unit, 1]), np.array(1.0)), dtype)

    prefix = "(5, 3)" + ("" if where is None else ", weights")
    inputs = {
        # unit⁻², a cotangent of the variance, would leave float32
        "x of 1e18": with_unit(*[_FAR] * 3, variance=False),
        "x of 3e13": with_unit(*[_NEAR] * 3),
        "x of 3e-14": with_unit(*[-_NEAR] * 3),
        "x of 1e-18": with_unit(*[-_FAR] * 3, variance=False),
        "channels of 1e-18, 1, 1e18": with_unit(-_FAR, 0, _FAR, variance=False),
        "outlier of 1e15": with_outlier,
    }
    return Case(
        rule,
        partial(_in_units, normalization),
        partial(plain_in_units, where=where, eps=0.0),
        {f"{prefix}, {what}": make for what, make in inputs.items()},
        _FIRST_ORDER,
        (0, 1, 2),
    )


def _in_units(
    normalization: Callable[..., Any], u: Any, gamma: Any, beta: Any, unit: Any, variance: Any
) -> Any:
    """Normalize x = unit u; return y, μ/unit and σ²/unit², the last times 0 if it is left out."""
    y, moments = normalization(u * unit[None], gamma, beta)
    mean, var = moments[:2]
    return y, mean / unit, variance * (var / unit / unit)


def _tiny_beside_epsilon(rng: np.random.Generator) -> Case:
    """Build the case of a variance far below ε, with a mask: r is ε^(−1/2), whatever x."""
    eps, mask = 1e-5, np.array([[True], [False], [True], [True], [True]])
    normalization = partial(batch_norm, eps=eps, where=mask)
    case = range_case("batch_norm vjp", normalization, rng, where=mask)
    what = "x of 1e-18"
    return case._replace(
        g=partial(plain_in_units, where=mask, eps=eps),
        inputs={f"(5, 3), mask, {what}, ε = 1e-5": case.inputs[f"(5, 3), weights, {what}"]},
    )


def _given_statistics(rng: np.random.Generator) -> Case:
    mean, gamma, beta = rng.normal(size=(3, 3))
    args = rng.normal(size=(4, 3)), mean, rng.uniform(0.5, 2, 3), gamma, beta

    def with_unit(*exponents: int) -> MakeArguments:
        def make(dtype: str) -> Arguments:
            return cast((*args, np.array([power_of_two(dtype, k) for k in exponents])), dtype)

        return make

    def f(x: Any, mean: Any, var: Any, gamma: Any, beta: Any, unit: Any) -> Any:
        return normalize(x * unit[None], mean * unit, var * unit * unit, gamma, beta, eps=0.0)

    def g(*args: Any) -> Any:
        return plain_normalize(*args[:-1], eps=0.0)

    inputs = {
        "(4, 3), x of 3e13": with_unit(*[_NEAR] * 3),
        "(4, 3), x of 3e-14": with_unit(*[-_NEAR] * 3),
        "(4, 3), channels of 3e-14, 1, 3e13": with_unit(-_NEAR, 0, _NEAR),
    }
    return Case("normalize", f, g, inputs, _FIRST_ORDER, (0, 1, 2, 3, 4))


def _renormalization(rule: str, rng: np.random.Generator) -> Case:
    args = renormalization_arguments(rng)

    def with_unit(*exponents: int) -> MakeArguments:
        def make(dtype: str) -> Arguments:
            return cast((*args, np.array([power_of_two(dtype, k) for k in exponents])), dtype)

        return make

    def f(x: Any, gamma: Any, beta: Any, mean: Any, var: Any, unit: Any) -> Any:
        statistics = mean * unit, var * unit * unit
        return renorm(x * unit[None], statistics, gamma, beta, eps=0.0, rule=rule, **BOUNDS)[0]

    def g(*args: Any) -> Any:
        return plain_renorm(*args[:-1], where=np.ones((5, 1), bool), eps=0.0)

    inputs = {"(5, 3), channels of 3e-14, 1, 3e13": with_unit(-_NEAR, 0, _NEAR)}
    return Case(f"renorm {rule}", f, g, inputs, _FIRST_ORDER, (0, 1, 2))
