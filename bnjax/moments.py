"""Mean and biased variance over the samples, exact for every mean, scale, weighting, device count.

(BN.2)  μ = ⟨x⟩,  σ² = ⟨(x − μ)²⟩
(D.17)  ⟨t⟩ = Σ_s w_s t_s / n,  n = Σ_s w_s
(P.2)   ν = (Σ_s w_s)²/Σ_s w_s²

Both means are formed around a shift s near μ and in units of a power of two, in one pass each:

    d = a (x − s)
==> a (μ − s) = ⟨d⟩,  a² σ² = ⟨(d − ⟨d⟩)²⟩ = ⟨d²⟩ − ⟨d⟩²

The shift: E[x²] − E[x]², which is this with s = 0, loses every digit once |μ| ≫ σ; around any s it
errs by about 1 + (⟨d⟩/aσ)² roundings. No sample is trusted as the shift, nor several: they may lie
√n σ away. The sums say so themselves, and are then formed again around the mean that they found.

The mean stays in two floats, s and ρ = μ − s, until x − μ has been formed: one float cannot hold μ
to better than |μ| 6e-8, which is a large part of σ once |μ| ≫ σ.

The unit: σ² leaves float32 where σ leaves 1e-19 … 1e19. A factor a = 2^k about as large as 1/σ
keeps a² σ² near 1, and rounds nothing. For ordinary σ it is 1, which costs nothing.

s and a are constants to differentiation: μ and σ² depend on x through d alone.

Source: S0–S4; the weights are ours.
"""

import math
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from bnjax import _xla, collectives
from bnjax._xla import Reader
from bnjax.collectives import Axes
from bnjax.layout import Layout, accumulator_dtype, rearrangeable


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
    """The same, kept so that nothing is rounded and nothing overflows; (channels,) each.

    Attributes:
        shift: s, a float near the mean.
        remainder: ρ; μ = s + ρ.
        unit: a, a power of two.
        var: a² σ².
        count: n.
        effective_count: ν.
    """

    shift: Array
    remainder: Array
    unit: Array
    var: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    effective_count: Array

    def natural(self) -> tuple[Array, Array]:
        """Return μ and σ², each in one float."""
        size = 1 / self.unit  # not σ² / a / a, which XLA turns into σ² / a², and that may underflow
        return self.shift + self.remainder, size * (size * self.var)


def split_moments(
    x: Array, layout: Layout, eps: float, weights: Array | None = None
) -> SplitMoments:
    """Compute the moments of this device's samples (BN.2, D.17).

    Args:
        x: The batch, in `layout`; finite where the weight is zero.
        layout: Where its samples are.
        eps: ε, beside which a variance may be too small to matter.
        weights: None, or w ≥ 0 in the accumulator's dtype, in `layout` too.

    Returns:
        The moments. A channel without weight has mean 0, variance 0 and count 0.

    Example:
        >>> from bnjax import layout
        >>> x = jnp.array([[1e8], [1e8 + 8]], jnp.float32)
        >>> split = split_moments(x, layout.of(x, (1,)), 0.0)
        >>> print(split.shift + split.remainder, split.var / split.unit**2)
        [1.e+08] [16.]
    """
    dtype = accumulator_dtype(x.dtype)
    if layout.n == 0:
        zero = jnp.zeros(layout.channels, dtype)
        return SplitMoments(zero, zero, jnp.ones_like(zero), zero, zero, zero)
    if weights is None:
        n = effective = jnp.full(layout.channels, layout.n, dtype)
        p = None
        shift = _first_shift(x, layout)
    else:
        n, effective = layout.sum_weights(weights), effective_count(weights, layout)
        p = fractions(weights, n, layout)
        shift = _mean_around_a_sample(x, p, layout)
        x = jnp.where(weights != 0, x.astype(dtype), layout.row(shift))
    samples = jnp.asarray(layout.n if weights is None else 1, dtype)  # n may be a symbol
    sums = _guarded_sums(x, shift, p, samples, layout, eps)
    mean, var = sums.moments(samples)
    var = jnp.maximum(var, 0)
    return SplitMoments(sums.shift, mean / sums.unit, sums.unit, var, n, effective)


def fractions(weights: Array, n: Array, layout: Layout) -> Array:
    """Return p = w/n in the layout: however large or small all weights are, they sum to 1."""
    return weights * layout.row(1 / jnp.where(n > 0, n, 1))


def deviation(x: Array, split: SplitMoments, layout: Layout) -> Array:
    """Return d = a (x − s) of a view of x. a (x − μ) is d − aρ, and a ρ a vector over channels."""
    return (x.astype(split.shift.dtype) - layout.row(split.shift)) * layout.row(split.unit)


def reread_batch(x: Array, split: SplitMoments, reader: Reader) -> tuple[Array, SplitMoments]:
    """Return x and its moments so that this reader forms x − s anew (`_xla.reread`)."""
    x, shift, unit = _xla.reread((x, split.shift, split.unit), reader)
    return x, split._replace(shift=shift, unit=unit)


def combine_devices(split: SplitMoments, eps: float, axes: Axes) -> SplitMoments:
    """Combine the moments of each device's samples into those of all, by one all_gather.

    With p_i = n_i / n and s = Σ p_i s_i it is the same formula over devices instead of samples:

        d_i = (s_i − s) + ρ_i,  ρ = Σ p_i d_i
    ==> μ = s + ρ,  a² σ² = Σ p_i [(a/a_i)² a_i² σ_i² + (a (d_i − ρ))²]

    The payload is six numbers per channel and device.
    """
    if not axes.names:
        return split
    gathered = collectives.gather(jnp.stack(split), axes)
    s, rem, a, var, n, effective = jnp.moveaxis(gathered, 1, 0)
    count = jnp.sum(n, 0)
    p = n / jnp.where(count > 0, count, 1)[None]
    shift = lax.stop_gradient(jnp.sum(p * s, 0))
    d = jnp.where(p != 0, (s - shift[None]) + rem, 0)
    remainder = jnp.sum(p * d, 0)
    d -= remainder[None]
    sizes = jnp.maximum(jnp.abs(d), jnp.sqrt(lax.stop_gradient(var)) / a)
    unit = _unit(jnp.max(jnp.where(p != 0, sizes, 0), 0), eps)
    ratio = unit[None] / a  # its square could overflow where a variance is 0
    var = jnp.sum(p * (ratio * (ratio * var) + (unit[None] * d) ** 2), 0)
    effective = combine_effective_counts(n, effective)
    return SplitMoments(shift, remainder, unit, var, count, effective)


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


class _Sums(NamedTuple):
    """Σ z and Σ z² with the shift and the unit of z; means already where there are weights."""

    shift: Array
    unit: Array
    z: Array
    square: Array

    def moments(self, n: Array) -> tuple[Array, Array]:
        """Return ⟨z⟩ and ⟨z²⟩ − ⟨z⟩²."""
        mean = self.z / n
        return mean, self.square / n - mean**2


def _guarded_sums(
    x: Array, shift: Array, p: Array | None, n: Array, layout: Layout, eps: float
) -> _Sums:
    """Form Σ z and Σ z² with a = 1; again where they left the range, or the shift was far off."""
    around = partial(_sums_around, x, p=p, layout=layout)
    plain = around(shift, jnp.ones_like(shift))
    out = _out_of_range(plain, n, eps)

    def in_units() -> _Sums:
        size = layout.max(jnp.abs(x.astype(shift.dtype) - layout.row(shift)))
        return around(shift, jnp.where(out, _unit(size, eps), 1))

    sums = _xla.cond_any(out, in_units, lambda: plain)
    far, nearer = _nearer(sums, n)
    return _xla.cond_any(far, lambda: around(nearer, sums.unit), lambda: sums)


def _out_of_range(sums: _Sums, n: Array, eps: float) -> Array:
    """Return where squares may have overflowed or, as far as it matters, underflowed."""
    _, var = lax.stop_gradient(sums).moments(n)
    middle = 2.0 ** (jnp.finfo(var.dtype).maxexp // 2)
    return ~(var < middle) if eps > 1 / middle else ~((var < middle) & (var > 1 / middle))


def _nearer(sums: _Sums, n: Array) -> tuple[Array, Array]:
    """Return where the shift is so far from the mean, 2 σ, that it costs two bits; and a better."""
    mean, var = lax.stop_gradient(sums).moments(n)
    far = mean**2 > 4 * var
    return far, sums.shift + jnp.where(far, mean / sums.unit, 0)


def _sums_around(x: Array, shift: Array, unit: Array, *, p: Array | None, layout: Layout) -> _Sums:
    """Form Σ z and Σ z², z = a (x − ξ), by two sums that each read x once."""

    def z(reader: Reader) -> Array:
        again, s = _xla.reread((x, shift), reader)
        return (again.astype(s.dtype) - layout.row(s)) * layout.row(unit)

    z1, z2 = z(Reader.REMAINDER), z(Reader.SQUARES)
    if p is None:
        return _Sums(shift, unit, layout.sum(z1), layout.sum(z2 * z2))
    return _Sums(shift, unit, layout.sum(p * z1), layout.sum(p * z2 * z2))


def _first_shift(x: Array, layout: Layout) -> Array:
    """Return the mean of eight samples, of a constant channel exactly its constant; or 0."""

    def mean_of_few(x: Array) -> Array:
        few = layout.few_samples(x).astype(accumulator_dtype(x.dtype)) / 8
        while len(few) > 1:  # in pairs: sums of equal numbers, which round nothing
            few = few[::2] + few[1::2]
        return lax.stop_gradient(few[0])

    zero = jnp.zeros_like(layout.max(x), accumulator_dtype(x.dtype))  # typed as sums are
    if not rearrangeable(x):
        return zero
    # an accelerator puts Σ x and Σ x² into the product that x comes from; a shift has to wait for x
    return _xla.by_platform(x, cpu=mean_of_few, elsewhere=lambda _: zero)


def _mean_around_a_sample(x: Array, p: Array, layout: Layout) -> Array:
    """Return the mean, found around a sample that counts; of a constant, exactly its constant."""
    largest = layout.max(jnp.where(p != 0, x, -jnp.inf))
    first = jnp.where(largest > -jnp.inf, largest, 0).astype(p.dtype)
    d = jnp.where(p != 0, x.astype(p.dtype) - layout.row(first), 0)
    return lax.stop_gradient(first + layout.sum(p * d))


def _unit(size: Array, eps: float) -> Array:
    """Return a power of two near 1/max(size, √ε): neither a² size² nor a² ε overflows."""
    return scale_to_one(jnp.maximum(lax.stop_gradient(size), math.sqrt(eps)))


def scale_to_one(size: Array) -> Array:
    """Return for each size ≥ 0 the power of two whose product with it is near one."""
    info = jnp.finfo(size.dtype)
    smallest = float(info.smallest_normal)
    inverse = jnp.clip(1 / size, smallest, 1 / smallest)
    return lax.reduce_precision(inverse, exponent_bits=info.nexp, mantissa_bits=0)
