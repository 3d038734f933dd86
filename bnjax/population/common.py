"""What running and pooled statistics share: sums in two floats, their merging, and checks.

A mean is kept as mean + remainder, a variance as var (1 + remainder): the steps of a long average
are smaller than the rounding of one float. The variance's remainder is relative, since that of
1e-30 would itself underflow in float32.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from bnjax import _xla
from bnjax.moments import Moments
from bnjax.powers_of_two import scale_to_one

Shape = int | tuple[int, ...]


class SplitStatistics(NamedTuple):
    """A mean and a variance in two floats each."""

    mean: Array
    remainder: Array
    var: Array
    var_remainder: Array


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a + b as sum + remainder, exactly (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def add_part(
    whole: SplitStatistics, other: SplitStatistics, p: tuple[Array, Array]
) -> SplitStatistics:
    """Return μ + p (μ' − μ) and σ² + p (σ'² − σ²), the mean of both statistics (P.1, P.2, P.7).

    Args:
        whole: Where to start: without rounding where its weight, 1 − p, is at least about p.
        other: What to move towards.
        p: Its weight as a sum of two floats.
    """
    high, low = p
    other = select(high > 0, other, whole)  # what has no weight sets no scale
    scale = scale_to_one(lax.stop_gradient(jnp.maximum(whole.var, other.var)))
    v, v_other = whole.var * scale, other.var * scale
    rest = v * whole.var_remainder
    d = (v_other - v) + (v_other * other.var_remainder - rest)
    total, rest = two_sum(v, rest + (high * d + low * d))
    return SplitStatistics(
        *_add_part_of_mean(whole, other, p),
        total * scale_to_one(scale),
        rest / jnp.where(total == 0, 1, total),
    )


def merge_samples(big: SplitStatistics, small: SplitStatistics, p: Array) -> SplitStatistics:
    """Return μ + p (μ' − μ) and σ² + p (σ'² − σ²) + p (1 − p) (μ' − μ)², that of all samples (P.5).

    Args:
        big: The statistics with the larger count.
        small: The others.
        p: Their part of the count, at most 1/2.
    """
    small = select(p > 0, small, big)
    half = _half_difference(big, small)
    # scaled by a power of two to σ near one: p d² alone may overflow or underflow
    size = jnp.sqrt(jnp.maximum(big.var, small.var))
    size = jnp.maximum(size, 2 * (jnp.sqrt(p) * jnp.abs(half)))
    scale = scale_to_one(lax.stop_gradient(size))
    v, v_small = (_xla.as_written(one.var * scale) * scale for one in (big, small))
    rest = v * big.var_remainder
    d = (v_small - v) + (v_small * small.var_remainder - rest)
    half = _xla.as_written(half * scale)
    total, rest = two_sum(v, rest + (p * d + 4 * ((p * half) * ((1 - p) * half))))
    unit = scale_to_one(scale)
    return SplitStatistics(
        *_add_part_of_mean(big, small, (p, jnp.zeros_like(p))),
        _xla.as_written(total * unit) * unit,
        rest / jnp.where(total == 0, 1, total),
    )


def _add_part_of_mean(
    whole: SplitStatistics, other: SplitStatistics, p: tuple[Array, Array]
) -> tuple[Array, Array]:
    half, (high, low) = _half_difference(whole, other), p
    return two_sum(whole.mean, whole.remainder + 2 * (high * half + low * half))


def _half_difference(whole: SplitStatistics, other: SplitStatistics) -> Array:
    """Return half of μ' − μ: the difference of two finite numbers may be infinite."""
    return (other.mean / 2 - whole.mean / 2) + (other.remainder / 2 - whole.remainder / 2)


def select(chosen: Array, yes: Any, no: Any) -> Any:
    """Return a tree of vectors: one tree's where `chosen` is true, the other's elsewhere."""
    return jax.tree.map(partial(jnp.where, chosen), yes, no)


def add_counts(count: Array, more: Array) -> Array:
    """Return the sum of two int32 counts ≥ 0; it stays at the largest one, 2³¹ − 1."""
    most = jnp.iinfo(count.dtype).max
    more = more.astype(count.dtype)
    return jnp.minimum(count, most - more) + more


def check_channels(function: str, have: Array, moments: Moments, *, groups: bool = False) -> None:
    """Refuse moments, of several groups maybe, of other channels than those seen before."""
    if moments.mean.shape[groups:] != have.shape:
        raise ValueError(
            f"{function}: `moments` must be of the channels seen before, shape {have.shape}; got "
            f"{moments.mean.shape}. Start with the shape of the feature axes."
        )


def check_stacked(function: str, moments: Moments) -> None:
    """Refuse moments without a leading axis of batches."""
    if moments.mean.ndim < 2:
        raise ValueError(
            f"{function}: `moments` must be stacked along a leading axis, (K, n) each; got "
            f"{moments.mean.shape}. Use jax.tree.map(lambda *m: jnp.stack(m), *list_of_moments)."
        )
