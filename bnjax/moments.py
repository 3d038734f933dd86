"""Mean and biased variance over the samples, exact for every mean, weighting and device count.

(BN.2)  μ = ⟨x⟩,  σ² = ⟨(x − μ)²⟩
(D.17)  ⟨t⟩ = Σ_s w_s t_s / n,  n = Σ_s w_s
(P.2)   ν = (Σ_s w_s)²/Σ_s w_s²

Both sums are formed around a shift s near the mean, in one pass each:

    d = x − s,  ρ = ⟨d⟩
==> μ = s + ρ,  σ² = ⟨(d − ρ)²⟩ = ⟨d²⟩ − ρ²

E[x²] − E[x]², which is this with s = 0, loses every digit once |μ| ≫ σ; around any s it errs by
about 1 + (ρ/σ)² roundings. So no single row is trusted as the shift: it may lie √n σ away. And the
mean stays in two floats, s and ρ, until x − μ has been formed: one float cannot hold μ to better
than |μ| 6e-8, which is a large part of σ once |μ| ≫ σ.

Source: S0–S4; the weights are ours.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from bnjax import _xla, collectives
from bnjax._xla import Reader
from bnjax.collectives import Axes
from bnjax.layout import Layout, accumulator_dtype


class Moments(NamedTuple):
    """The moments of a batch, per channel.

    Attributes:
        mean: μ, in float32, or float64 for float64 input; the shape of x's feature axes.
        var: σ², biased (÷ n); same shape and dtype.
        count: n, the sum of the weights (samples, without weights); same shape and dtype.
        effective_count: ν = (Σ w)²/Σ w², the equally weighted samples that these are worth: the
            count for a mask or without weights; same shape and dtype. None stands for the count.
    """

    mean: Array
    var: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    effective_count: Array | None = None


class SplitMoments(NamedTuple):
    """The same with the mean in two floats, μ = shift + remainder; (channels,) each."""

    shift: Array
    remainder: Array
    var: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    effective_count: Array


def split_moments(x: Array, layout: Layout, weights: Array | None = None) -> SplitMoments:
    """Compute the moments of this device's samples (BN.2, D.17).

    Args:
        x: The batch, in `layout`; finite where the weight is zero.
        layout: Where its samples are.
        weights: None, or w ≥ 0 in the accumulator's dtype, in `layout` too.

    Returns:
        The moments. A channel without weight has mean 0, variance 0 and count 0.

    Example:
        >>> from bnjax import layout
        >>> x = jnp.array([[1e8], [1e8 + 8]], jnp.float32)
        >>> moments = split_moments(x, layout.of(x, (1,)))
        >>> print(moments.shift, moments.remainder, moments.var)
        [1.e+08] [4.] [16.]
    """
    dtype = accumulator_dtype(x.dtype)
    if layout.n == 0:
        zero = jnp.zeros(layout.channels, dtype)
        return SplitMoments(zero, zero, zero, zero, zero)
    if weights is not None:
        return _weighted_moments(x, layout, weights)
    shift, remainder, var = _xla.by_platform(
        x,
        cpu=partial(_around_a_sample, layout=layout),
        elsewhere=partial(_around_the_mean, layout=layout),
    )
    n = jnp.full(layout.channels, layout.n, dtype)
    return SplitMoments(shift, remainder, var, n, n)


def subtract_mean(x: Array, split: SplitMoments, layout: Layout) -> Array:
    """Return x − μ of a view of x, without rounding μ to one float first."""
    return _subtract(x, split.shift, layout) - layout.row(split.remainder)


def reread_batch(x: Array, split: SplitMoments, reader: Reader) -> tuple[Array, SplitMoments]:
    """Return x and its moments so that this reader forms x − shift anew (`_xla.reread`)."""
    x, shift = _xla.reread((x, split.shift), reader)
    return x, split._replace(shift=shift)


def combine_devices(split: SplitMoments, axes: Axes) -> SplitMoments:
    """Combine the moments of each device's samples into those of all, by one all_gather.

    With p_i = n_i / n and s = Σ p_i s_i it is the same formula over devices instead of samples:

        d_i = (s_i − s) + ρ_i,  ρ = Σ p_i d_i
    ==> μ = s + ρ,  σ² = Σ p_i [σ_i² + (d_i − ρ)²]

    The payload is five numbers per channel and device.
    """
    if not axes.names:
        return split
    s, rem, var, n, effective = jnp.moveaxis(collectives.gather(jnp.stack(split), axes), 1, 0)
    count = jnp.sum(n, 0)
    p = n / jnp.where(count > 0, count, 1)[None]
    shift = lax.stop_gradient(jnp.sum(p * s, 0))
    d = jnp.where(p != 0, (s - shift[None]) + rem, 0)
    remainder = jnp.sum(p * d, 0)
    var = jnp.sum(p * (var + (d - remainder[None]) ** 2), 0)
    return SplitMoments(
        *collectives.one_per_device((shift, remainder, var), axes),
        count,
        combine_effective_counts(n, effective),
    )


def effective_count(weights: Array, layout: Layout) -> Array:
    """Compute ν = (Σ w)²/Σ w² of this device's samples (P.2).

    The weights are scaled to a mean near one: otherwise Σ w² would overflow or underflow long
    before Σ w does. The scale is a power of two, so that the count of a mask stays exact.

    Args:
        weights: w ≥ 0 in the accumulator's dtype, in `layout`.
        layout: Where the samples are.

    Returns:
        ν, (channels,): 0 for a channel without weight, NaN for one with a weight that is NaN.

    Example:
        >>> from bnjax import layout
        >>> samples = layout.of(jnp.ones((3, 1)), (1,))
        >>> print(effective_count(jnp.array([[1e-30], [1e-30], [0.0]]), samples))
        [2.]
    """
    if layout.samples_per_row > 1:  # a channel has several columns, of one scale
        mean = layout.row(layout.sum(weights) / layout.n)
    else:
        mean = jnp.mean(weights, layout.sample_axes, keepdims=True)
    w = _xla.as_written(weights * scale_to_one(mean))
    total, squares = layout.sum_weights(w), layout.sum_weights(w * w)
    return total * (total / jnp.where(squares == 0, 1, squares))


def combine_effective_counts(n: Array, effective: Array) -> Array:
    """Combine the effective counts of devices: ν = (Σ n_i)² / Σ n_i²/ν_i.

    Args:
        n: The count of each device, (devices, channels).
        effective: ν_i, (devices, channels).

    Returns:
        ν, (channels,).
    """
    count = jnp.sum(n, 0)
    part = _xla.as_written(n * scale_to_one(count)[None])
    total = jnp.sum(part, 0)
    squares = jnp.sum(part * part / jnp.where(effective == 0, 1, effective), 0)
    combined = total * (total / jnp.where(squares == 0, 1, squares))
    # Σ w² = Σ w on each device, as of masks: then so it is of all, without rounding
    return jnp.where(jnp.all(effective == n, 0), count, combined)


def scale_to_one(size: Array) -> Array:
    """Return for each size ≥ 0 the power of two whose product with it is near one."""
    info = jnp.finfo(size.dtype)
    smallest = float(info.smallest_normal)
    inverse = jnp.clip(1 / size, smallest, 1 / smallest)
    return lax.reduce_precision(inverse, exponent_bits=info.nexp, mantissa_bits=0)


def _around_a_sample(x: Array, layout: Layout) -> tuple[Array, Array, Array]:
    """Shift by one of five samples; again by the mean, only if that was far from any channel's."""
    if not _xla.branch_pays(x.size):
        return _around_the_mean(x, layout)
    five = [layout.sample(x, (2 * i + 1) * layout.n // 10) for i in range(5)]
    shift = lax.stop_gradient(_median(five).astype(accumulator_dtype(x.dtype)))
    once = shift, remainder, var = shift, *_sums_around(x, shift, layout)
    nearer = lax.stop_gradient(shift + remainder)
    return lax.cond(
        jnp.any(remainder**2 > 16 * var),
        lambda: (nearer, *_sums_around(x, nearer, layout)),
        lambda: once,
    )


def _around_the_mean(x: Array, layout: Layout) -> tuple[Array, Array, Array]:
    """Shift by the mean, as far as one float holds it: one more pass, and no branch."""
    # found around one of the samples: a constant channel's deviations are then exactly zero
    first = lax.stop_gradient(layout.sample(x, 0).astype(accumulator_dtype(x.dtype)))
    mean = first + layout.sum(_subtract(x, first, layout)) / layout.n
    shift = lax.stop_gradient(mean)  # a constant: μ = shift + ρ depends on x through ρ alone
    return shift, *_sums_around(x, shift, layout)


def _weighted_moments(x: Array, layout: Layout, weights: Array) -> SplitMoments:
    n = layout.sum_weights(weights)
    safe = jnp.where(n > 0, n, 1)
    # around one of the samples that count, for the same reason
    largest = layout.max(jnp.where(weights != 0, x, -jnp.inf))
    first = lax.stop_gradient(jnp.where(n > 0, largest, 0).astype(weights.dtype))
    x = jnp.where(weights != 0, x.astype(weights.dtype), layout.row(first))
    mean = first + layout.sum(weights * _subtract(x, first, layout)) / safe
    shift = lax.stop_gradient(mean)
    sums = _sums_around(x, shift, layout, weights, safe)
    return SplitMoments(shift, *sums, n, effective_count(weights, layout))


def _sums_around(
    x: Array,
    shift: Array,
    layout: Layout,
    weights: Array | float = 1.0,
    n: Array | int | None = None,
) -> tuple[Array, Array]:
    """Return ρ = ⟨d⟩ and σ² = ⟨d²⟩ − ρ², d = x − shift, by two sums that each read x once."""
    n = layout.n if n is None else n
    d = _subtract(*_xla.reread((x, shift), Reader.REMAINDER), layout)
    remainder = layout.sum(weights * d) / n
    d = _subtract(*_xla.reread((x, shift), Reader.SQUARES), layout)
    return remainder, jnp.maximum(layout.sum(weights * d * d) / n - remainder**2, 0)


def _subtract(x: Array, shift: Array, layout: Layout) -> Array:
    return x.astype(shift.dtype) - layout.row(shift)


def _median(values: list[Array]) -> Array:
    """Return the median of five by comparisons: no sort over so few, and no outlier wins."""
    a, b, c, d, e = values
    low = jnp.maximum(jnp.minimum(a, b), jnp.minimum(c, d))
    high = jnp.minimum(jnp.maximum(a, b), jnp.maximum(c, d))
    return jnp.maximum(jnp.minimum(low, high), jnp.minimum(jnp.maximum(low, high), e))
