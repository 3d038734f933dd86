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
from bnjax.moments import Moments, scale_to_one

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


def merge_statistics(
    big: SplitStatistics,
    small: SplitStatistics,
    p: tuple[Array, Array | float],
    *,
    between: bool,
) -> SplitStatistics:
    """Merge two statistics, the lighter of which weighs p ≤ 1/2 (P.5, P.7).

    μ = μ_1 + p (μ_2 − μ_1),  σ² = σ_1² + p (σ_2² − σ_1²), and + p (1 − p) (μ_2 − μ_1)² for the
    variance of all samples.

    Args:
        big: The heavier one, (n,) each. For p = 0 it is returned as it is.
        small: The lighter one.
        p: The lighter one's weight as a sum of two floats.
        between: Whether the variance of all samples is asked for.
    """
    high, low = p
    # halves: a difference of two finite numbers may be infinite
    half = (small.mean / 2 - big.mean / 2) + (small.remainder / 2 - big.remainder / 2)
    mean, remainder = two_sum(big.mean, big.remainder + 2 * (high * half + low * half))

    # scaled by a power of two to σ near one: p d² alone may overflow or underflow
    root = jnp.sqrt(jnp.maximum(big.var, jnp.where(high > 0, small.var, 0)))
    if between:
        root = jnp.maximum(root, 2 * (jnp.sqrt(high) * jnp.abs(half)))
    scale = scale_to_one(lax.stop_gradient(root))
    v, other = (_xla.as_written(one.var * scale) * scale for one in (big, small))
    rest = v * big.var_remainder
    d = (other - v) + (other * small.var_remainder - rest)
    step = high * d + low * d
    if between:
        d = _xla.as_written(half * scale)
        step += 4 * ((high * d) * ((1 - high) * d))
    total, rest = two_sum(v, rest + step)
    unit = scale_to_one(scale)
    whole = _xla.as_written(total * unit) * unit
    merged = SplitStatistics(mean, remainder, whole, rest / jnp.where(total == 0, 1, total))
    return SplitStatistics(
        *(jnp.where(high > 0, a, b) for a, b in zip(merged, big, strict=True))
    )


def ordered(swap: Array, first: Any, second: Any) -> tuple[Any, Any]:
    """Return two trees of vectors in this order, and in the other one where `swap` is true."""
    select = partial(jax.tree.map, partial(jnp.where, swap))
    return select(second, first), select(first, second)


def add_counts(count: Array, more: Array) -> Array:
    """Return the sum of two int32 counts ≥ 0; it stays at the largest one, 2³¹ − 1."""
    most = jnp.iinfo(count.dtype).max
    more = more.astype(count.dtype)
    return jnp.minimum(count, most - more) + more


def check_channels(function: str, have: Array, moments: Moments) -> None:
    """Refuse moments of other channels than those seen before."""
    if moments.mean.shape != have.shape:
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
