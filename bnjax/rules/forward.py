"""The forward of batch normalization, which every rule shares.

(BN.2)  x̂ = (x − μ) r,  r = (σ² + ε)^(−1/2)
(BN.3)  y = γ x̂ + β
(D.17)  x̂ = 0, y = β where w = 0

Source: S0/S1 §2, S3; Ioffe & Szegedy 2015.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from bnjax import _xla, kernel, moments
from bnjax._xla import Reader
from bnjax.collectives import Axes
from bnjax.layout import Layout, by_platform
from bnjax.moments import Moments, SplitMoments


class RuleConfig(NamedTuple):
    """What a rule knows when it is traced: all static.

    Attributes:
        features: The feature axes of x, ascending.
        eps: ε.
        axes: Where sums go beyond this device.
    """

    features: tuple[int, ...]
    eps: float
    axes: Axes = Axes()


@partial(jax.jit, static_argnums=0)  # one program for whoever calls it eagerly
def forward(
    config: RuleConfig, x: Array, gamma: Array | None, beta: Array | None, weights: Array | None
) -> tuple[tuple[Array, Moments], tuple[SplitMoments, Array]]:
    """Normalize x: (y, moments), and (split moments, q = r/a) for the derivatives."""
    features, eps, axes = config
    split = by_platform(x, features, lambda layout: local_moments(layout, eps, x, weights))
    split = moments.combine_devices(split, eps, axes)
    inv_std = kernel.inverse_std(split.var, eps, split.unit)  # q = r/a, BN.2
    scale = kernel.scale(gamma, inv_std * split.unit)  # γ r
    y = by_platform(
        x, features, lambda layout: scale_and_shift(layout, x, split, scale, beta, weights)
    )
    mean, var = split.natural()
    counts = split.count * axes.copies, split.effective_count * axes.copies
    return (y, Moments(mean, var, *counts)), (split, inv_std)


def local_moments(layout: Layout, eps: float, x: Array, weights: Array | None) -> SplitMoments:
    """Compute the moments of this device's samples."""
    view, w = masked_view(layout, x, weights)
    return moments.split_moments(view, layout, eps, w)


def scale_and_shift(
    layout: Layout,
    x: Array,
    split: SplitMoments,
    scale: Array,
    beta: Array | None,
    weights: Array | None,
) -> Array:
    """Return (x − s) γ r + (β − ρ γ r), of x's shape and dtype: BN.3; β where w = 0: D.17."""
    view, w = masked_view(layout, x, weights)
    view, shift = _xla.reread((view, split.shift), Reader.NORMALIZED)
    offset = -split.remainder * scale
    if beta is not None:
        offset += beta
    y = (view.astype(shift.dtype) - layout.row(shift)) * layout.row(scale) + layout.row(offset)
    if w is not None:
        y = jnp.where(w != 0, y, 0 if beta is None else layout.row(beta))
    return y.astype(x.dtype).reshape(x.shape)


def normalize_by_autodiff(
    config: RuleConfig, x: Array, gamma: Array | None, beta: Array | None, weights: Array | None
) -> tuple[Array, Moments]:
    """Normalize; differentiated by JAX: the plain reference of the two hand-derived rules."""
    return forward(config, x, gamma, beta, weights)[0]


def masked_view(layout: Layout, x: Array, weights: Array | None) -> tuple[Array, Array | None]:
    """Return x and the weights in their layout, x with zeros where the weight is zero (D.17)."""
    view = layout.view(x)
    if weights is None:
        return view, None
    w = layout.view_weights(weights, x.shape)
    return jnp.where(w != 0, view, 0), w  # 0 · x would not hide NaN and infinity
