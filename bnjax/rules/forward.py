"""The forward of batch normalization, which every rule shares.

(BN.2)  x̂ = (x − μ) r,  r = (σ² + ε)^(−1/2)
(BN.3)  y = γ x̂ + β
(D.17)  x̂ = 0, y = β where w = 0

With a `Correction`, γ λ stands for γ and β + γ τ for β (R.1), but where y is β alone.

With `masked="normalize"`, BN.2 and BN.3 hold where w = 0, too: such places read the moments of the
others and shape none. Whatever is not finite there has no y (NaN) and no influence.

μ is kept in two floats, ξ + e, and σ² as a² σ² with a power of two a (`moments`); derivatives get
these and q = r/a:

    q = (a² σ² + a² ε)^(−1/2),  r = a q                                                (BN.2)
    y = γ r (x − ξ − e) + β                                                      (BN.2, BN.3)
==> y = (x − ξ) γ r + (β − e γ r)

Example:
    >>> x = jnp.array([[-1.0], [1.0]])
    >>> (y, _), (split, q, _) = forward(RuleConfig((1,), eps=3.0), x, None, None, None)
    >>> print(y[:, 0], split.unit, q)  # σ² = 1, r = 1/2
    [-0.5  0.5] [1.] [0.5]

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
from bnjax.rules.correction import Correction, GivenStatistics, compare, corrected

MASKED = ("beta", "normalize")  # what y may be where w = 0


class RuleConfig(NamedTuple):
    """What a rule knows when it is traced: all static.

    Attributes:
        features: The feature axes of x, ascending.
        eps: ε.
        axes: Where sums go beyond this device.
        masked: What y is where w = 0: "beta", or "normalize" for x normalized as elsewhere.
        dtype: Of y; None for x's.
    """

    features: tuple[int, ...]
    eps: float
    axes: Axes = Axes()
    masked: str = "beta"
    dtype: jnp.dtype | None = None


# for a linear map of (config, tangents, *others): what JAX saves to transpose it are its arguments,
# x among them, from which x − μ is formed again
saving_arguments = partial(
    jax.checkpoint,
    policy=jax.checkpoint_policies.nothing_saveable,
    prevent_cse=False,
    static_argnums=0,
)


@partial(jax.jit, static_argnums=0)  # one program for whoever calls it eagerly
def forward(
    config: RuleConfig,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    weights: Array | None,
    mean_guess: Array | None = None,
    given: GivenStatistics | None = None,
) -> tuple[tuple[Array, Moments], tuple[SplitMoments, Array, Correction | None]]:
    """Normalize x: (y, moments), and (split moments, q = r/a, λ and τ) for the derivatives."""
    features, eps, axes = config.features, config.eps, config.axes
    split = by_platform(
        x, features, lambda layout: local_moments(config, layout, x, weights, mean_guess)
    )
    split = moments.combine_devices(split, eps, axes)
    inv_std = inverse_std(config, split, split.var)  # q = r/a, BN.2
    correction = None if given is None else compare(split, inv_std, given, eps)
    gamma_ratio, gamma_offset = corrected(gamma, correction)
    scale = kernel.scale(gamma_ratio, inv_std * split.unit)  # γ r, γ λ r

    def normalized(layout: Layout) -> Array:
        return scale_and_shift(config, layout, x, split, scale, beta, gamma_offset, weights)

    y = by_platform(x, features, normalized)
    mean, var = split.natural()
    counts = split.count * axes.copies, split.effective_count * axes.copies
    return (y, Moments(mean, var, *counts)), (split, inv_std, correction)


def local_moments(
    config: RuleConfig,
    layout: Layout,
    x: Array,
    weights: Array | None,
    mean_guess: Array | None,
) -> SplitMoments:
    """Compute the moments of this device's samples."""
    view, w, _ = masked_view(config, layout, x, weights)
    return moments.split_moments(view, layout, config.eps, w, mean_guess)


def inverse_std(config: RuleConfig, split: SplitMoments, var: Array) -> Array:
    """Return q = r/a of a² σ², and 0 for a channel without moments: there every y is β."""
    inv_std = kernel.inverse_std(var, config.eps, split.unit)
    return jnp.where(split.count == 0, 0, inv_std) if config.masked == "normalize" else inv_std


def scale_and_shift(
    config: RuleConfig,
    layout: Layout,
    x: Array,
    split: SplitMoments,
    scale: Array,
    beta: Array | None,
    gamma_offset: Array | None,
    weights: Array | None,
) -> Array:
    """Return (x − ξ) γ r + (β − e γ r), of x's shape: BN.3; β where w = 0: D.17.

    γ λ stands for γ, and γ τ is added, where there is a correction (R.1).
    """
    view, _, kept = masked_view(config, layout, x, weights)
    view, shift = _xla.reread((view, split.shift), Reader.NORMALIZED)
    offset = -split.remainder * scale
    if beta is not None:
        offset += beta
    if gamma_offset is not None:
        offset += gamma_offset
    y = (view.astype(shift.dtype) - layout.row(shift)) * layout.row(scale) + layout.row(offset)
    if kept is not None and config.masked == "beta":
        y = jnp.where(kept, y, 0 if beta is None else layout.row(beta))
    elif kept is not None:
        y = jnp.where(kept, y, jnp.nan)
    return y.astype(config.dtype or x.dtype).reshape(x.shape)


def normalize_by_autodiff(
    config: RuleConfig,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    weights: Array | None,
    mean_guess: Array | None,
    given: GivenStatistics | None,
) -> tuple[Array, Moments]:
    """Normalize; differentiated by JAX: the plain reference of the two hand-derived rules."""
    return forward(config, x, gamma, beta, weights, mean_guess, given)[0]


def masked_view(
    config: RuleConfig, layout: Layout, x: Array, weights: Array | None
) -> tuple[Array, Array | None, Array | None]:
    """Return x and the weights in their layout, and which places of x are normalized.

    x is zero at the others (D.17): weights of zero would not hide NaN and infinity.
    """
    view = layout.view(x)
    if weights is None:
        return view, None, None
    w = layout.view_weights(weights, x.shape)
    kept = (w != 0) | jnp.isfinite(view) if config.masked == "normalize" else w != 0
    return jnp.where(kept, view, 0), w, kept


def masked_pair(
    config: RuleConfig,
    layout: Layout,
    t: Array,
    x: Array,
    weights: Array | None,
    dtype: jnp.dtype,
) -> tuple[Array, Array, Array | None, Array | None]:
    """Return t, a cotangent of y or a tangent of x, in `dtype`, beside `masked_view`'s three.

    It is zero where x is not normalized: t⁺ (D.17).
    """
    view, w, kept = masked_view(config, layout, x, weights)
    t = layout.view(t).astype(dtype)
    return t if kept is None else jnp.where(kept, t, 0), view, w, kept
