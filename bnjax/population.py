"""Statistics for inference, gathered batch by batch while training.

(P.1)  μ_BN = mean over mini-batches of μ_B
(P.2)  σ²_BN = mean over mini-batches of n/(n − 1) σ_B²
(P.7)  m_k = d m_(k−1) + (1 − d) μ_k, read as m_k / (1 − d^k)

What P.7 reads after k batches is again a weighted mean of the batches: one update
m ← m + α_k (μ_k − m) serves both, with α_k = 1/k (P.1, P.2) or (1 − d)/(1 − d^k) (P.7).

Source: S3; Ioffe & Szegedy 2015, algorithm 2.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bnjax.moments import Moments


class PopulationState(NamedTuple):
    """What one normalization has seen so far.

    Attributes:
        mean: The running mean as it is to be read, zero before the first batch; (n,).
        var: The running *unbiased* variance, one before the first batch; (n,).
        batches: k, the batches that went in, per channel; (n,) int32.
        skipped: Batches left out because their moments were not finite; (n,) int32.
        remainder: What `mean` in one float leaves out of the running mean; (n,).
    """

    mean: Array
    var: Array
    batches: Array
    skipped: Array
    remainder: Array


def init(n: int, dtype: jnp.dtype = jnp.float32) -> PopulationState:
    """Start with no batch seen.

    Args:
        n: Number of channels.
        dtype: float32 or float64.

    Returns:
        A state with mean 0 and variance 1.

    Example:
        >>> print(init(2).var, init(2).batches)
        [1. 1.] [0 0]
    """
    # an array of its own for each: a buffer cannot be donated twice
    return PopulationState(
        mean=jnp.zeros(n, dtype),
        var=jnp.ones(n, dtype),
        batches=jnp.zeros(n, jnp.int32),
        skipped=jnp.zeros(n, jnp.int32),
        remainder=jnp.zeros(n, dtype),
    )


def update(
    state: PopulationState, moments: Moments, *, decay: float | None = 0.9
) -> PopulationState:
    """Take one batch's moments in (P.7, or P.1 and P.2).

    Args:
        state: What was seen before.
        moments: The batch's, with biased variance; the factor n/(n − 1) comes from their count.
        decay: d, the weight on the old value, 0 <= d < 1; None for the cumulative average, in
            which all batches weigh the same.

    Returns:
        The new state. A channel whose count is at most one has no variance: it is left as it is.
        A channel whose moments are not finite is left as it is, and counted as skipped.

    Raises:
        ValueError: decay is outside its range.

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
    mean, var, n = moments
    several = n > 1
    unbiased = var * jnp.where(several, n / jnp.where(several, n - 1, 1), 1)  # P.2
    finite = jnp.isfinite(mean) & jnp.isfinite(unbiased)
    taken = several & finite
    batches = state.batches + taken
    k = jnp.maximum(batches, 1).astype(state.mean.dtype)
    d = jnp.asarray(decay or 0, k.dtype)
    alpha = 1 / k if decay is None else (1 - d) / (1 - d**k)  # P.1, P.7

    def towards(old: Array, new: Array) -> Array:
        return jnp.where(taken, old + alpha * (new - old), old).astype(old.dtype)

    return PopulationState(
        towards(state.mean, mean),
        towards(state.var, unbiased),
        batches,
        state.skipped + ~finite,
        jnp.zeros_like(state.remainder),
    )


def statistics(state: PopulationState) -> tuple[Array, Array]:
    """Read (mean, var) for `normalize`: 0 and 1 for a channel that has seen no batch.

    Example:
        >>> mean, var = statistics(init(1))
        >>> print(mean, var)
        [0.] [1.]
    """
    return state.mean, state.var
