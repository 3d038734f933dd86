"""Running statistics: an average over batches, gathered while training.

(P.1)  μ_BN = Σ_k μ_k / N_B
(P.2)  σ²_BN = Σ_k n_k/(n_k − 1) σ_k² / N_B
(P.7)  m_k = d m_(k−1) + (1 − d) μ_k,  μ_BN ≈ m_k / (1 − d^k)

All three are weighted means of the batches so far, and one update serves them all:

    μ_BN ← μ_BN + α_k (μ_k − μ_BN),  α_k = 1/k (P.1, P.2) or (1 − d)/(1 − d^k) (P.7)

Source: S3; Ioffe & Szegedy 2015, algorithm 2.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from bnjax import _checks
from bnjax.layout import accumulator_dtype
from bnjax.moments import Moments
from bnjax.population.common import Shape, check_channels, check_stacked, two_sum


class PopulationState(NamedTuple):
    """The running statistics of one normalization.

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


def init(n: Shape, dtype: jnp.dtype = jnp.float32) -> PopulationState:
    """Return the statistics before the first batch.

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
    """Update running statistics with one batch's moments (P.7, or P.1 and P.2).

    Args:
        state: The statistics so far.
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
    _checks.decay_or_none("population.update", "decay", decay)
    check_channels("population.update", state.mean, moments)
    wide = accumulator_dtype(state.mean.dtype, moments.mean.dtype)
    mean, var, n = (part.astype(wide) for part in moments)
    several = n > 1
    unbiased = var * jnp.where(several, n / jnp.where(several, n - 1, 1), 1)  # P.2
    finite = jnp.isfinite(mean) & jnp.isfinite(unbiased)
    taken = several & finite
    batches = state.batches + taken.astype(state.batches.dtype)
    dtype = state.mean.dtype
    k = jnp.maximum(batches, 1).astype(dtype)
    d = jnp.asarray(decay or 0, dtype)
    alpha = jnp.where(taken, 1 / k if decay is None else (1 - d) / (1 - d**k), 0)  # P.1, P.7
    further = (jnp.where(taken, mean, state.mean) - state.mean) - state.remainder
    more = jnp.where(taken, unbiased, state.var) - state.var
    running, remainder = two_sum(state.mean, (state.remainder + alpha * further).astype(dtype))
    return PopulationState(
        running,
        (state.var + alpha * more).astype(dtype),
        batches,
        state.skipped + (~finite).astype(state.skipped.dtype),
        remainder,
    )


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
    check_stacked("population.average", moments)

    def step(state: PopulationState, one: Moments) -> tuple[PopulationState, None]:
        return update(state, one, decay=None), None

    start = init(moments.mean.shape[1:], moments.mean.dtype)
    return statistics(lax.scan(step, start, moments)[0])


def check_seen(function: str, states: Iterable[PopulationState]) -> None:
    """Refuse statistics of which a channel has seen no batch, where their numbers are known."""
    counts = [(state.batches, state.skipped) for state in states]
    if not _checks.known(counts):
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
