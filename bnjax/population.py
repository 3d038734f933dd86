"""Statistics for inference, gathered batch by batch while training or after it.

(P.1)  μ_BN = mean over mini-batches of μ_B
(P.2)  σ²_BN = mean over mini-batches of n/(n − 1) σ_B²
(P.5)  Var[x] = ⟨σ_B²⟩ + Var_B[μ_B], weighted by count: the data's own variance
(P.7)  m_k = d m_(k−1) + (1 − d) μ_k, read as m_k / (1 − d^k)

What P.7 reads after k batches is again a weighted mean of the batches: one update
m ← m + α_k (μ_k − m) serves both, with α_k = 1/k (P.1, P.2) or (1 − d)/(1 − d^k) (P.7). P.5 is
gathered in a `Pool`; two of them merge, so that shards, hosts and streams can each have their
own: with p = n_b / (n_a + n_b) and d = μ_b − μ_a, μ = μ_a + p d and
σ² = σ_a² + p (σ_b² − σ_a²) + p (1 − p) d².

A mean is kept in two floats, mean + remainder: the steps of a long average are smaller than the
rounding of one.

Source: S3; Ioffe & Szegedy 2015, algorithm 2; Chan, Golub & LeVeque 1983 for merging.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer

from bnjax.moments import Moments, accumulator_dtype

Shape = int | tuple[int, ...]


class PopulationState(NamedTuple):
    """What one normalization has seen so far.

    Attributes:
        mean: The running mean as it is to be read, zero before the first batch; (n,).
        var: The running *unbiased* variance, one before the first batch; (n,).
        batches: k, the batches that went in, per channel; (n,) int32.
        skipped: Batches left out because their moments were not finite; (n,) int32.
        remainder: What the mean is beyond the float that `mean` can hold; (n,).
    """

    mean: Array
    var: Array
    batches: Array
    skipped: Array
    remainder: Array


class Pool(NamedTuple):
    """The moments of all that has been pooled, as if it were one batch (P.5).

    Attributes:
        mean: Its mean, zero while it is empty; (n,).
        var: Its own variance, biased (÷ count); (n,).
        count: The weight of its samples, (n,); a float, so float32 rounds it beyond 2²⁴.
        batches: The batches that went in, per channel; (n,) int32.
        skipped: Batches left out because their moments were not finite; (n,) int32.
        remainder: What the mean is beyond the float that `mean` can hold; (n,).
    """

    mean: Array
    var: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    batches: Array
    skipped: Array
    remainder: Array


def init(n: Shape, dtype: jnp.dtype = jnp.float32) -> PopulationState:
    """Start with no batch seen.

    Args:
        n: Number of channels, or the shape of several feature axes.
        dtype: Of what is normalized; the statistics are at least float32.

    Returns:
        A state with mean 0 and variance 1.

    Example:
        >>> print(init(2).var, init(2).batches)
        [1. 1.] [0 0]
    """
    wide = accumulator_dtype(dtype)
    # each an array of its own: one buffer cannot be donated twice
    return PopulationState(
        mean=jnp.zeros(n, wide),
        var=jnp.ones(n, wide),
        batches=jnp.zeros(n, jnp.int32),
        skipped=jnp.zeros(n, jnp.int32),
        remainder=jnp.zeros(n, wide),
    )


def update(
    state: PopulationState, moments: Moments, *, decay: float | None = 0.9
) -> PopulationState:
    """Take one batch's moments in (P.7, or P.1 and P.2).

    Args:
        state: What was seen before.
        moments: The batch's, with biased variance; the factor n/(n − 1) comes from their count, in
            which a sample of weight 2 is two samples.
        decay: d, the weight on the old value, 0 <= d < 1; None for the cumulative average, in
            which all batches weigh the same, whatever their count.

    Returns:
        The new state. A channel whose count is at most one has no variance: it is left as it is.
        A channel whose moments are not finite is left as it is, and counted as skipped.

    Raises:
        ValueError: decay is outside its range, or the moments have other channels than the state.

    Example:
        >>> batch = Moments(jnp.array([3.0]), jnp.array([1.0]), jnp.array([2.0]))
        >>> state = update(init(1), batch, decay=0.9)
        >>> print(state.mean, state.var)
        [3.] [2.]
    """
    if decay is not None and not 0 <= decay < 1:
        raise ValueError(
            f"population.update: `decay`, the weight on the old value, must be None or in [0, 1); "
            f"got {decay!r}."
        )
    _check_channels("population.update", state.mean, moments)
    mean, var, n = moments
    several = n > 1
    unbiased = var * jnp.where(several, n / jnp.where(several, n - 1, 1), 1)  # P.2
    finite = jnp.isfinite(mean) & jnp.isfinite(unbiased)
    taken = several & finite
    batches = state.batches + taken
    dtype = state.mean.dtype
    k = jnp.maximum(batches, 1).astype(dtype)
    d = jnp.asarray(decay or 0, dtype)
    alpha = jnp.where(taken, 1 / k if decay is None else (1 - d) / (1 - d**k), 0)  # P.1, P.7
    further = (jnp.where(taken, mean, state.mean) - state.mean) - state.remainder
    more = jnp.where(taken, unbiased, state.var) - state.var
    running, remainder = _two_sum(state.mean, (state.remainder + alpha * further).astype(dtype))
    return PopulationState(
        running,
        (state.var + alpha * more).astype(dtype),
        batches,
        state.skipped + ~finite,
        remainder,
    )


def statistics(state: PopulationState) -> tuple[Array, Array]:
    """Read (mean, var) for `normalize`: 0 and 1 for a channel that has seen no batch.

    Example:
        >>> mean, var = statistics(init(1))
        >>> print(mean, var)
        [0.] [1.]
    """
    return state.mean + state.remainder, state.var


@jax.jit
def average(moments: Moments) -> tuple[Array, Array]:
    """Average over batches (P.1, P.2): what `update` with decay None makes of them, in order.

    Each batch weighs the same, with the factor n/(n − 1) of its own count. Over equal batches the
    mean is the data's own; the variance is an estimate, unbiased where batches are drawn with
    replacement. `pool` weighs by count and estimates nothing.

    Args:
        moments: Of K batches, stacked along a leading axis: (K, n) each.

    Returns:
        (mean, var), (n,) each: 0 and 1 for a channel without a batch to take.

    Raises:
        ValueError: The moments are not stacked.

    Example:
        >>> mean, var = jnp.array([[1.0], [3.0]]), jnp.array([[2.0], [0.0]])
        >>> print(*average(Moments(mean, var, jnp.full((2, 1), 2.0))))
        [2.] [2.]
    """
    _check_stacked("population.average", moments)

    def take(state: PopulationState, one: Moments) -> tuple[PopulationState, None]:
        return update(state, one, decay=None), None

    start = init(moments.mean.shape[1:], moments.mean.dtype)
    return statistics(lax.scan(take, start, moments)[0])


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
    _check_stacked("population.pool", moments)

    def take(pooled: Pool, one: Moments) -> tuple[Pool, None]:
        return add(pooled, one), None

    start = empty(moments.mean.shape[1:], moments.mean.dtype)
    return statistics(to_state(lax.scan(take, start, moments)[0]))


def empty(n: Shape, dtype: jnp.dtype = jnp.float32) -> Pool:
    """Start a pool with nothing in it.

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
    )


def add(pooled: Pool, moments: Moments) -> Pool:
    """Take one batch's moments into a pool.

    Args:
        pooled: What it holds.
        moments: The batch's. A channel whose moments are not finite is left as it is, and counted
            as skipped; one without a sample is left as it is.

    Raises:
        ValueError: The moments have other channels than the pool.

    Example:
        >>> batch = Moments(jnp.array([3.0]), jnp.array([1.0]), jnp.array([2.0]))
        >>> print(add(empty(1), batch).mean)
        [3.]
    """
    _check_channels("population.add", pooled.mean, moments)
    mean, var, n = (part.astype(pooled.mean.dtype) for part in moments)
    finite = jnp.isfinite(mean) & jnp.isfinite(var)
    taken = finite & (n > 0)
    mean, var, n = (jnp.where(taken, part, 0) for part in (mean, var, n))
    batches, skipped = taken.astype(jnp.int32), (~finite).astype(jnp.int32)
    return merge(pooled, Pool(mean, var, n, batches, skipped, jnp.zeros_like(mean)))


def merge(a: Pool, b: Pool) -> Pool:
    """Pool two pools: of shards, of hosts, of a stream so far and its next part.

    Any order gives the same, to rounding.

    Example:
        >>> one = add(empty(1), Moments(jnp.array([1.0]), jnp.array([1.0]), jnp.array([2.0])))
        >>> two = add(empty(1), Moments(jnp.array([4.0]), jnp.array([0.0]), jnp.array([1.0])))
        >>> both = merge(one, two)
        >>> print(both.mean, both.count)
        [2.] [3.]
    """
    count = a.count + b.count
    # from the heavier one: then an empty pool changes no bit of the other
    heavier = b.count > a.count
    big, small = (jax.tree.map(partial(jnp.where, heavier), *pair) for pair in ((b, a), (a, b)))
    p = small.count / jnp.where(count > 0, count, 1)
    d = (small.mean - big.mean) + (small.remainder - big.remainder)
    mean, remainder = _two_sum(big.mean, big.remainder + p * d)
    # d² alone could overflow where one of them is empty
    var = big.var + p * (small.var - big.var) + (p * d) * ((1 - p) * d)  # P.5
    return Pool(mean, var, count, a.batches + b.batches, a.skipped + b.skipped, remainder)


def to_state(pooled: Pool) -> PopulationState:
    """Make statistics for inference of a pool.

    What was pooled is taken for the population itself, not for a sample of it: the variance is its
    own (P.5), without a factor.

    Example:
        >>> print(to_state(empty(1)).var)
        [1.]
    """
    var = jnp.where(pooled.batches > 0, pooled.var, 1)
    return PopulationState(pooled.mean, var, pooled.batches, pooled.skipped, pooled.remainder)


def known(tree: Any) -> bool:
    """Tell whether all numbers in a tree can be read here: none is traced or on another host."""
    return all(
        not isinstance(leaf, Tracer)
        and (not isinstance(leaf, Array) or leaf.is_fully_addressable or leaf.is_fully_replicated)
        for leaf in jax.tree.leaves(tree)
    )


def check_seen(function: str, states: Iterable[PopulationState]) -> None:
    """Refuse, where their numbers are known, statistics of which a channel has seen no batch."""
    counts = [(state.batches, state.skipped) for state in states]
    if not known(counts):
        return
    for number, (batches, skipped) in enumerate(jax.device_get(counts)):
        unseen = batches == 0
        if unseen.any():
            raise ValueError(
                f"{function}: `state` must hold statistics of at least one batch for every "
                f"channel; got none for {unseen.sum()} of {unseen.size} channels of normalization "
                f"{number} ({skipped.max()} batches were skipped as not finite). Train first with "
                "train=True, keeping the state it returns, or use training.measure_population."
            )


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Add without loss: a + b = sum + remainder, exactly (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _check_channels(function: str, have: Array, moments: Moments) -> None:
    if moments.mean.shape != have.shape:
        raise ValueError(
            f"{function}: `moments` must be of the channels seen before, shape {have.shape}; got "
            f"{moments.mean.shape}. Start with the shape of the feature axes."
        )


def _check_stacked(function: str, moments: Moments) -> None:
    if moments.mean.ndim < 2:
        raise ValueError(
            f"{function}: `moments` must be stacked along a leading axis, (K, n) each; got "
            f"{moments.mean.shape}. Use jax.tree.map(lambda *m: jnp.stack(m), *list_of_moments)."
        )
