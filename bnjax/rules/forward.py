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

from bnjax import kernel, moments
from bnjax._xla import Reader
from bnjax.collectives import Axes
from bnjax.layout import Layout
from bnjax.moments import Moments, SplitMoments


class RuleConfig(NamedTuple):
    """What a rule knows when it is traced: all static."""

    layout: Layout
    eps: float
    axes: Axes = Axes()


@partial(jax.jit, static_argnums=0)  # one program for whoever calls it eagerly
def forward(
    config: RuleConfig, x: Array, gamma: Array | None, beta: Array | None, weights: Array | None
) -> tuple[tuple[Array, Moments], tuple[SplitMoments, Array]]:
    """Normalize x: (y, moments), and (split moments, r) for the derivatives."""
    layout, eps, axes = config
    view, w = masked_view(layout, x, weights)
    split = moments.combine_devices(moments.split_moments(view, layout, w), axes)
    inv_std = kernel.inverse_std(split.var, eps)  # BN.2
    view, near = moments.reread_batch(view, split, Reader.NORMALIZED)
    deviation = moments.subtract_mean(view, near, layout)
    y = deviation * layout.row(kernel.scale(gamma, inv_std))  # γ r is a vector: one product
    if w is not None:
        y = jnp.where(w != 0, y, 0)  # D.17
    if beta is not None:
        y = y + layout.row(beta)  # BN.3
    counts = split.count * axes.copies, split.effective_count * axes.copies
    whole = Moments(split.shift + split.remainder, split.var, *counts)
    return (y.astype(x.dtype).reshape(x.shape), whole), (split, inv_std)


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
    # 0 · x would not hide NaN and infinity; a weight that is NaN hides nothing
    return jnp.where(w != 0, view, 0), w
