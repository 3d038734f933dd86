"""Pooled statistics: the moments of all samples, as if they were one batch.

(P.5)  Var[x] = Σ_k n_k [σ_k² + (μ_k − E[x])²] / N,
       E[x] = μ_1 + (n_2/N) (μ_2 − μ_1) where N_B = 2,
       Var[x] = σ_1² + (n_2/N) (σ_2² − σ_1²) + (n_1/N) (n_2/N) (μ_2 − μ_1)² where N_B = 2

A pool stands for a batch of all its samples. So two pools merge by the last two lines, and shards,
hosts and streams can each have their own.

Source: Chan, Golub & LeVeque 1983.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from bnjax.layout import accumulator_dtype
from bnjax.moments import Moments
from bnjax.population.common import (
    Shape,
    SplitStatistics,
    add_counts,
    check_channels,
    check_stacked,
    merge_samples,
    select,
    two_sum,
)
from bnjax.population.running import PopulationState, statistics


class Pool(NamedTuple):
    """The moments of all that has been pooled, as if it were one batch (P.5).

    Attributes:
        mean: Its mean, zero while it is empty; (n,).
        var: Its own variance, biased (÷ count); (n,).
        count: The weight of its samples, (n,).
        batches: The batches that went in, per channel; (n,) int32, which stays at 2³¹ − 1.
        skipped: Batches left out because their moments were not finite; as `batches`.
        remainder: What the mean is beyond the float that `mean` can hold; (n,).
        var_remainder: As in `PopulationState`.
        count_remainder: What the count is beyond the float that `count` can hold; (n,).
    """

    mean: Array
    var: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    batches: Array
    skipped: Array
    remainder: Array
    var_remainder: Array
    count_remainder: Array


def empty(n: Shape, dtype: jnp.dtype = jnp.float32) -> Pool:
    """Return an empty pool.

    Args:
        n: As in `init`.
        dtype: As in `init`.

    Example:
        >>> print(empty(2).count)
        [0. 0.]
    """
    wide = accumulator_dtype(dtype)
    return Pool(
        mean=jnp.zeros(n, wide),
        var=jnp.zeros(n, wide),
        count=jnp.zeros(n, wide),
        batches=jnp.zeros(n, jnp.int32),
        skipped=jnp.zeros(n, jnp.int32),
        remainder=jnp.zeros(n, wide),
        var_remainder=jnp.zeros(n, wide),
        count_remainder=jnp.zeros(n, wide),
    )


def add(pooled: Pool, moments: Moments) -> Pool:
    """Add one batch's moments to a pool.

    Args:
        pooled: The pool so far.
        moments: The batch's. A channel whose moments are not finite is left as it is, and counted
            as skipped; one without a sample is left as it is.

    Raises:
        ValueError: The moments have other channels than the pool.

    Example:
        >>> batch = Moments(jnp.array([3.0]), jnp.array([1.0]), jnp.array([2.0]))
        >>> print(add(empty(1), batch).mean)
        [3.]
    """
    check_channels("population.add", pooled.mean, moments)
    mean, var, n = (part.astype(pooled.mean.dtype) for part in moments[:3])
    finite = jnp.isfinite(mean) & jnp.isfinite(var) & jnp.isfinite(n)
    taken = finite & (n > 0)
    mean, var, n = (jnp.where(taken, part, 0) for part in (mean, var, n))
    batches, skipped = taken.astype(jnp.int32), (~finite).astype(jnp.int32)
    zero = jnp.zeros_like(mean)
    return merge(pooled, Pool(mean, var, n, batches, skipped, zero, zero, zero))


def merge(a: Pool, b: Pool) -> Pool:
    """Merge two pools: of shards, of hosts, of a stream so far and its next part.

    Any order gives the same, to rounding. A pool whose share of all samples is no normal number
    (below 1.2e-38 in float32) counts as none.

    Example:
        >>> one = add(empty(1), Moments(jnp.array([1.0]), jnp.array([1.0]), jnp.array([2.0])))
        >>> two = add(empty(1), Moments(jnp.array([4.0]), jnp.array([0.0]), jnp.array([1.0])))
        >>> both = merge(one, two)
        >>> print(both.mean, both.count)
        [2.] [3.]
    """
    # from the heavier one: then an empty pool changes no bit of the other
    heavier = b.count > a.count
    big, small = select(heavier, b, a), select(heavier, a, b)
    count, rest = two_sum(big.count, small.count)
    count, count_remainder = two_sum(count, rest + (big.count_remainder + small.count_remainder))
    p = small.count / jnp.where(count > 0, count, 1)
    whole = _split(big)
    merged = select(p > 0, merge_samples(whole, _split(small), p), whole)  # P.5
    return Pool(
        merged.mean,
        merged.var,
        count,
        add_counts(a.batches, b.batches),
        add_counts(a.skipped, b.skipped),
        merged.remainder,
        merged.var_remainder,
        count_remainder,
    )


def _split(pooled: Pool) -> SplitStatistics:
    return SplitStatistics(pooled.mean, pooled.remainder, pooled.var, pooled.var_remainder)


def to_state(pooled: Pool) -> PopulationState:
    """Convert a pool to statistics for inference.

    What was pooled is taken for the population itself, not for a sample of it: the variance is its
    own (P.5), without a factor.

    Example:
        >>> print(to_state(empty(1)).var)
        [1.]
    """
    var = jnp.where(pooled.batches > 0, pooled.var, 1)
    mean, remainder, _, var_remainder = _split(pooled)
    return PopulationState(mean, var, pooled.batches, pooled.skipped, remainder, var_remainder)


@jax.jit
def pool(moments: Moments) -> tuple[Array, Array]:
    """Pool batches (P.5): mean and variance of all their samples, exact for unequal batches.

    Args:
        moments: Of K batches, stacked along a leading axis: (K, n) each. A batch of one sample
            counts; one that is empty or not finite does not.

    Returns:
        (mean, var), (n,) each; the variance is the samples' own, ÷ n. 0 and 1 for a channel
        without a sample.

    Raises:
        ValueError: The moments are not stacked.

    Example:
        >>> mean, var = jnp.array([[1.0], [4.0]]), jnp.array([[1.0], [0.0]])
        >>> print(*pool(Moments(mean, var, jnp.array([[2.0], [1.0]]))))  # of 0, 2 and 4
        [2.] [2.666...]
    """
    check_stacked("population.pool", moments)

    def step(pooled: Pool, one: Moments) -> tuple[Pool, None]:
        return add(pooled, one), None

    start = empty(moments.mean.shape[1:], moments.mean.dtype)
    return statistics(to_state(lax.scan(step, start, moments)[0]))
