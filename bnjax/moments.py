"""Mean and biased variance over the sample axes, exact for every mean and every weighting.

(BN.2)  μ = ⟨x⟩,  σ² = ⟨(x − μ)²⟩
(D.17)  ⟨t⟩ = Σ_s w_s t_s / n,  n = Σ_s w_s

The mean is kept as shift + remainder until x − μ has been formed: one float cannot hold μ to
better than |μ| · 6e-8, which is a large part of σ once |μ| >> σ.

Source: S0–S4; the weights are ours.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax


class Moments(NamedTuple):
    """What a batch says about each channel.

    Attributes:
        mean: μ, in float32, or float64 for float64 input; the shape of x's feature axes.
        var: σ², biased (÷ n); same shape and dtype.
        count: n, the sum of the weights (samples, without weights); same shape and dtype.
    """

    mean: Array
    var: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]


class Centre(NamedTuple):
    """Where a batch sits: μ = shift + remainder, with σ² and n, broadcastable to x."""

    shift: Array
    remainder: Array
    var: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]

    def moments(self) -> Moments:
        """Round to what a user sees."""
        return Moments(self.shift + self.remainder, self.var, self.count)


def accumulator_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Tell the dtype in which sums over `dtype` are formed: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def centred(x: Array, centre: Centre) -> Array:
    """Form x − μ, in the accumulator's dtype, without rounding μ to one float first."""
    return (x.astype(centre.shift.dtype) - centre.shift) - centre.remainder


def measure(x: Array, axes: tuple[int, ...], weights: Array | None = None) -> Centre:
    """Find the centre of a batch over the sample axes `axes` (BN.2, D.17).

    Args:
        x: Any floating shape; finite where the weight is zero.
        axes: The sample axes, non-negative.
        weights: None, or w ≥ 0 in the accumulator's dtype, broadcastable to x.

    Returns:
        The centre, each part with `axes` kept as length one. A channel whose weights sum to zero
        has mean 0, variance 0 and count 0.
    """
    dtype = accumulator_dtype(x.dtype)
    if weights is None:
        return _measure_all(x.astype(dtype), axes)
    count = _total(weights, x.shape, axes)
    n = jnp.where(count > 0, count, 1)
    x = x.astype(dtype)
    shift = lax.stop_gradient(jnp.sum(weights * x, axes, keepdims=True) / n)
    d = x - shift
    remainder = jnp.sum(weights * d, axes, keepdims=True) / n
    var = jnp.sum(weights * d * d, axes, keepdims=True) / n - remainder**2
    return Centre(shift, remainder, jnp.maximum(var, 0), count)


def _total(weights: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """Sum w over the sample axes as if it had x's shape, without making it so large."""
    repeats = 1
    for axis in axes:
        repeats *= shape[axis] if weights.shape[axis] == 1 else 1
    kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
    return jnp.broadcast_to(repeats * jnp.sum(weights, axes, keepdims=True), kept)


def _measure_all(x: Array, axes: tuple[int, ...]) -> Centre:
    """Measure a batch in which every sample counts one."""
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    first = tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(x.ndim))
    if count == 0:
        zero = jnp.zeros([1 if a in axes else size for a, size in enumerate(x.shape)], x.dtype)
        return Centre(zero, zero, zero, zero)

    def around(shift: Array) -> tuple[Array, Array, Array]:
        d = x - shift
        remainder = jnp.sum(d, axes, keepdims=True) / count
        return shift, remainder, jnp.sum(d * d, axes, keepdims=True) / count - remainder**2

    once = shift, remainder, var = around(lax.stop_gradient(x[first]))
    # one pass around a sample loses 1 + (remainder/σ)² roundings: a far first row needs another
    far = jnp.any(remainder**2 > 16 * var)
    again = lax.stop_gradient(shift + remainder)
    shift, remainder, var = lax.cond(far, lambda: around(again), lambda: once)
    return Centre(shift, remainder, jnp.maximum(var, 0), jnp.full_like(shift, count))
