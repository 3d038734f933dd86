"""K, the one operator behind the pull-back, the push-forward and every Jacobian.

(D.2)   ∂y_si/∂x_s'i = γ_i r_i [δ_ss' − 1/B − x̂_si x̂_s'i / B]
(D.4)   K(t) = γ r [t − ⟨t⟩ − x̂ ⟨t x̂⟩]
(D.17)  ⟨t⟩ = Σ_s w_s t_s / n,  n = Σ_s w_s

K subtracts from t a multiple of 1 and a multiple of x̂. Neither x̂ nor x − μ is formed, as either
would round once more. `moments` keeps μ in two floats, ξ + e, and multiplies deviations by a power
of two, z = a (x − ξ):

    a (x − μ) = z − a e,  x̂ = q (z − a e)  with  q = r/a                                 (BN.2)
==> K(t) = γ r t − γ r ⟨t⟩ − γ r q² (z − a e) ⟨t (z − a e)⟩                               (D.4)

In three steps, each a function below; between the first two, sums travel between devices:

    Σ t,  Σ t (z − a e) = Σ t z − a e Σ t                                      `inner_products`
    c₁ = −γ r ⟨t⟩,  c₂ = −γ r q² ⟨t (z − a e)⟩                                   `coefficients`
    K(t) = γ r t + c₁ + c₂ (z − a e) = γ r t + (c₁ − c₂ a e) + c₂ z              `apply_kernel`

Only the first power of r appears: r² and r³ leave float32 where K(t) may not. q² stays inside, as a
keeps a² (σ² + ε) above about 2⁻⁶⁴ and a² σ² below 2⁶⁴. (t z is formed, and overflows where |t| aσ
does.)

K pushes tangents forward, with ⟨t⟩ = Σ p t, p = w/n. Its transpose, w K(·/w), pulls cotangents back
(D.17): the same steps with plain sums for the two means, and p [c₁ + c₂ (z − a e)] for
c₁ + c₂ (z − a e). With equal weights the two are one operator (D.3).

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
    """Inner products with 1 and with z − a e, or coefficients of these two; (channels,) each."""

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
    """Return Σ t and Σ t (z − a e) over this device's samples.

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
    # Σ t z − a e Σ t: one subtraction per number less than Σ t (z − a e)
    deviations = layout.sum(t * moments.deviation(x, split, layout))
    return Projections(ones, deviations - (split.remainder * split.unit) * ones)


def coefficients(inner: Projections, scale: Array, inv_std: Array) -> Projections:
    """Return c₁ = −γ r ⟨t⟩ and c₂ = −γ r q² ⟨t (z − a e)⟩, or with sums in place of the means.

    Args:
        inner: The means, or the sums.
        scale: γ r.
        inv_std: q = r/a.
    """
    return Projections(-scale * inner.ones, -scale * (inv_std * (inv_std * inner.deviations)))


def average(sums: Projections, n: Array) -> Projections:
    """Return the means of sums over n samples of equal weight: 1/n of each."""
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
    """Return γ r t + c₁ + c₂ (z − a e); its last two summands times p where weights are given.

    Args:
        t: A tangent of x or a cotangent of y, in the sums' dtype and in `layout`.
        x: What is normalized, in `layout`.
        split: Its moments.
        scale: γ r.
        c: c₁ and c₂, with whatever a rule adds to them.
        layout: Where the samples are.
        p: p = w/n in `layout`, where cotangents are pulled back with weights; else None.

    Returns:
        Of x's shape, in the sums' dtype and in `layout`.
    """
    t = _xla.reread(t, Reader.KERNEL)
    x, split = moments.reread_batch(x, split, Reader.KERNEL)
    constant = c.ones - c.deviations * (split.remainder * split.unit)  # c₁ − c₂ a e, a vector
    # c₁ + c₂ (z − a e)
    mixed = layout.row(constant) + layout.row(c.deviations) * moments.deviation(x, split, layout)
    return layout.row(scale) * t + (mixed if p is None else p * mixed)  # D.4; D.17 with p


def K(t: Array, x: Array, split: SplitMoments, scale: Array, inv_std: Array) -> Array:
    """Apply K of an unweighted batch to t: all three steps, for (B, n_out) arrays (D.4).

    Args:
        t: Tangent or cotangent, (B, n_out).
        x: What is normalized, (B, n_out).
        split: Its moments.
        scale: γ r, (n_out,).
        inv_std: q = r/a, (n_out,).

    Returns:
        K(t), (B, n_out).

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
