"""The quantities that are compared, each at a point x, a cotangent v and a tangent u.

value          f(x)
vjp            Jᵀv
jvp            J u
transposition  ⟨v, J u⟩ = ⟨Jᵀv, u⟩, from those two
rev-over-rev   ∇⟨∇φ, u⟩ for a scalar φ of f, whose cotangent depends on f(x) too
fwd-over-rev   the tangent of ∇φ along u, the same vector
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Function = Callable[[Sequence[Any]], list[Any]]

ALL = ("value", "vjp", "jvp", "transposition", "rev-over-rev", "fwd-over-rev")
SECOND = ("rev-over-rev", "fwd-over-rev")


def evaluate(
    mode: str,
    f: Function,
    x: Sequence[Array],
    v: Sequence[Array],
    u: Sequence[Array],
    size: Sequence[Array],
) -> list[Array]:
    """Evaluate one mode at one trial: f's outputs for value and jvp, else one array per leaf.

    `size` holds the size of each output, which keeps φ's two terms alike.
    """
    if mode == "value":
        return list(f(x))
    if mode == "vjp":
        return pull_back(f, x, v)
    if mode == "jvp":
        return jax.jvp(_floating(f, v), (list(x),), (list(u),))[1]
    gradient = jax.grad(_scalar(f, v, size))
    if mode == "fwd-over-rev":
        return jax.jvp(gradient, (list(x),), (list(u),))[1]
    return jax.grad(lambda x: dot(gradient(x), u))(list(x))


def pull_back(f: Function, x: Sequence[Array], v: Sequence[Array]) -> list[Array]:
    """Return Jᵀv."""
    y, pull = jax.vjp(_floating(f, v), list(x))
    # an output may have a dtype of its own whatever the arguments have
    return pull([bar.astype(a.dtype) for a, bar in zip(y, v, strict=True)])[0]


def gradient(
    f: Function, x: Sequence[Array], v: Sequence[Array], size: Sequence[Array]
) -> list[Array]:
    """Return ∇φ, which the second order differentiates."""
    return jax.grad(_scalar(f, v, size))(list(x))


def dot(a: Sequence[Array], b: Sequence[Array]) -> Array:
    """Sum a·b over all leaves, in float32 or wider."""
    wide = jnp.promote_types(jnp.result_type(*a, *b), jnp.float32)
    parts = (jnp.sum(p.astype(wide) * q.astype(wide)) for p, q in zip(a, b, strict=True))
    return sum(parts, jnp.zeros((), wide))


def _floating(f: Function, v: Sequence[Array]) -> Callable[[list[Array]], list[Array]]:
    return lambda x: f(x)[: len(v)]


def _scalar(f: Function, v: Sequence[Array], size: Sequence[Array]) -> Callable[..., Array]:
    """Return φ = Σ v (y + y²/2s): its cotangent v (1 + y/s) moves with y."""

    def phi(x: list[Array]) -> Array:
        y = _floating(f, v)(x)
        return dot(v, [a + a * (a / (2 * s).astype(a.dtype)) for a, s in zip(y, size, strict=True)])

    return phi
