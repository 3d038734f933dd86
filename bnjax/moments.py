"""Mean and biased variance over the samples, exact for every mean, weighting and device count.

(BN.2)  μ = ⟨x⟩,  σ² = ⟨(x − μ)²⟩
(D.17)  ⟨t⟩ = Σ_s w_s t_s / n,  n = Σ_s w_s

The mean is kept as shift + remainder until x − μ has been formed: one float cannot hold μ to
better than |μ| · 6e-8, which is a large part of σ once |μ| >> σ. Sums go around a shift near the
mean: E[x²] − E[x]² loses every digit, and so does a pass around one far sample.

Source: S0–S4; the weights are ours.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from bnjax import collectives
from bnjax.collectives import Axes
from bnjax.layout import Layout, fresh

# numbers in a batch from which a branch is cheaper than one more sum over all of them
_BRANCH = 1 << 17


class Moments(NamedTuple):
    """What a batch says about each channel.

    Attributes:
        mean: μ, in float32, or float64 for float64 input; the shape of x's feature axes.
        var: σ², biased (÷ n); same shape and dtype.
        count: n, the sum of the weights (samples, without weights); same shape and dtype.
    """

    mean: Array
    var: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]


class Centre(NamedTuple):
    """Where a batch sits, per channel: μ = shift + remainder, with σ² and n."""

    shift: Array
    remainder: Array
    var: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]


def accumulator_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Tell the dtype in which sums over `dtype` are formed: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def centred(x: Array, centre: Centre, layout: Layout) -> Array:
    """Form x − μ of a view of x, without rounding μ to one float first."""
    return _from_shift(x, centre.shift, layout) - layout.row(centre.remainder)


def measure(x: Array, layout: Layout, weights: Array | None = None) -> Centre:
    """Find the centre of a batch (BN.2, D.17).

    Args:
        x: The batch, in `layout`; finite where the weight is zero.
        layout: Where its samples are.
        weights: None, or w ≥ 0 in the accumulator's dtype, in `layout` too.

    Returns:
        The centre. A channel without weight has mean 0, variance 0 and count 0.
    """
    dtype = accumulator_dtype(x.dtype)
    if layout.n == 0:
        zero = jnp.zeros(layout.channels, dtype)
        return Centre(zero, zero, zero, zero)
    if weights is not None:
        return _measure_weighted(x, layout, weights)
    shift, remainder, var = lax.platform_dependent(
        x,
        cpu=partial(_measure_guarded, layout=layout),
        default=partial(_measure_twice, layout=layout),
    )
    return Centre(shift, remainder, var, jnp.full(layout.channels, layout.n, dtype))


def _measure_guarded(x: Array, layout: Layout) -> tuple[Array, Array, Array]:
    """Go around a sample, and once more only if it turns out to lie far from some mean.

    One pass errs by 1 + (remainder/σ)² roundings.
    """
    if x.size < _BRANCH:
        return _measure_twice(x, layout)
    spread = [layout.sample(x, (2 * i + 1) * layout.n // 10) for i in range(5)]
    x, shift = fresh((x, lax.stop_gradient(_median(spread).astype(accumulator_dtype(x.dtype)))))
    once = shift, remainder, var = shift, *_around(x, shift, layout)
    again = lax.stop_gradient(shift + remainder)
    return lax.cond(
        jnp.any(remainder**2 > 16 * var), lambda: (again, *_around(x, again, layout)), lambda: once
    )


def _measure_twice(x: Array, layout: Layout) -> tuple[Array, Array, Array]:
    """Go around the mean itself, as far as one float holds it: without a branch."""
    # from one of the samples: then a constant channel's deviations are exactly zero
    first = lax.stop_gradient(layout.sample(x, 0).astype(accumulator_dtype(x.dtype)))
    shift = first + layout.sum(_from_shift(x, first, layout)) / layout.n
    x, shift = fresh((x, lax.stop_gradient(shift)))
    return shift, *_around(x, shift, layout)


def _measure_weighted(x: Array, layout: Layout, weights: Array) -> Centre:
    n = layout.sum_weights(weights)
    safe = jnp.where(n > 0, n, 1)
    # one of the samples that count, for the same reason
    largest = layout.max(jnp.where(weights > 0, x, -jnp.inf))
    first = lax.stop_gradient(jnp.where(n > 0, largest, 0).astype(weights.dtype))
    x = jnp.where(weights > 0, x.astype(weights.dtype), layout.row(first))
    shift = first + layout.sum(weights * _from_shift(x, first, layout)) / safe
    x, shift = fresh((x, lax.stop_gradient(shift)))
    remainder, var = _around(x, shift, layout, weights, safe)
    return Centre(shift, remainder, var, n)


def _around(
    x: Array,
    shift: Array,
    layout: Layout,
    weights: Array | float = 1.0,
    n: Array | int | None = None,
) -> tuple[Array, Array]:
    """Measure μ − shift and σ² by two sums that each read x once."""
    n = layout.n if n is None else n
    remainder = layout.sum(weights * _from_shift(x, shift, layout)) / n
    x, shift = fresh((x, shift))
    d = _from_shift(x, shift, layout)
    return remainder, jnp.maximum(layout.sum(weights * d * d) / n - remainder**2, 0)


def combine(centre: Centre, axes: Axes) -> Centre:
    """Find the centre of all devices' samples from the centre of each, in one all_gather.

    The payload is four numbers per channel and device. It is the same two passes again, over
    devices: s = Σ p_i s_i with p_i = n_i / n; δ_i = (s_i − s) + remainder_i; remainder = Σ p_i δ_i
    and σ² = Σ p_i [σ_i² + (δ_i − remainder)²].
    """
    if not axes.names:
        return centre
    s, rem, var, n = jnp.moveaxis(collectives.gather(jnp.stack(centre), axes), 1, 0)
    count = jnp.sum(n, 0)
    p = n / jnp.where(count > 0, count, 1)[None]
    shift = lax.stop_gradient(jnp.sum(p * s, 0))
    d = jnp.where(p > 0, (s - shift[None]) + rem, 0)
    remainder = jnp.sum(p * d, 0)
    var = jnp.sum(p * (var + (d - remainder[None]) ** 2), 0)
    return Centre(*collectives.one_per_device((shift, remainder, var), axes), count)


def _from_shift(x: Array, shift: Array, layout: Layout) -> Array:
    return x.astype(shift.dtype) - layout.row(shift)


def _median(values: list[Array]) -> Array:
    """Take the median of five by comparisons: no sort over so few, and no outlier wins."""
    a, b, c, d, e = values
    low = jnp.maximum(jnp.minimum(a, b), jnp.minimum(c, d))
    high = jnp.minimum(jnp.maximum(a, b), jnp.maximum(c, d))
    return jnp.maximum(jnp.minimum(low, high), jnp.minimum(jnp.maximum(low, high), e))
