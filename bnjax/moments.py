"""Mean and biased variance over the samples, accurate for any mean, scale, weights and devices.

(BN.2)  μ = ⟨x⟩,  σ² = ⟨(x − μ)²⟩
(D.17)  ⟨t⟩ = Σ_s w_s t_s / n,  n = Σ_s w_s

x is taken relative to a shift ξ near μ, times a power of two a; two sums give both moments:

    z = a (x − ξ)
==> ⟨z⟩ = a (μ − ξ),  ⟨z²⟩ − ⟨z⟩² = ⟨(z − ⟨z⟩)²⟩ = a² σ²                                  (BN.2)
==> μ = ξ + e  with  e = ⟨z⟩/a

The shift. ⟨x²⟩ − ⟨x⟩², the case ξ = 0, a = 1, loses every digit once |μ| ≫ σ. Around any ξ, σ² is
off by about 1 + (⟨z⟩/aσ)² roundings. The first ξ is the mean of eight samples on a CPU; elsewhere,
and where x is not `rearrangeable`, what the caller takes the mean to be, or 0; with weights, the
mean found around one sample. None is sure to be near μ: one sample may lie √n σ away. Where
|⟨z⟩| > 2 aσ, the sums are formed again around ξ + e.

The remainder. μ stays in two floats, ξ and e, until x − μ has been formed: one float holds μ to
|μ| 6e-8 at best, which is a large part of σ once |μ| is 1e6 σ.

The factor. σ² leaves float32 where σ leaves 1e-19 … 1e19. On one device a is 1 until σ² rises above
2⁶⁴, or falls below 2⁻⁶⁴ with ε as small; then it is near 1/max(|x − ξ|, √ε). `combine_devices`
always chooses one anew. A product with a power of two rounds nothing.

ξ and a are constants to differentiation: μ and σ² depend on x through z alone.

Source: S0–S4; the weights are ours.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from bnjax import _xla, collectives
from bnjax._xla import Reader
from bnjax.collectives import Axes
from bnjax.effective_counts import combine_effective_counts, effective_count
from bnjax.layout import Layout, accumulator_dtype, rearrangeable
from bnjax.powers_of_two import scale_to_one


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
    """The moments before μ and σ² are rounded to one float in x's own scale; (channels,) each.

    Attributes:
        shift: ξ, a float near the mean, or 0.
        remainder: e; μ = ξ + e.
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
        size = 1 / self.unit  # not var / a / a: XLA makes it var / a², and a² may leave the range
        return self.shift + self.remainder, size * (size * self.var)


def split_moments(
    x: Array,
    layout: Layout,
    eps: float,
    weights: Array | None = None,
    mean_guess: Array | None = None,
) -> SplitMoments:
    """Compute the moments of this device's samples (BN.2, D.17).

    Args:
        x: The batch, in `layout`; finite where the weight is zero.
        layout: Where its samples are.
        eps: ε, beside which a variance may be too small to matter.
        weights: None, or w ≥ 0 in the accumulator's dtype, in `layout` too.
        mean_guess: None, or about μ, (channels,): a first shift.

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
        shift = _first_shift(x, layout, mean_guess)
        other_shift = None if mean_guess is None else _first_shift(x, layout, None)
    else:
        n, effective = layout.sum_weights(weights), effective_count(weights, layout)
        p = fractions(weights, n, layout)
        shift, other_shift = _mean_around_a_sample(x, p, layout), None
        x = jnp.where(weights != 0, x.astype(dtype), layout.row(shift))
    sums = _guarded_sums(layout, eps, x, shift, other_shift, p)
    mean, var = sums.moments(_samples(layout, p, dtype))
    shift, unit = lax.stop_gradient((sums.shift, sums.unit))
    return SplitMoments(shift, mean / unit, unit, jnp.maximum(var, 0), n, effective)


def fractions(weights: Array, n: Array, layout: Layout) -> Array:
    """Return p = w/n in the layout, which sums to 1; 0 where n = 0, NaN where n overflowed."""
    inverse = jnp.where(n < jnp.inf, 1 / jnp.where(n == 0, 1, n), jnp.nan)
    return weights * layout.row(inverse)


def deviation(x: Array, split: SplitMoments, layout: Layout) -> Array:
    """Return z = a (x − ξ) of a view of x; a (x − μ) is z − a e, with the vector a e."""
    return (x.astype(split.shift.dtype) - layout.row(split.shift)) * layout.row(split.unit)


def reread_batch(x: Array, split: SplitMoments, reader: Reader) -> tuple[Array, SplitMoments]:
    """Return x and its moments so that this reader forms x − ξ anew (`_xla.reread`)."""
    x, shift, unit = _xla.reread((x, split.shift, split.unit), reader)
    return x, split._replace(shift=shift, unit=unit)


def combine_devices(split: SplitMoments, eps: float, axes: Axes) -> SplitMoments:
    """Combine the moments of each device's samples into those of all, by one all_gather.

    Six numbers per channel travel from each device.
    """
    if not axes.names:
        return split
    gathered = collectives.gather(jnp.stack(split), axes)
    return combine_batches(SplitMoments(*jnp.moveaxis(gathered, 1, 0)), eps)


def combine_batches(parts: SplitMoments, eps: float) -> SplitMoments:
    """Combine the moments of mini-batches, (N_B, channels) each, into those of all their samples.

    With p_k = n_k/n and ξ = Σ_k p_k ξ_k:

        μ_k − ξ = (ξ_k − ξ) + e_k
    ==> μ = ξ + e,  e = Σ_k p_k (μ_k − ξ)                                                 (P.5)
    ==> a² σ² = Σ_k p_k [(a/a_k)² a_k² σ_k² + a² (μ_k − μ)²]                              (P.5)

    a is chosen anew, near 1/max(σ_k, |μ_k − μ|, √ε); ν is `combine_effective_counts`.

    Source: Chan, Golub & LeVeque 1983.
    """
    s, rem, a, var, n, effective = parts
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


class _Sums(NamedTuple):
    """Σ z and Σ z² with ξ and a; ⟨z⟩ and ⟨z²⟩ already where there are weights."""

    shift: Array
    unit: Array
    z: Array
    square: Array

    def moments(self, n: Array) -> tuple[Array, Array]:
        """Return ⟨z⟩ and ⟨z²⟩ − ⟨z⟩²."""
        mean = self.z / n
        return mean, self.square / n - mean**2


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _guarded_sums(
    layout: Layout,
    eps: float,
    x: Array,
    shift: Array,
    other_shift: Array | None,
    p: Array | None,
) -> _Sums:
    """Form Σ z and Σ z² with a = 1; again where they left the range, or the shift was far off.

    Where there is another shift, the first is a guess, and gives way where it proves no use.
    """
    n = _samples(layout, p, shift.dtype)

    def flags(attempt: int | Array, sums: _Sums) -> tuple[Array, Array]:
        out = _out_of_range(sums, n, eps)
        if other_shift is not None:
            out |= _far(sums, n, 2.0**10)
        out &= attempt == 0
        return out, _far(sums, n) & ~out

    def fail(attempt: int | Array, sums: _Sums) -> Array:
        out, far = flags(attempt, sums)
        return out | far

    def again(attempt: int | Array, sums: _Sums) -> _Sums:
        out, far = flags(attempt, sums)
        start = sums.shift if other_shift is None else jnp.where(out, other_shift, sums.shift)
        size = layout.max(jnp.abs(x.astype(start.dtype) - layout.row(start)))
        unit = jnp.where(out, _unit(size, eps), sums.unit)
        nearer = start + jnp.where(far, sums.moments(n)[0] / sums.unit, 0)
        return _sums_around(x, nearer, unit, p, layout)

    first = _sums_around(x, shift, jnp.ones_like(shift), p, layout)
    # twice: after a unit for its size a channel may need a shift, and a far shift a second one
    return _xla.retry(fail, again, first, most=2, axes=len(layout.shape))


@_guarded_sums.defjvp
def _sums_pushed_forward(
    layout: Layout, eps: float, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[_Sums, _Sums]:
    """Let JAX differentiate the sums that were kept: ξ, a and the weights are constants."""
    x, *_, p = primals
    sums = _guarded_sums(layout, eps, *primals)

    def kept(x: Array) -> _Sums:
        return _sums_around(x, sums.shift, sums.unit, p, layout)

    return sums, jax.jvp(kept, (x,), tangents[:1])[1]


def _samples(layout: Layout, p: Array | None, dtype: jnp.dtype) -> Array:
    """Return what Σ z is divided by: n, which may be a symbol, or 1 where p is in the sum."""
    return jnp.asarray(layout.n if p is None else 1, dtype)


def _out_of_range(sums: _Sums, n: Array, eps: float) -> Array:
    """Return where squares may have overflowed or, as far as it matters, underflowed."""
    _, var = sums.moments(n)
    middle = 2.0 ** (jnp.finfo(var.dtype).maxexp // 2)
    return ~(var < middle) if eps > 1 / middle else ~((var < middle) & (var > 1 / middle))


def _far(sums: _Sums, n: Array, most: float = 2.0) -> Array:
    """Return where the shift is more than so many σ from the mean: 2 σ cost two bits."""
    mean, var = sums.moments(n)
    return mean**2 > most**2 * var


def _sums_around(x: Array, shift: Array, unit: Array, p: Array | None, layout: Layout) -> _Sums:
    """Form Σ z and Σ z², z = a (x − ξ), by two sums that each read x once."""

    def z(reader: Reader) -> Array:
        again, s = _xla.reread((x, shift), reader)
        return (again.astype(s.dtype) - layout.row(s)) * layout.row(unit)

    z1, z2 = z(Reader.REMAINDER), z(Reader.SQUARES)
    if p is None:
        return _Sums(shift, unit, layout.sum(z1), layout.sum(z2 * z2))
    return _Sums(shift, unit, layout.sum(p * z1), layout.sum(p * z2 * z2))


def _first_shift(x: Array, layout: Layout, mean_guess: Array | None) -> Array:
    """Return on a CPU the mean of eight samples, exact for a constant channel; else the guess."""

    def mean_of_few(x: Array) -> Array:
        few = layout.few_samples(x).astype(accumulator_dtype(x.dtype)) / 8
        while len(few) > 1:  # in pairs: sums of equal numbers, which round nothing
            few = few[::2] + few[1::2]
        return lax.stop_gradient(few[0])

    guess = jnp.zeros_like(layout.max(x), accumulator_dtype(x.dtype))  # typed as sums are
    if mean_guess is not None:
        guess += jnp.where(jnp.isfinite(mean_guess), mean_guess, 0)
    if not rearrangeable(x):
        return guess
    # an accelerator puts Σ x and Σ x² into the product that x comes from; a sample would wait for x
    return _xla.by_platform(x, cpu=mean_of_few, elsewhere=lambda _: guess)


def _mean_around_a_sample(x: Array, p: Array, layout: Layout) -> Array:
    """Return the mean, found around a sample that counts; of a constant, exactly its constant."""
    largest = layout.max(jnp.where(p != 0, x, -jnp.inf))
    first = jnp.where(largest > -jnp.inf, largest, 0).astype(p.dtype)
    d = jnp.where(p != 0, x.astype(p.dtype) - layout.row(first), 0)
    return lax.stop_gradient(first + layout.sum(p * d))


def _unit(size: Array, eps: float) -> Array:
    """Return a, a power of two near 1/max(size, √ε): neither a² size² nor a² ε overflows."""
    size = jnp.maximum(lax.stop_gradient(size), math.sqrt(eps))
    return jnp.where(size > 0, scale_to_one(size), 1)  # a constant has no size
