"""The effective count of weighted samples, of one device's and of all together.

(P.2)   ν = (Σ_s w_s)²/Σ_s w_s²

Source: the weights are ours.
"""

import jax.numpy as jnp
from jax import Array

from bnjax import _xla
from bnjax.layout import Layout
from bnjax.powers_of_two import scale_to_one


def effective_count(weights: Array, layout: Layout) -> Array:
    """Compute ν = (Σ w)²/Σ w² of this device's samples (P.2).

    The weights are scaled to a mean near one: otherwise Σ w² would overflow or underflow long
    before Σ w does. The scale is a power of two, so that the count of a mask stays exact.

    Args:
        weights: w ≥ 0 in the accumulator's dtype, in `layout`.
        layout: Where the samples are.

    Returns:
        ν, (channels,): 0 for a channel without weight, NaN for one with a weight that is NaN.

    Example:
        >>> from bnjax import layout
        >>> samples = layout.of(jnp.ones((3, 1)), (1,))
        >>> print(effective_count(jnp.array([[1e-30], [1e-30], [0.0]]), samples))
        [2.]
    """
    if layout.samples_per_row > 1:  # a channel has several columns, of one scale
        mean = layout.row(layout.sum(weights) / layout.n)
    else:
        mean = jnp.mean(weights, layout.sample_axes, keepdims=True)
    w = _xla.as_written(weights * scale_to_one(mean))
    total, squares = layout.sum_weights(w), layout.sum_weights(w * w)
    return total * (total / jnp.where(squares == 0, 1, squares))


def combine_effective_counts(n: Array, effective: Array) -> Array:
    """Combine the effective counts of devices: ν = (Σ_k n_k)² / Σ_k n_k²/ν_k.

    Args:
        n: The count of each device, n_k, (devices, channels).
        effective: ν_k, (devices, channels).

    Returns:
        ν, (channels,).
    """
    count = jnp.sum(n, 0)
    part = _xla.as_written(n * scale_to_one(count)[None])
    total = jnp.sum(part, 0)
    squares = jnp.sum(part * part / jnp.where(effective == 0, 1, effective), 0)
    combined = total * (total / jnp.where(squares == 0, 1, squares))
    # Σ w² = Σ w on each device, as of masks: then so it is of all, without rounding
    return jnp.where(jnp.all(effective == n, 0), count, combined)
