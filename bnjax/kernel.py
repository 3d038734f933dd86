"""K, the one operator behind the pull-back, the push-forward and every Jacobian.

(D.2)   ∂y_si/∂x_s'i = γ_i r_i [δ_ss' − 1/B − x̂_si x̂_s'i / B]
(D.4)   K(t) = γ r [t − ⟨t⟩ − x̂ ⟨t x̂⟩]
(D.17)  ⟨t⟩ = Σ_s w_s t_s / n,  n = Σ_s w_s

K takes two directions out of t, the constant one and x̂. In terms of x − μ = x̂ / r, which is never
rounded to x̂ first, and with sums for means:

    K(t) = γ r t − γ r (1/n) Σ w t − γ r³ (x − μ) (1/n) Σ w t (x − μ)
         = γ r t + (1/n) [c₁ + c₂ (x − μ)]
    c₁ = −γ r Σ w t,  c₂ = −γ r³ Σ w t (x − μ)

These are the three steps below: `inner_products`, `coefficients`, `apply_kernel`; between the first
two, sums travel between devices. A tangent is pushed forward by K. A cotangent is pulled back by
its transpose, w K(·/w): the same steps with the weights in the other place, Σ t for Σ w t, and
w [c₁ + c₂ (x − μ)] for c₁ + c₂ (x − μ). With equal weights the two are one symmetric operator.

Source: S0/S1 eq. 3; the weights are ours.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bnjax import _xla, moments
from bnjax import layout as layouts
from bnjax._xla import Reader
from bnjax.layout import Layout
from bnjax.moments import SplitMoments


class Projections(NamedTuple):
    """One number per channel for each direction that K takes out: 1, and x − μ; (channels,)."""

    ones: Array
    deviations: Array


def inverse_std(var: Array, eps: float) -> Array:
    """Return r = (σ² + ε)^(−1/2), and 0 where σ² + ε = 0: there y is β and nothing moves it."""
    total = var + eps
    return 1 / jnp.sqrt(jnp.where(total == 0, jnp.inf, total))


def scale(gamma: Array | None, inv_std: Array) -> Array:
    """Return γ r."""
    return inv_std if gamma is None else gamma * inv_std


def inner_products(t: Array, x: Array, split: SplitMoments, layout: Layout) -> Projections:
    """Return Σ t and Σ t (x − μ) over this device's samples.

    Args:
        t: A cotangent of y, or w times a tangent of x; in the sums' dtype and in `layout`.
        x: What is normalized, in `layout`.
        split: Its moments.
        layout: Where the samples are.
    """
    ones = layout.sum(t)
    # t apart from x: a tangent is linear, and a barrier around both would not be
    t = _xla.reread(t, Reader.INNER_PRODUCTS)
    x, (shift, remainder, *_) = moments.reread_batch(x, split, Reader.INNER_PRODUCTS)
    # Σ t (x − s) − ρ Σ t: one subtraction per number less than Σ t (x − μ)
    deviations = layout.sum(t * (x.astype(shift.dtype) - layout.row(shift)))
    return Projections(ones, deviations - remainder * ones)


def coefficients(inner: Projections, scale: Array, inv_std: Array) -> Projections:
    """Return c₁ = −γ r Σ w t and c₂ = −γ r³ Σ w t (x − μ)."""
    return Projections(-scale * inner.ones, -scale * inv_std**2 * inner.deviations)


def apply_kernel(
    t: Array,
    x: Array,
    split: SplitMoments,
    scale: Array,
    c: Projections,
    layout: Layout,
    weights: Array | None = None,
) -> Array:
    """Return γ r t + (1/n) [c₁ + c₂ (x − μ)], the bracket times w where weights are given.

    Args:
        t: A tangent of x or a cotangent of y, in the sums' dtype and in `layout`.
        x: What is normalized, in `layout`.
        split: Its moments, with the count n.
        scale: γ r.
        c: `coefficients`, and what else lies along 1 and x − μ.
        layout: Where the samples are.
        weights: w, where cotangents are pulled back with weights; else None.

    Returns:
        Of x's shape, in the sums' dtype and in `layout`.
    """
    n = _xla.opaque(jnp.where(split.count > 0, split.count, 1))
    t = _xla.reread(t, Reader.KERNEL)
    x, split = moments.reread_batch(x, split, Reader.KERNEL)
    deviation = moments.subtract_mean(x, split, layout)
    along = layout.row(c.ones / n) + layout.row(c.deviations / n) * deviation
    return layout.row(scale) * t + (along if weights is None else weights * along)


def K(t: Array, x: Array, split: SplitMoments, scale: Array, inv_std: Array) -> Array:
    """Apply K of an unweighted batch to t: all three steps, for (B, n) arrays (D.4).

    Args:
        t: Tangent or cotangent, (B, n).
        x: What is normalized, (B, n).
        split: Its moments.
        scale: γ r, (n,).
        inv_std: r, (n,).

    Returns:
        K(t), (B, n).

    Example:
        >>> x, t = jnp.array([[-1.0], [1.0]]), jnp.array([[0.0], [4.0]])
        >>> split = moments.split_moments(x, layouts.of(x, (1,)))
        >>> r = inverse_std(split.var, eps=3.0)
        >>> print(K(t, x, split, scale=r, inv_std=r)[:, 0])
        [-0.75  0.75]
    """
    layout = layouts.of(x, (1,))
    t, x = layout.view(t), layout.view(x)
    c = coefficients(inner_products(t, x, split, layout), scale, inv_std)
    return apply_kernel(t, x, split, scale, c, layout).reshape(-1, layout.channels)
