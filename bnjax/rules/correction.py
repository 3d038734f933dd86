"""The correction of batch renormalization: a batch compared with given statistics.

(R.1)  y = γ (λ x̂ + τ) + β
(R.1)  λ = clip(r_BN/r, 1/λ_max, λ_max),  τ = clip((μ − μ_BN) r_BN, −τ_max, τ_max)

λ and τ are constants to differentiation. So every rule stays what it is with γ λ for γ and β + γ τ
for β, but for the γ inside of both:

    γ̄ = λ Σ ȳ⁺ x̂ + τ Σ ȳ⁺,  ẏ = … + γ̇ λ x̂ + γ̇ τ                                      (R.1)

The difference of means is formed from two floats each, (ξ − μ_BN) + e: where |μ| ≫ σ, one float
does not hold it.

Where σ² + ε = 0, x̂ is 0 whatever λ is, and where σ²_BN + ε = 0, r_BN counts as 0, as in P.3.

Source: Ioffe 2017.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from bnjax import kernel
from bnjax.moments import SplitMoments


class GivenStatistics(NamedTuple):
    """What a batch is compared with, and how far it may differ; (channels,) each.

    Attributes:
        mean: μ_BN, but for the remainder.
        remainder: What the mean is beyond `mean`.
        var: σ²_BN.
        r_min: The least λ, 1/λ_max if not given otherwise.
        r_max: λ_max.
        d_max: τ_max ≥ 0.
    """

    mean: Array
    remainder: Array
    var: Array
    r_min: Array
    r_max: Array
    d_max: Array


class Correction(NamedTuple):
    """λ and τ, constants; (channels,) each."""

    ratio: Array
    offset: Array


def compare(split: SplitMoments, inv_std: Array, given: GivenStatistics, eps: float) -> Correction:
    """Return λ and τ (R.1); 1 and 0 in a channel without samples.

    Args:
        split: The moments of the batch.
        inv_std: q = r/a.
        given: The statistics.
        eps: ε.
    """
    r, given_r = inv_std * split.unit, kernel.inverse_std(given.var, eps)
    # the quotient of the two r: that of the variances leaves float32
    ratio = jnp.where(r == 0, 1, given_r / jnp.where(r == 0, 1, r))
    offset = ((split.shift - given.mean) + (split.remainder - given.remainder)) * given_r
    seen = split.count != 0
    ratio = jnp.where(seen, jnp.clip(ratio, given.r_min, given.r_max), 1)
    offset = jnp.where(seen, jnp.clip(offset, -given.d_max, given.d_max), 0)
    return lax.stop_gradient(Correction(ratio, offset))


def corrected(
    gamma: Array | None, correction: Correction | None
) -> tuple[Array | None, Array | None]:
    """Return γ λ and γ τ; without a correction γ and None."""
    if correction is None:
        return gamma, None
    return correction if gamma is None else (gamma * correction.ratio, gamma * correction.offset)


def corrected_cotangent(along_x_hat: Array, ones: Array, correction: Correction | None) -> Array:
    """Return γ̄ = λ Σ ȳ⁺ x̂ + τ Σ ȳ⁺ (R.1); without a correction Σ ȳ⁺ x̂ (D.5)."""
    if correction is None:
        return along_x_hat
    return correction.ratio * along_x_hat + correction.offset * ones
