"""K, the one operator behind the pull-back, the push-forward and every Jacobian.

(D.2)   ∂y_si/∂x_s'i = γ_i r_i [δ_ss' − 1/B − x̂_si x̂_s'i / B]
(D.4)   K(t) = γ r [t − ⟨t⟩ − x̂ ⟨t x̂⟩]
(D.7)   moments with cotangents μ̄, σ̄² add (w/n) [μ̄ + 2 σ̄² (x − μ)]
(D.17)  K(t; a, b) = γ r [t − a ⟨b t⟩ − a x̂ ⟨b t x̂⟩],  ⟨t⟩ = Σ_s t_s / n

With (a, b) = (1, w) it pushes a tangent forward, with (w, 1) it pulls a cotangent back; for equal
weights the two are the same symmetric operator. It comes in three steps, between which sums can
travel between devices: `overlaps` of t with the two directions that normalization removes, the
`amounts` to remove per channel, and `project`.

Source: S0/S1 eq. 3; the weights are ours.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bnjax import layout as layouts
from bnjax.layout import Layout, fresh
from bnjax.moments import Centre, centred


class Along(NamedTuple):
    """Per channel, something for each direction that K removes: 1, and x − μ."""

    ones: Array
    deviations: Array


def inverse_std(var: Array, eps: float) -> Array:
    """Form r = (σ² + ε)^(−1/2), and 0 where σ² + ε = 0: there y is β and nothing moves it."""
    total = var + eps
    return 1 / jnp.sqrt(jnp.where(total == 0, jnp.inf, total))


def overlaps(t: Array, x: Array, centre: Centre, layout: Layout) -> Along:
    """Sum b t, and b t (x − μ), over this device's samples.

    Args:
        t: b t: a tangent or cotangent of x, in the sums' dtype and in `layout`.
        x: What is normalized, in `layout`.
        centre: Its centre.
        layout: Where the samples are.
    """
    ones = layout.sum(t)
    # t apart from x: a tangent is linear, and a barrier around both would not be
    t, (x, shift) = fresh(t), fresh((x, centre.shift), reader=4)  # to 3: the forward's
    # Σ t (x − shift) − remainder Σ t: one subtraction per number less than t (x − μ)
    deviations = layout.sum(t * (x.astype(shift.dtype) - layout.row(shift)))
    return Along(ones, deviations - centre.remainder * ones)


def amounts(along: Along, scale: Array, inv_std: Array) -> Along:
    """Tell how much of each direction K removes, n-fold: −γ r Σ b t and −γ r³ Σ b t (x − μ)."""
    return Along(-scale * along.ones, -scale * inv_std**2 * along.deviations)


def project(
    t: Array,
    x: Array,
    centre: Centre,
    scale: Array,
    removed: Along,
    layout: Layout,
    weights: Array | None = None,
) -> Array:
    """Apply K, given what it removes: γ r t + (a/n) [removed.ones + removed.deviations (x − μ)].

    Args:
        t: A tangent or cotangent of x, in the sums' dtype and in `layout`.
        x: What is normalized, in `layout`.
        centre: Its centre, with the count n.
        scale: γ r.
        removed: `amounts`; with (μ̄, 2 σ̄²) added where the moments have cotangents (D.7).
        layout: Where the samples are.
        weights: The factor a: w where cotangents are pulled back, None (one) otherwise.

    Returns:
        Of x's shape, in the sums' dtype and in `layout`.
    """
    # not a constant to XLA:CPU, which would compute a product with one anew for every number
    n = fresh(jnp.where(centre.count > 0, centre.count, 1))
    t, (x, shift) = fresh(t, reader=2), fresh((x, centre.shift), reader=5)
    deviation = centred(x, centre._replace(shift=shift), layout)
    back = layout.row(removed.ones / n) + layout.row(removed.deviations / n) * deviation
    return layout.row(scale) * t + (back if weights is None else weights * back)


def K(t: Array, x: Array, centre: Centre, scale: Array, inv_std: Array) -> Array:
    """Apply K of an unweighted batch to t: all three steps, for (B, n) arrays (D.4).

    Args:
        t: Tangent or cotangent, (B, n).
        x: What is normalized, (B, n).
        centre: Its centre.
        scale: γ r, (n,).
        inv_std: r, (n,).

    Returns:
        K(t), (B, n).
    """
    layout = layouts.of(x, (1,))
    t, x = layout.view(t), layout.view(x)
    removed = amounts(overlaps(t, x, centre, layout), scale, inv_std)
    return project(t, x, centre, scale, removed, layout).reshape(-1, layout.channels)
