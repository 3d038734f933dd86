"""The precision that a function computes with inside, and the precision that its value has.

A function that accepts float32 may compute in bfloat16 inside, in a kernel say, and cannot be
judged by float32's epsilon. But a derivative is excused by an inner dtype only as far as the value
is: a value that agrees with the reference in float32 is not computed in bfloat16, whatever its
backward pass does.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from bnjax._xla import options_for_few_runs
from bnjax.audit.arguments import ArgumentLayout, bind
from bnjax.audit.rounding import PROGRAM_PARAMETERS
from bnjax.audit.trials import Trials

_PROBES = 4


class Precision(NamedTuple):
    """The machine epsilons of one function.

    Attributes:
        inside: The coarsest that the function and its derivatives compute with.
        of_value: The coarsest that its value is computed with.
    """

    inside: float = 0.0
    of_value: float = 0.0

    def no_finer_than(self, eps: float) -> "Precision":
        """Return the larger of each epsilon and `eps`."""
        return Precision(max(self.inside, eps), max(self.of_value, eps))


def coarsest_epsilon(program: Any) -> float:
    """Return the largest machine epsilon among the floating results that a program's results need.

    Args:
        program: What `jax.make_jaxpr` returns.

    Example:
        >>> through = lambda x: jnp.sin(x.astype(jnp.float16)).astype(x.dtype)
        >>> program = jax.make_jaxpr(through)(jnp.ones(3))
        >>> print(coarsest_epsilon(program) == jnp.finfo(jnp.float16).eps)
        True
    """
    found = set(_dtypes(program.jaxpr, [True] * len(program.jaxpr.outvars)))
    floating = (dtype for dtype in found if jnp.issubdtype(dtype, jnp.floating))
    return max((float(jnp.finfo(dtype).eps) for dtype in floating), default=0.0)


def _dtypes(jaxpr: Any, used: Sequence[bool]) -> Iterator[Any]:
    """Yield the dtypes of all results on the way to those results of a program that are used."""
    outputs = (v for v, is_used in zip(jaxpr.outvars, used, strict=True) if is_used)
    needed = {v for v in outputs if not isinstance(v, core.Literal)}
    for equation in reversed(jaxpr.eqns):
        used = [v in needed for v in equation.outvars]
        if not any(used):
            continue
        needed.update(v for v in equation.invars if not isinstance(v, core.Literal))
        yield from (
            v.aval.dtype for v in equation.outvars if v in needed and hasattr(v.aval, "dtype")
        )
        parameter = PROGRAM_PARAMETERS.get(equation.primitive.name)
        if parameter:
            inner = equation.params[parameter]
            yield from _dtypes(getattr(inner, "jaxpr", inner), used)
        else:
            for inner in core.jaxprs_in_params(equation.params):
                yield from _dtypes(inner, [True] * len(inner.outvars))


def dtype_epsilon(trials: Trials) -> float:
    """Return the coarsest epsilon of the arguments' and outputs' own dtypes."""
    return max(float(jnp.finfo(a.dtype).eps) for a in (*trials.points, *trials.v))


def value_epsilon(f: Callable[..., Any], layout: ArgumentLayout, arguments: Any) -> float:
    """Return the coarsest epsilon with which the value of `f` is computed, without computing it.

    Args:
        f: The function.
        layout: The layout of its arguments.
        arguments: (constants, trials, ...), for their shapes and dtypes.
    """
    constants, trials = arguments[:2]
    first = [leaf[0] for leaf in trials.points]
    traced = jax.jit(partial(_value, f, layout)).trace(constants, first)
    return coarsest_epsilon(traced.jaxpr)


def prepare_agreement(
    f: Callable[..., Any], g: Callable[..., Any] | None, layout: ArgumentLayout
) -> Callable[..., float]:
    """Prepare the comparison of the values of f and g; its programs are compiled when first run.

    Returns:
        run(constants, leaves, epsilons, tolerance) -> the smallest of `epsilons` with which the
        values of f and g agree at random points near the given ones, the largest if with none, or
        without g. The points have all digits of their dtype: at numbers that bfloat16 holds, a
        function that rounds to it is exact.
    """
    if g is None:
        return lambda constants, leaves, epsilons, tolerance: max(epsilons)
    options = options_for_few_runs()
    ours, theirs = (
        jax.jit(partial(_value, one, layout), compiler_options=options) for one in (f, g)
    )

    def run(
        constants: list[Any], leaves: list[Any], epsilons: Sequence[float], tolerance: float
    ) -> float:
        rng = np.random.default_rng(0)
        error = 0.0
        for _ in range(_PROBES):
            point = [_vary(np.asarray(leaf), rng) for leaf in leaves]
            try:
                pairs = zip(ours(constants, point), theirs(constants, point), strict=True)
            except Exception:  # what f raises has rows of its own
                return max(epsilons)
            error = max([error, *(_relative_error(a, b) for a, b in pairs)])
        return min((eps for eps in epsilons if error <= tolerance * eps), default=max(epsilons))

    return run


def _value(
    f: Callable[..., Any], layout: ArgumentLayout, constants: list[Any], leaves: list[Any]
) -> list[Any]:
    return bind(f, layout, constants)(leaves)


def _vary(leaf: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vary all numbers, zeros too: what is multiplied by zero shows no rounding."""
    step = rng.uniform(-1, 1, leaf.shape) / 8
    wide = np.where(leaf == 0, step, np.asarray(leaf, np.float64) * (1 + step))
    return wide.astype(leaf.dtype)


def _relative_error(got: Any, wanted: Any) -> float:
    """Return the largest |got − wanted|, divided by the largest number, where both are finite."""
    if not jnp.issubdtype(got.dtype, jnp.floating):
        return 0.0
    got, wanted = (np.asarray(a, np.float64) for a in (got, wanted))
    finite = np.isfinite(got) & np.isfinite(wanted)
    size = np.max(np.abs(wanted), where=finite, initial=0)
    error = np.max(np.abs(np.where(finite, got - wanted, 0)), initial=0)
    return float(error / size) if size else np.inf * bool(error)
