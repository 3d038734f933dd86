"""K, the one operator behind the pull-back, the push-forward and every Jacobian.

(D.2)   ∂y_si/∂x_s'i = γ_i r_i [δ_ss' − 1/B − x̂_si x̂_s'i / B]
(D.4)   K(t) = γ r [t − ⟨t⟩ − x̂ ⟨t x̂⟩]
(D.7)   moments with cotangents μ̄, σ̄² add (w/n) [μ̄ + 2 σ̄² (x − μ)]
(D.17)  K(t; a, b) = γ r [t − a ⟨b t⟩ − a x̂ ⟨b t x̂⟩],  ⟨t⟩ = Σ_s t_s / n

With (a, b) = (1, w) it pushes a tangent forward, with (w, 1) it pulls a cotangent back; for equal
weights the two are the same symmetric operator.

Source: S0/S1 eq. 3; the weights are ours.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bnjax.moments import Centre, centred


class Overlaps(NamedTuple):
    """Σ_s b t and Σ_s b t (x − μ): how far t lies along the directions that K removes."""

    ones: Array
    deviations: Array


def inverse_std(var: Array, eps: float) -> Array:
    """Form r = (σ² + ε)^(−1/2), and 0 where σ² + ε = 0: there y is β and nothing moves it."""
    total = var + eps
    return jnp.where(total > 0, 1 / jnp.sqrt(jnp.where(total > 0, total, 1)), 0 * total)


def overlaps(t: Array, x: Array, centre: Centre, axes: tuple[int, ...]) -> Overlaps:
    """Sum t, and t (x − μ), over the sample axes.

    Args:
        t: A tangent or cotangent of x's shape, already multiplied by b, in the sums' dtype.
        x: What is normalized.
        centre: Its centre.
        axes: The sample axes.
    """
    return Overlaps(
        jnp.sum(t, axes, keepdims=True),
        jnp.sum(t * centred(x, centre), axes, keepdims=True),
    )


def project(
    t: Array,
    x: Array,
    centre: Centre,
    scale: Array,
    inv_std: Array,
    along: Overlaps,
    *,
    weights: Array | None = None,
    mean_bar: Array | float = 0.0,
    var_bar: Array | float = 0.0,
) -> Array:
    """Apply K to t, given t's overlaps (D.4, D.17), and add the moments' share (D.7).

    Args:
        t: A tangent or cotangent of x's shape, in the sums' dtype.
        x: What is normalized.
        centre: Its centre, with the count n.
        scale: γ r, broadcastable to x.
        inv_std: r, broadcastable to x.
        along: `overlaps` of b t.
        weights: The factor a: w when cotangents are pulled back, None (one) otherwise.
        mean_bar: μ̄, the cotangent of the mean.
        var_bar: σ̄², the cotangent of the biased variance.

    Returns:
        K(t; a, b) + (a/n) [μ̄ + 2 σ̄² (x − μ)], of x's shape, in the sums' dtype.
    """
    n = jnp.where(centre.count > 0, centre.count, 1)
    ones = (mean_bar - scale * along.ones) / n
    deviations = (2 * var_bar - scale * inv_std**2 * along.deviations) / n
    removed = ones + deviations * centred(x, centre)
    return scale * t + (removed if weights is None else weights * removed)


def K(
    t: Array, x: Array, centre: Centre, scale: Array, inv_std: Array, axes: tuple[int, ...]
) -> Array:
    """Apply K of an unweighted batch to t: `overlaps`, then `project` (D.4)."""
    return project(t, x, centre, scale, inv_std, overlaps(t, x, centre, axes))
