"""The inputs of a linear operation compared with Δ and x, without its patches.

(G.8)  Λ'(u, t)_ji = Σ_s u_sj t_si,  B ⟨u_j⟩ = Λ'(u, 1)_ji,  B ⟨u_j²⟩ = Λ'(u², 1)_ji

x = Λ(u, W) is a convolution and Λ'(u, t) its pull-back to W at t. s runs over the samples and the
positions of the output, B of them in all, and j over the entries of a neuron's kernel: u_sj is the
number that entry j meets at s, 0 where that is padding.

Means are subtracted first, as everywhere: u = m + σ v channel by channel, so that u_sj is
m o_sj + σ v_sj, where o_sj is 0 in the padding and 1 elsewhere: o² = o and o v = v.

Source: own derivation.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from bnjax.geometry.angles import Inputs
from bnjax.geometry.vectors import Standardized, standardize

# the parameters of its equation that say which convolution it is
CONVOLUTION = (
    *("window_strides", "padding", "lhs_dilation", "rhs_dilation", "feature_group_count"),
    "dimension_numbers",
)


def kernel_matrix(W: Array, params: dict[str, Any]) -> Array:
    """Return a kernel as (n_in, n_out): neurons last, its other axes in their order.

    Args:
        W: The kernel.
        params: Of the equation `conv_general_dilated`.
    """
    W = jnp.moveaxis(W, params["dimension_numbers"].rhs_spec[0], -1)
    return W.reshape(-1, W.shape[-1])


def standardized_channels(u: Array, params: dict[str, Any]) -> Standardized:
    """Standardize the channels of images over samples and positions.

    Args:
        u: The images.
        params: Of the equation `conv_general_dilated`.
    """
    u = jnp.moveaxis(u, params["dimension_numbers"].lhs_spec[1], -1)
    return standardize(u.reshape(-1, u.shape[-1]))


def convolution_inputs(
    u: Standardized,
    shape: tuple[int, ...],
    W: Array,
    x: Standardized,
    delta: Standardized,
    params: dict[str, Any],
) -> Inputs:
    """Compare the inputs of a convolution with its standardized x and Δ (G.8).

    Args:
        u: The images, from `standardized_channels`.
        shape: Theirs.
        W: The kernel, of which only the shape counts.
        x: Of the outputs as (n, n_out), by `samples_first`.
        delta: The same.
        params: Of the equation `conv_general_dilated`.

    Returns:
        The `Inputs`.
    """
    batch, channels = params["dimension_numbers"].lhs_spec[:2]
    groups, n = params["feature_group_count"], len(x.hat)
    rows = [size for axis, size in enumerate(shape) if axis != channels]
    v = jnp.moveaxis(u.hat.reshape(*rows, -1), -1, channels)
    pull = partial(_pull_back, W=W, n=n, params=params)
    one = jnp.ones((n // shape[batch], groups), v.dtype)  # a neuron of each group, one sample
    inside = jnp.ones_like(lax.index_in_dim(v, 0, batch))
    sum_v, sum_v2 = (jnp.sum(a, batch, keepdims=True) for a in (v, v**2))
    share = pull(inside, one) * shape[batch]  # ⟨o⟩: 1 without padding, exactly
    mean_v, mean_v2 = pull(sum_v, one), pull(sum_v2, one)
    m, sigma = (_of_entries(a, W.shape, params) for a in (u.mean, u.sd))
    mean = m * share + sigma * mean_v
    sd = _deviation(m, sigma, share, mean_v, mean_v2)
    cosines = []
    for t in (x.hat, delta.hat):
        neurons = t.shape[1] // groups
        summed = t.reshape(shape[batch], -1, t.shape[1]).sum(0)
        of_inside, of_v = pull(inside, summed), pull(v, t)
        full, m_, sigma_, sd_ = (
            jnp.repeat(a, neurons, axis=1) if groups > 1 else a for a in (share == 1, m, sigma, sd)
        )
        # Σ t = 0 but for rounding, which a large mean would magnify
        together = sigma_ * of_v + jnp.where(full, 0, m_ * of_inside)
        cosines.append(jnp.where(sd_ > 0, together / jnp.where(sd_ > 0, sd_, 1), 0))
    if groups == 1:
        return Inputs(mean[:, 0], sd[:, 0], *cosines)
    neurons = x.hat.shape[1] // groups
    return Inputs(*(jnp.repeat(a, neurons, axis=1) for a in (mean, sd)), *cosines)


def _pull_back(u: Array, t: Array, *, W: Array, n: int, params: dict[str, Any]) -> Array:
    """Return Λ'(u, t)/n, (n_in, columns of t) (G.8).

    t is (samples · positions, neurons): as many samples as u has, as many neurons as there are
    groups, or a multiple.
    """
    numbers = params["dimension_numbers"]
    options = {name: params[name] for name in CONVOLUTION if name != "dimension_numbers"}
    shape = [*W.shape]
    shape[numbers.rhs_spec[0]] = t.shape[1]

    def convolve(W: Array) -> Array:
        precision = lax.Precision.HIGHEST  # as in `product_inputs`
        return lax.conv_general_dilated(
            u, W, dimension_numbers=numbers, precision=precision, **options
        )

    kernel = jax.ShapeDtypeStruct(tuple(shape), u.dtype)
    out = jax.eval_shape(convolve, kernel).shape
    order = samples_first(params)
    image = (t / n).reshape([out[a] for a in order])
    image = image.transpose([order.index(a) for a in range(len(order))])
    (found,) = jax.linear_transpose(convolve, kernel)(image)
    return kernel_matrix(found, params)


def samples_first(params: dict[str, Any]) -> tuple[int, ...]:
    """Return the axes of the output: samples, positions, neurons."""
    sample, neuron, *positions = params["dimension_numbers"].out_spec
    return sample, *positions, neuron


def _of_entries(of_channels: Array, shape: tuple[int, ...], params: dict[str, Any]) -> Array:
    """Return a quantity of the image's channels for the entries of a neuron of each group."""
    neuron, channel, *_ = params["dimension_numbers"].rhs_spec
    groups = params["feature_group_count"]
    one_each = tuple(groups if a == neuron else size for a, size in enumerate(shape))
    within, group = (lax.broadcasted_iota(jnp.int32, one_each, a) for a in (channel, neuron))
    return of_channels[kernel_matrix(group * shape[channel] + within, params)]


def _deviation(m: Array, sigma: Array, share: Array, mean_v: Array, mean_v2: Array) -> Array:
    """Return σ(u_j) of u = m o + σ v, from ⟨o⟩, ⟨v⟩ and ⟨v²⟩."""
    size = jnp.maximum(jnp.abs(m), sigma)  # squares of very small numbers would underflow
    safe = jnp.where(size > 0, size, 1)
    m, sigma = m / safe, sigma / safe
    var_v = mean_v2 - mean_v**2
    # what rounding leaves of inputs that are the same at all positions of an entry
    var_v = jnp.where(var_v > 8 * jnp.finfo(var_v.dtype).eps * mean_v2, var_v, 0)
    outside = 1 - share
    var = sigma**2 * var_v + (2 * sigma * mean_v + m * share) * m * outside
    return size * jnp.sqrt(jnp.maximum(var, 0))
