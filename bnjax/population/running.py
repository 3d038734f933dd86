"""Running statistics: an average over batches, gathered while training.

(P.1)  μ_BN = Σ_k μ_k / N_B
(P.2)  σ²_BN = Σ_k ν_k/(ν_k − 1) σ_k² / N_B,  ν = (Σ_s w_s)²/Σ_s w_s²
(P.7)  m_k = d m_(k−1) + (1 − d) μ_k,  μ_BN ≈ m_k / (1 − d^k)

All three are weighted means of the batches so far, and one update serves them all:

    μ_BN ← (1 − α_k) μ_BN + α_k μ_k
    α_k = 1/k (P.1, P.2),  α_k = (1 − d)/(1 − d^k),  1 − α_k = d (1 − d^(k−1))/(1 − d^k) (P.7)

The first batch replaces what there was: no digit of a small variance is lost beside the 1 of a
fresh state. A later one adds α_k (μ_k − μ_BN) to μ_BN. Where d < 1/2, α_k is the larger part, and
(1 − α_k)(μ_BN − μ_k) is added to μ_k instead.

Source: S3; Ioffe & Szegedy 2015, algorithm 2.
"""

import math
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from bnjax import _checks
from bnjax.collectives import Names
from bnjax.layout import accumulator_dtype
from bnjax.moments import Moments
from bnjax.population.common import (
    Shape,
    SplitStatistics,
    add_counts,
    add_part,
    check_channels,
    check_stacked,
    select,
)

_HALF = 0.5  # the decay below which a batch weighs more than all before it


class PopulationState(NamedTuple):
    """The running statistics of one normalization.

    Attributes:
        mean: The running mean as it is to be read, zero before the first batch; (n,).
        var: The running *unbiased* variance, one before the first batch; (n,).
        batches: k, the batches that went in, per channel; (n,) int32, which stays at 2³¹ − 1.
        skipped: Batches left out because their moments were not finite; as `batches`.
        remainder: What the mean is beyond the float that `mean` can hold; (n,).
        var_remainder: What the variance is beyond the float that `var` can hold, as a part of it:
            var (1 + var_remainder); (n,).
    """

    mean: Array
    var: Array
    batches: Array
    skipped: Array
    remainder: Array
    var_remainder: Array


def init(n: Shape, dtype: jnp.dtype = jnp.float32) -> PopulationState:
    """Return the statistics before the first batch.

    Args:
        n: Number of channels, or the shape of several feature axes.
        dtype: Of what is normalized; the statistics are at least float32.

    Returns:
        A state with mean 0 and variance 1, which the first batch replaces.

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
        var_remainder=jnp.zeros(n, wide),
    )


class _Batch(NamedTuple):
    """One batch's mean and unbiased variance, 0 where it is not taken; whether each is finite."""

    mean: Array
    var: Array
    taken: Array
    finite: Array


def update(
    state: PopulationState,
    moments: Moments,
    *,
    decay: float | None = 0.9,
    axis_name: Names = None,
) -> PopulationState:
    """Update running statistics with one batch's moments (P.7, or P.1 and P.2).

    Args:
        state: The statistics so far.
        moments: The batch's, with biased variance; the factor ν/(ν − 1) comes from their effective
            count, in which the scale of the weights does not matter. Or those of the G groups of a
            batch, with a leading axis more than the state, (G, n), as `ghost_batch_norm` returns
            them: the mean over those that have a variance (P.1, P.2) counts as one batch's.
        decay: d, the weight on the old value, 0 <= d < 1; None for the cumulative average, in
            which all batches weigh the same, whatever their count.
        axis_name: Mesh or vmapped axes over devices that have normalized their samples separately:
            the mean over those that have a variance counts as one batch's. None where the moments
            are of the whole batch.

    Returns:
        The new state: right to a few units in the last place, for variances from 1e-30 to 1e30 and
        after any number of batches. A channel with an effective count of at most one, to rounding,
        has no variance: it is left as it is. A channel whose moments are not finite is left as it
        is, and counted as skipped.

    Raises:
        ValueError: decay is outside its range, or the moments have other channels than the state.

    Example:
        >>> batch = Moments(jnp.array([3.0]), jnp.array([1e-8]), jnp.array([2.0]))
        >>> state = update(init(1), batch, decay=0.9)
        >>> print(state.mean, state.var)
        [3.] [2.e-08]

        Two groups of one batch:

        >>> groups = Moments(jnp.array([[1.0], [3.0]]), jnp.ones((2, 1)), jnp.full((2, 1), 2.0))
        >>> state = update(init(1), groups)
        >>> print(state.mean, state.var, state.batches)
        [2.] [2.] [1]
    """
    _checks.decay_or_none("population.update", "decay", decay)
    groups = moments.mean.ndim == state.mean.ndim + 1
    check_channels("population.update", state.mean, moments, groups=groups)
    dtype = state.mean.dtype
    batch = _unbiased(moments, dtype)
    if groups:
        batch = _average(batch, lambda parts: tuple(jnp.sum(part, 0) for part in parts))
    if axis_name is not None:
        batch = _average(batch, lambda parts: lax.psum(parts, axis_name))
    batches = add_counts(state.batches, batch.taken)
    zero = jnp.zeros_like(batch.mean)
    old = SplitStatistics(state.mean, state.remainder, state.var, state.var_remainder)
    new = SplitStatistics(batch.mean, zero, batch.var, zero)
    share = _share(jnp.maximum(batches, 1), decay, dtype)
    if decay is not None and decay < _HALF:
        both = add_part(new, old, share)
    else:
        nothing = jax.tree.map(jnp.zeros_like, old)
        both = add_part(select(batches == 1, nothing, old), new, share)
    both = select(batch.taken, both, old)
    return PopulationState(
        both.mean,
        both.var,
        batches,
        add_counts(state.skipped, ~batch.finite),
        both.remainder,
        both.var_remainder,
    )


def _unbiased(moments: Moments, dtype: jnp.dtype) -> _Batch:
    """Return what there is to average of a batch (P.2)."""
    mean, var, count, effective = moments
    mean, var, n = (a.astype(dtype) for a in (mean, var, count if effective is None else effective))
    # one sample's effective count is 1 but for the rounding of two sums and their quotient
    several = n > 1 + 16 * float(jnp.finfo(dtype).eps)
    # ν/(ν − 1), in one way: XLA may divide by a constant as it stands or multiply by its inverse
    unbiased = var * jnp.where(several, 1 + 1 / jnp.where(several, n - 1, 1), 1)
    finite = jnp.isfinite(mean) & jnp.isfinite(unbiased) & jnp.isfinite(n)
    taken = several & finite
    return _Batch(jnp.where(taken, mean, 0), jnp.where(taken, unbiased, 0), taken, finite)


def _average(several: _Batch, add_up: Callable[[tuple[Array, ...]], tuple[Array, ...]]) -> _Batch:
    """Return the mean over the groups or devices that have a variance, as one batch."""
    dtype = several.mean.dtype
    parts = several.mean, several.var, several.taken.astype(dtype), (~several.finite).astype(dtype)
    mean, var, taken, lost = add_up(parts)
    number = jnp.maximum(taken, 1)
    return _Batch(mean / number, var / number, taken > 0, lost == 0)


def _share(k: Array, decay: float | None, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Return α_k, or 1 − α_k where d < 1/2, as a sum of two floats.

    One float would be off by the same part in each of thousands of steps. 1 − d^k comes from
    expm1: where d is near 1, it cancels.
    """
    whole, first = k.astype(dtype), k == 1
    if decay is None:
        return 1 / whole, jnp.zeros_like(whole)
    decay = float(decay)
    log = math.log(max(decay, sys.float_info.min))
    sum_of_weights = -jnp.expm1(whole * log)  # 1 − d^k
    if decay < _HALF:
        before = -jnp.expm1((k - 1).astype(dtype) * log)
        high, low = (part * before / sum_of_weights for part in _two_floats(decay, dtype))
        return high, low
    high, low = (part / sum_of_weights for part in _two_floats(1 - decay, dtype))
    return jnp.where(first, 1, high), jnp.where(first, 0, low)


def _two_floats(number: float, dtype: jnp.dtype) -> tuple[float, float]:
    high = float(jnp.dtype(dtype).type(number))
    return high, number - high


def statistics(state: PopulationState) -> tuple[Array, Array]:
    """Return (mean, var) for `normalize`: 0 and 1 for a channel that has seen no batch.

    Example:
        >>> mean, var = statistics(init(1))
        >>> print(mean, var)
        [0.] [1.]
    """
    return state.mean + state.remainder, state.var


@jax.jit
def average(moments: Moments) -> tuple[Array, Array]:
    """Average over batches (P.1, P.2): what `update` with decay None makes of them, in order.

    Each batch weighs the same, with the factor ν/(ν − 1) of its own effective count. Over equal
    batches the mean is the data's own; the variance is an estimate, unbiased where batches are
    drawn with replacement. `pool` weighs by count and estimates nothing.

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
    check_stacked("population.average", moments)

    def step(state: PopulationState, one: Moments) -> tuple[PopulationState, None]:
        return update(state, one, decay=None), None

    start = init(moments.mean.shape[1:], moments.mean.dtype)
    return statistics(lax.scan(step, start, moments)[0])


def check_seen(function: str, states: Iterable[PopulationState]) -> tuple[PopulationState, ...]:
    """Refuse statistics of which a channel has seen no batch, where their numbers are known.

    Elsewhere they become NaN in such a channel, which then cannot pass for an evaluated one.
    """
    states = tuple(states)
    counts = [(state.batches, state.skipped) for state in states]
    if not _checks.known(counts):
        return tuple(map(_nan_where_unseen, states))
    for number, (batches, skipped) in enumerate(jax.device_get(counts)):
        unseen = batches == 0
        if unseen.any():
            raise ValueError(
                f"{function}: `state` must hold statistics of at least one batch for every "
                f"channel; got none for {unseen.sum()} of {unseen.size} channels of normalization "
                f"{number} ({skipped.max()} batches were skipped as not finite). A batch counts "
                "where its moments are finite and more than one sample has weight. Train first "
                "with train=True, keeping the state it returns, or use "
                "training.measure_population."
            )
    return states


def _nan_where_unseen(state: PopulationState) -> PopulationState:
    mean, var = (jnp.where(state.batches == 0, jnp.nan, a) for a in (state.mean, state.var))
    return state._replace(mean=mean, var=var)
