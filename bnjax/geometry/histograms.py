"""Histograms of cosines and percentiles of activation inputs, without sorting.

Each row of numbers is counted in bins of equal width, all rows in one pass.
"""

import jax.numpy as jnp
from jax import Array

from bnjax.geometry.angles import Angles, per_weight
from bnjax.layout import accumulator_dtype

COSINE_BINS = 40
PERCENTILES = (5.0, 25.0, 50.0, 75.0, 95.0)
_FINE_BINS = 512


def cosine_bins(angles: Angles) -> Array:
    """Return the bin of each cosine of a layer.

    Those of cos θ1 are 0 to 39, of cos θ2 40 to 79, of cos θ3 80 to 119; 120 stands for a cosine
    of vectors without direction.
    """
    u, x, delta = per_weight(angles.u_varies), angles.x_varies, angles.delta_varies
    kinds = (
        (angles.cos1, delta & x),
        (angles.cos2, u & x[None]),
        (angles.cos3, u & delta[None]),
    )
    bins = []
    for kind, (cosines, defined) in enumerate(kinds):
        place = ((cosines + 1) * (COSINE_BINS / 2)).astype(jnp.int32)
        place = kind * COSINE_BINS + jnp.minimum(place, COSINE_BINS - 1)
        bins.append(jnp.where(defined, place, 3 * COSINE_BINS).reshape(-1))
    return jnp.concatenate(bins)


def cosine_shares(bins: Array) -> Array:
    """Return the fraction of each layer's cosines in each bin, (L, 3, 40); 0 where there is none.

    `bins`, (L, n), holds what `cosine_bins` returns for each layer.
    """
    counts = _row_counts(bins, 3 * COSINE_BINS).reshape(-1, 3, COSINE_BINS)
    total = jnp.sum(counts, 2, keepdims=True)
    return counts.astype(total.dtype) / jnp.maximum(total, 1)


def histogram_percentiles(y: Array, neurons: Array) -> Array:
    """Return `PERCENTILES` of each layer's y, read off a fine histogram: sorting is slower.

    Args:
        y: (L, B, n).
        neurons: (L, n): where it is 0, the column of y is padding and is not counted.

    Returns:
        (L, 5), to 1/1000 of the distance between smallest and largest y.
    """
    y = y.astype(accumulator_dtype(y.dtype))
    counted = (neurons > 0)[:, None]
    low = jnp.min(jnp.where(counted, y, jnp.inf), (1, 2))
    step = (jnp.max(jnp.where(counted, y, -jnp.inf), (1, 2)) - low) / _FINE_BINS
    scaled = (y - low[:, None, None]) / jnp.where(step > 0, step, 1)[:, None, None]
    bins = jnp.where(counted, jnp.clip(scaled.astype(jnp.int32), 0, _FINE_BINS - 1), _FINE_BINS)
    cumulative = jnp.cumsum(_row_counts(bins.reshape(len(y), -1), _FINE_BINS), 1).astype(y.dtype)
    wanted = jnp.asarray(PERCENTILES, y.dtype)[None] / 100 * cumulative[:, -1:]
    place = jnp.sum(cumulative[:, None] < wanted[:, :, None], 2, y.dtype)
    return low[:, None] + step[:, None] * (place + 0.5)


def _row_counts(bins: Array, number: int) -> Array:
    """Count in each row how often each of the bins 0 to number − 1 occurs, ignoring `number`."""
    rows = len(bins)
    # one flat scatter: over two axes XLA:CPU (JAX 0.10) runs an uncompiled loop; a scatter with
    # rows as its first axis can replace it once that is as fast
    places = bins + (number + 1) * jnp.arange(rows, dtype=jnp.int32)[:, None]
    counts = jnp.zeros(rows * (number + 1), jnp.int32).at[places.reshape(-1)].add(1)
    return counts.reshape(rows, -1)[:, :-1]
