"""K, the one operator behind the pull-back, the push-forward and every Jacobian.

(D.2)   ∂y_si/∂x_s'i = γ_i r_i [δ_ss' − 1/B − x̂_si x̂_s'i / B]
(D.4)   K(t) = γ r [t − ⟨t⟩ − x̂ ⟨t x̂⟩]
(D.17)  ⟨t⟩ = Σ_s w_s t_s / n,  n = Σ_s w_s

K takes two directions out of t, the constant one and x̂. It is formed from x − μ, which is never
rounded to x̂ first, in units of the power of two a that keeps a² σ² near 1 (`moments`):

    q = r/a,  d = a (x − s),  a (x − μ) = d − aρ,  x̂ = q (d − aρ)
==> K(t) = γ r t − γ r ⟨t⟩ − γ r q² (d − aρ) ⟨t (d − aρ)⟩
         = γ r t + c₁ + c₂ (d − aρ)
    c₁ = −γ r ⟨t⟩,  c₂ = −γ r q² ⟨t (d − aρ)⟩

No power of r above the first appears, so nothing overflows that the result does not.

These are the three steps below: `inner_products`, `coefficients`, `apply_kernel`; between the first
two, sums travel between devices. A tangent is pushed forward by K. A cotangent is pulled back by
its transpose, w K(·/w): the same steps with the weights p = w/n in the other place, Σ t for
⟨t⟩ = Σ p t, and p [c₁ + c₂ (d − aρ)] for c₁ + c₂ (d − aρ). With equal weights the two are one
symmetric operator.

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
    """A number per channel for each direction that K takes out: 1, and a (x − μ); (channels,)."""

    ones: Array
    deviations: Array


def inverse_std(var: Array, eps: float, unit: Array | float = 1.0) -> Array:
    """Return q = r/a = (a² σ² + a² ε)^(−1/2) from a² σ² and a; 0 where σ² + ε = 0: there y is β."""
    total = var + (eps * unit) * unit
    return 1 / jnp.sqrt(jnp.where(total == 0, jnp.inf, total))


def scale(gamma: Array | None, inv_std: Array) -> Array:
    """Return γ r."""
    return inv_std if gamma is None else gamma * inv_std


def inner_products(t: Array, x: Array, split: SplitMoments, layout: Layout) -> Projections:
    """Return Σ t and Σ t a (x − μ) over this device's samples.

    Args:
        t: A cotangent of y, or p times a tangent of x; in the sums' dtype and in `layout`.
        x: What is normalized, in `layout`.
        split: Its moments.
        layout: Where the samples are.
    """
    ones = layout.sum(t)
    # t apart from x: a tangent is linear, and a barrier around both would not be
    t = _xla.reread(t, Reader.INNER_PRODUCTS)
    x, split = moments.reread_batch(x, split, Reader.INNER_PRODUCTS)
    # Σ t d − aρ Σ t: one subtraction per number less than Σ t (d − aρ)
    deviations = layout.sum(t * moments.deviation(x, split, layout))
    return Projections(ones, deviations - (split.remainder * split.unit) * ones)


def coefficients(inner: Projections, scale: Array, inv_std: Array) -> Projections:
    """Return c₁ = −γ r ⟨t⟩ and c₂ = −γ r q² ⟨t (d − aρ)⟩, or with sums in place of the means.

    Args:
        inner: The means, or the sums.
        scale: γ r.
        inv_std: q.
    """
    return Projections(-scale * inner.ones, -scale * (inv_std * (inv_std * inner.deviations)))


def average(sums: Projections, n: Array) -> Projections:
    """Return what sums over n samples of equal weight are on average: p = 1/n of each."""
    n = _xla.opaque(jnp.where(n > 0, n, 1))
    return Projections(sums.ones / n, sums.deviations / n)


def apply_kernel(
    t: Array,
    x: Array,
    split: SplitMoments,
    scale: Array,
    c: Projections,
    layout: Layout,
    p: Array | None = None,
) -> Array:
    """Return γ r t + c₁ + c₂ (d − aρ); its last two summands times p where weights are given.

    Args:
        t: A tangent of x or a cotangent of y, in the sums' dtype and in `layout`.
        x: What is normalized, in `layout`.
        split: Its moments.
        scale: γ r.
        c: `coefficients`, and what else lies along 1 and a (x − μ).
        layout: Where the samples are.
        p: p = w/n in `layout`, where cotangents are pulled back with weights; else None.

    Returns:
        Of x's shape, in the sums' dtype and in `layout`.
    """
    t = _xla.reread(t, Reader.KERNEL)
    x, split = moments.reread_batch(x, split, Reader.KERNEL)
    constant = c.ones - c.deviations * (split.remainder * split.unit)  # c₁ − c₂ aρ, a vector
    along = layout.row(constant) + layout.row(c.deviations) * moments.deviation(x, split, layout)
    return layout.row(scale) * t + (along if p is None else p * along)


def K(t: Array, x: Array, split: SplitMoments, scale: Array, inv_std: Array) -> Array:
    """Apply K of an unweighted batch to t: all three steps, for (B, n) arrays (D.4).

    Args:
        t: Tangent or cotangent, (B, n).
        x: What is normalized, (B, n).
        split: Its moments.
        scale: γ r, (n,).
        inv_std: q = r/a, (n,).

    Returns:
        K(t), (B, n).

    Example:
        >>> x, t = jnp.array([[-1.0], [1.0]]), jnp.array([[0.0], [4.0]])
        >>> split = moments.split_moments(x, layouts.of(x, (1,)), eps=3.0)
        >>> q = inverse_std(split.var, 3.0, split.unit)
        >>> print(K(t, x, split, scale=q * split.unit, inv_std=q)[:, 0])
        [-0.75  0.75]
    """
    layout = layouts.of(x, (1,))
    t, x = layout.view(t), layout.view(x)
    means = average(inner_products(t, x, split, layout), split.count)
    c = coefficients(means, scale, inv_std)
    return apply_kernel(t, x, split, scale, c, layout).reshape(-1, layout.channels)
