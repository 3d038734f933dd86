"""Mean and biased variance over the samples, exact for every mean, scale, weighting, device count.

(BN.2)  μ = ⟨x⟩,  σ² = ⟨(x − μ)²⟩
(D.17)  ⟨t⟩ = Σ_s w_s t_s / n,  n = Σ_s w_s

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
    """

    mean: Array
    var: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]


class SplitMoments(NamedTuple):
    """The same, kept so that nothing is rounded and nothing overflows; (channels,) each.

    Attributes:
        shift: s, a float near the mean.
        remainder: ρ; μ = s + ρ.
        unit: a, a power of two.
        var: a² σ².
        count: n.
    """

    shift: Array
    remainder: Array
    unit: Array
    var: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]

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
        return SplitMoments(zero, zero, jnp.ones_like(zero), zero, zero)
    if weights is None:
        n, p = jnp.full(layout.channels, layout.n, dtype), None
        shift = _first_shift(x, layout)
    else:
        n = layout.sum_weights(weights)
        p = fractions(weights, n, layout)
        shift = _mean_around_a_sample(x, p, layout)
        x = jnp.where(weights > 0, x.astype(dtype), layout.row(shift))
    shift, unit, d, square = _guarded_means(x, shift, p, layout, eps)
    return SplitMoments(shift, d / unit, unit, jnp.maximum(square - d**2, 0), n)


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

    The payload is five numbers per channel and device.
    """
    if not axes.names:
        return split
    s, rem, a, var, n = jnp.moveaxis(collectives.gather(jnp.stack(split), axes), 1, 0)
    count = jnp.sum(n, 0)
    p = n / jnp.where(count > 0, count, 1)[None]
    shift = lax.stop_gradient(jnp.sum(p * s, 0))
    d = jnp.where(p > 0, (s - shift[None]) + rem, 0)
    remainder = jnp.sum(p * d, 0)
    d -= remainder[None]
    sizes = jnp.maximum(jnp.abs(d), jnp.sqrt(lax.stop_gradient(var)) / a)
    unit = _unit(jnp.max(jnp.where(p > 0, sizes, 0), 0), eps)
    ratio = unit[None] / a  # its square could overflow where a variance is 0
    var = jnp.sum(p * (ratio * (ratio * var) + (unit[None] * d) ** 2), 0)
    return SplitMoments(*collectives.one_per_device((shift, remainder, unit, var), axes), count)


class _Means(NamedTuple):
    """⟨d⟩ and ⟨d²⟩ with the shift and the unit of d; (channels,) each."""

    shift: Array
    unit: Array
    d: Array
    square: Array

    def out_of_range(self, eps: float) -> Array:
        """Return where squares may have overflowed or, as far as it matters, underflowed."""
        middle = 2.0 ** (jnp.finfo(self.square.dtype).maxexp // 2)
        d, square = lax.stop_gradient((self.d, self.square))
        var = square - d**2
        out = ~(var < middle)
        return out if eps > 1 / middle else out | ~(var > 1 / middle)

    def far(self) -> Array:
        """Return where the shift is so far from the mean that it costs digits: two bits, at 2 σ."""
        d, square = lax.stop_gradient((self.d, self.square))
        return d**2 > 4 * (square - d**2)


def _guarded_means(x: Array, shift: Array, p: Array | None, layout: Layout, eps: float) -> _Means:
    """Form the means around the shift, in units of 1; again only where they are not exact."""
    around = partial(_means_around, x, p=p, layout=layout)
    plain = around(shift, jnp.ones_like(shift))
    out = plain.out_of_range(eps)

    def in_units() -> _Means:
        size = layout.max(jnp.abs(x.astype(shift.dtype) - layout.row(shift)))
        return around(shift, jnp.where(out, _unit(size, eps), 1))

    means = _xla.cond_any(out, in_units, lambda: plain)
    far, step = means.far(), lax.stop_gradient(means.d / means.unit)
    nearer = jnp.where(far, shift + step, shift)
    return _xla.cond_any(far, lambda: around(nearer, means.unit), lambda: means)


def _means_around(
    x: Array, shift: Array, unit: Array, *, p: Array | None, layout: Layout
) -> _Means:
    """Form ⟨d⟩ and ⟨d²⟩, d = a (x − s), by two sums that each read x once."""

    def d(reader: Reader) -> Array:
        again, s = _xla.reread((x, shift), reader)
        return (again.astype(s.dtype) - layout.row(s)) * layout.row(unit)

    d1, d2 = d(Reader.REMAINDER), d(Reader.SQUARES)
    if p is None:
        n = jnp.asarray(layout.n, shift.dtype)  # which may be a symbol
        return _Means(shift, unit, layout.sum(d1) / n, layout.sum(d2 * d2) / n)
    return _Means(shift, unit, layout.sum(p * d1), layout.sum(p * d2 * d2))


def _first_shift(x: Array, layout: Layout) -> Array:
    """Return the mean of eight samples, of a constant channel exactly its constant; or 0."""

    def mean_of_few(x: Array) -> Array:
        few = layout.few_samples(x).astype(accumulator_dtype(x.dtype)) / 8
        while len(few) > 1:  # in pairs: sums of equal numbers, which round nothing
            few = few[::2] + few[1::2]
        return lax.stop_gradient(few[0])

    def zero(x: Array) -> Array:
        return jnp.zeros_like(layout.max(x), accumulator_dtype(x.dtype))  # typed as sums are

    if not rearrangeable(x):
        return zero(x)
    # an accelerator puts Σ x and Σ x² into the product that x comes from; a shift has to wait for x
    return _xla.by_platform(x, cpu=mean_of_few, elsewhere=zero)


def _mean_around_a_sample(x: Array, p: Array, layout: Layout) -> Array:
    """Return the mean, found around a sample that counts; of a constant, exactly its constant."""
    largest = layout.max(jnp.where(p > 0, x, -jnp.inf))
    first = jnp.where(largest > -jnp.inf, largest, 0).astype(p.dtype)
    d = jnp.where(p > 0, x.astype(p.dtype) - layout.row(first), 0)
    return lax.stop_gradient(first + layout.sum(p * d))


def _unit(size: Array, eps: float) -> Array:
    """Return a power of two by which deviations of this size are about 1; a²ε overflows nowhere."""
    size = jnp.maximum(lax.stop_gradient(size), math.sqrt(eps))
    info = jnp.finfo(size.dtype)
    most = 2.0 ** (info.maxexp - 2)
    # without a mantissa a number is a power of two
    power = lax.reduce_precision(jnp.clip(size, 1 / most, most), info.nexp, 0)
    return jnp.where(size > 0, 1 / power, 1)
