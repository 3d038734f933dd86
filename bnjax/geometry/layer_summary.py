"""The geometry of one layer in a few numbers.

All layers are padded to one shape and go through `summarize_layer` together, normalized or not:
padding has no direction in sample space, and is counted nowhere.

Source: S0/S1 §3, S3.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bnjax.activations import Activation
from bnjax.geometry import stopping
from bnjax.geometry.angles import (
    Angles,
    angles_between,
    normalization_terms,
    per_weight,
    product_inputs,
)
from bnjax.geometry.histograms import cosine_bins
from bnjax.geometry.layers import saturation, standardized_spread
from bnjax.geometry.parts import gamma_gradient, propagated, weight_parts
from bnjax.geometry.stopping import Synced
from bnjax.geometry.vectors import Standardized, column_norms


class _GradientNorms(NamedTuple):
    """Norms of each neuron's weights, and of their gradient at |Δ_i| = √B, (n_out,).

    Attributes:
        delta: |Δ_i|/√B.
        W: |W_i|.
        W_bar: |∂C/∂W_i| at |Δ_i| = √B; `delta` times this is |∂C/∂W_i|.
        covariance: The same for the term amplitude · bracket.
        means: The same for the term B ⟨Δ⟩⟨u⟩.
        cosine: The cosine of the angle between W_i and ∂C/∂W_i.
    """

    delta: Array
    W: Array
    W_bar: Array
    covariance: Array
    means: Array
    cosine: Array


def summarize_layer(
    u: Standardized,
    x: Standardized,
    delta: Standardized,
    W: Array,
    gamma: Array,
    inputs: Array,
    neurons: Array,
    norm: Array,
    *,
    eps: float,
    aligned: float,
) -> tuple[dict[str, Array], Array]:
    """Return the fields of `Summary` that any layer has, and the bins of its cosines.

    Args:
        u: Its input, (B, n_in).
        x: u W, (B, n_out).
        delta: Δ, (B, n_out).
        W: (n_in, n_out).
        gamma: γ, (n_out,); not used without normalization.
        inputs: (n_in,): 1, or 0 for padding.
        neurons: (n_out,): 1, or 0 for padding.
        norm: Whether the layer is normalized, a bool scalar. If not, the fields that only
            normalized layers have are meaningless.
        eps: ε of the normalization.
        aligned: |sin θ| below which vectors count as aligned.

    Returns:
        The fields as scalars, and what `cosine_bins` returns.
    """
    angles = angles_between(product_inputs(u, x, delta), x, delta, gamma, eps=eps)
    mean_delta = jnp.where(norm, 0, angles.mean_delta)
    angles = without_normalization(angles, norm)
    found = summarize_angles(angles, mean_delta, W, inputs, neurons, aligned=aligned)
    return found, cosine_bins(angles)


def summarize_angles(
    angles: Angles,
    mean_delta: Array,
    W: Array,
    inputs: Array,
    neurons: Array,
    *,
    aligned: float,
) -> dict[str, Array]:
    """Return the fields of `Summary` that any layer has, but for the cosines, as scalars.

    Args:
        angles: Of a normalized layer, or from `without_normalization`.
        mean_delta: ⟨Δ⟩, (n_out,); 0 with normalization, which removes it.
        W: As in `summarize_layer`, like the following.
        inputs: Padding.
        neurons: Padding.
        aligned: The threshold.
    """
    gradient = _gradient_norms(angles, W, mean_delta)
    passed = jnp.hypot(propagated(angles).length, jnp.sqrt(angles.count) * mean_delta)
    groups = stopping.synced(angles, below=aligned)
    norms = _layer_norms(angles, gradient, passed, inputs, neurons)
    readings = _neuron_readings(angles, gradient, groups, inputs, aligned)
    found = _reduce(norms, readings, neurons)
    return found | {"largest_group": jnp.max(groups.size)}


def summarize_activation(
    y: Array, u_next: Standardized, neurons: Array, *, activation: str | Activation, below: float
) -> dict[str, Array]:
    """Return the fields of `Summary` that only hidden layers have, without the percentiles.

    Args:
        y: The input of the activation, (B, n).
        u_next: Its output, (B, n).
        neurons: (n,): 1, or 0 for padding.
        activation: g.
        below: |g'| below which it counts as saturated.

    Returns:
        The fields as scalars.
    """
    small = saturation(y, activation, below=below)
    spread = standardized_spread(u_next)
    n = jnp.sum(neurons)
    return {
        "saturated": jnp.sum(jnp.where(neurons > 0, small, 0)) / n,
        "directions": spread.directions,
        "correlation": spread.correlation,
        "constant": 1 - spread.varying / n,
    }


def without_normalization(angles: Angles, norm: Array) -> Angles:
    """Set ρ = 0 and γ r = 1 where a layer is not normalized: G.2 is then G.3's first term."""
    rho, eps_share, scale = normalization_terms("geometry.summarize", angles)
    return angles._replace(
        rho=jnp.where(norm, rho, 0),
        eps_share=jnp.where(norm, eps_share, 1),
        scale=jnp.where(norm, scale, 1),
    )


def _gradient_norms(angles: Angles, W: Array, mean_delta: Array) -> _GradientNorms:
    """Compute the norms of W and ∂C/∂W (G.2, G.3); `mean_delta` is 0 where ⟨Δ⟩ is removed."""
    # gradients are linear in Δ: at |Δ_i| = √B their squares do not underflow
    size = jnp.hypot(angles.sd_delta, angles.mean_delta)
    safe = jnp.where(size > 0, size, 1)
    amplitude, bracket, _ = weight_parts(angles._replace(sd_delta=angles.sd_delta / safe))
    covariance = amplitude * bracket
    means = angles.count * per_weight(angles.mean_u) * (mean_delta / safe)[None]
    W = W.astype(means.dtype)
    W_bar = covariance + means
    of_W, of_W_bar, of_covariance, of_means = map(column_norms, (W, W_bar, covariance, means))
    cosine = jnp.sum(_direction(W, of_W) * _direction(W_bar, of_W_bar), 0)
    return _GradientNorms(size, of_W, of_W_bar, of_covariance, of_means, cosine)


def _direction(a: Array, norms: Array) -> Array:
    return a / jnp.where(norms > 0, norms, 1)[None]


def _layer_norms(
    angles: Angles, gradient: _GradientNorms, passed: Array, inputs: Array, neurons: Array
) -> dict[str, tuple[Array, Array | int]]:
    """Return quantities of the neurons, each with the divisor of the sum of its squares."""
    n, weights = jnp.sum(neurons), jnp.sum(inputs) * jnp.sum(neurons)
    rho, *_ = normalization_terms("geometry.summarize", angles)
    return {
        "error": (jnp.sqrt(angles.count) * gradient.delta, 1),
        "propagated": (passed, 1),
        "W": (gradient.W, n),
        "W_bar": (gradient.delta * gradient.W_bar, weights),
        "covariance": (gradient.delta * gradient.covariance, weights),
        "means": (gradient.delta * gradient.means, weights),
        "gamma_bar": (gamma_gradient(angles, rho), n),
    }


def _neuron_readings(
    angles: Angles, gradient: _GradientNorms, groups: Synced, inputs: Array, aligned: float
) -> dict[str, Array]:
    """Return each quantity of the neurons whose mean is part of the summary."""
    _, eps_share, _ = normalization_terms("geometry.summarize", angles)
    return {
        "dead": stopping.dead(angles),
        "turning": 1 / gradient.W**2,
        "cosine": jnp.abs(gradient.cosine),
        "handed_to_gamma": stopping.handed_to_gamma(angles, below=aligned),
        "stopped": jnp.sum(stopping.stopped(angles, below=aligned), 0, inputs.dtype)
        / jnp.sum(inputs),
        "synced": groups.size > 0,
        "eps_share": eps_share,
        "removed": stopping.removed(angles).share,
    }


def _reduce(
    norms: dict[str, tuple[Array, Array | int]], readings: dict[str, Array], neurons: Array
) -> dict[str, Array]:
    """Return the root of the sum or mean of squares of `norms`, and the mean of `readings`."""
    n = jnp.sum(neurons)
    # stacked, to have one sum for all quantities: fewer loops to compile
    lengths = column_norms(jnp.stack([values for values, _ in norms.values()], 1))
    roots = jnp.sqrt(jnp.stack([jnp.asarray(of, n.dtype) for _, of in norms.values()]))
    rows = jnp.stack([values.astype(n.dtype) for values in readings.values()])
    means = jnp.sum(jnp.where(neurons[None] > 0, rows, 0), 1) / n
    found = dict(zip(norms, lengths / roots, strict=True))
    return found | dict(zip(readings, means, strict=True))
