"""The quantities that an audit compares, at a point x, with a cotangent v and a tangent u.

value          f(x)
vjp            Jᵀv, the pull-back of v
jvp            J u, the push-forward of u
transposition  ⟨v, J u⟩ = ⟨Jᵀv, u⟩, computed from the two above
rev-over-rev   ∇⟨∇φ, u⟩, where φ is a scalar function of f(x) with a cotangent that depends on f(x)
fwd-over-rev   the tangent of ∇φ along u, which is the same vector
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

FlatFunction = Callable[[Sequence[Any]], list[Any]]  # from leaves to leaves

MODES = ("value", "vjp", "jvp", "transposition", "rev-over-rev", "fwd-over-rev")
SECOND_ORDER = ("rev-over-rev", "fwd-over-rev")


def evaluate_mode(
    mode: str,
    f: FlatFunction,
    x: Sequence[Array],
    v: Sequence[Array],
    u: Sequence[Array],
    scales: Sequence[Array],
) -> list[Array]:
    """Evaluate one mode for one trial.

    Args:
        mode: Any of `MODES` but "transposition".
        f: The function; the first len(v) of its outputs are floating.
        x: The point, one array per argument leaf.
        v: The cotangent, one array per floating output.
        u: The tangent, one array per argument leaf.
        scales: The size of each floating output, which balances the two terms of φ.

    Returns:
        One array per output for value and jvp, else one per argument leaf.
    """
    if mode == "value":
        return list(f(x))
    if mode == "vjp":
        return evaluate_vjp(f, x, v)
    if mode == "jvp":
        return jax.jvp(_floating_outputs(f, len(v)), (list(x),), (list(u),))[1]
    gradient = jax.grad(_scalar_function(f, v, scales))
    if mode == "fwd-over-rev":
        return jax.jvp(gradient, (list(x),), (list(u),))[1]
    return jax.grad(lambda x: dot(gradient(x), u))(list(x))


def evaluate_vjp(f: FlatFunction, x: Sequence[Array], v: Sequence[Array]) -> list[Array]:
    """Return Jᵀv."""
    y, pull_back = jax.vjp(_floating_outputs(f, len(v)), list(x))
    return pull_back(match_dtypes(v, y))[0]


def match_dtypes(v: Sequence[Array], y: Sequence[Array]) -> list[Array]:
    """Cast a cotangent to the dtypes of the outputs, which need not follow the arguments'."""
    return [bar.astype(a.dtype) for a, bar in zip(y, v, strict=True)]


def scalar_gradient(
    f: FlatFunction, x: Sequence[Array], v: Sequence[Array], scales: Sequence[Array]
) -> list[Array]:
    """Return ∇φ, the gradient that the second-order modes differentiate."""
    return jax.grad(_scalar_function(f, v, scales))(list(x))


def dot(a: Sequence[Array], b: Sequence[Array]) -> Array:
    """Return the sum of a·b over all leaves, computed in float32 or wider."""
    wide = jnp.promote_types(jnp.result_type(*a, *b), jnp.float32)
    parts = (jnp.sum(p.astype(wide) * q.astype(wide)) for p, q in zip(a, b, strict=True))
    return sum(parts, jnp.zeros((), wide))


def _floating_outputs(f: FlatFunction, count: int) -> Callable[[list[Array]], list[Array]]:
    return lambda x: f(x)[:count]


def _scalar_function(
    f: FlatFunction, v: Sequence[Array], scales: Sequence[Array]
) -> Callable[..., Array]:
    """Return φ = Σ v (y + y²/2s), where s is the scale of y: its cotangent v (1 + y/s) varies."""

    def phi(x: list[Array]) -> Array:
        y = _floating_outputs(f, len(v))(x)
        pairs = zip(y, scales, strict=True)
        return dot(v, [a + a * (a / (2 * s).astype(a.dtype)) for a, s in pairs])

    return phi
