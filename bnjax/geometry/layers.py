"""Measures of a layer other than angles: of weights, inputs of the activation, and outputs.

(BN.5)  ∂C/∂(a W) = ∂C/∂W / a where ε = 0, a > 0,
        Σ_j W_ji ∂C/∂W_ji = γ_i ∂C/∂γ_i ε/(σ_i² + ε)

An activation is saturated where g'(y) is nearly zero (BL.9). Outputs are compared by their
correlations, Corr(u_j, u_k) = ⟨û_j û_k⟩ (G.1).

Source: S0/S1 §3, S3; Ioffe & Szegedy 2015.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from bnjax import activations
from bnjax.activations import Activation
from bnjax.geometry.vectors import Standardized, column_norms, standardize

SATURATED = 0.01  # |g'| below which an activation counts as saturated: sigmoid, |y| > 4.6


class WeightNorms(NamedTuple):
    """Norms of each neuron's weights and of their gradient, each (n_out,) (BN.5).

    Attributes:
        W: |W_i|.
        W_bar: |∂C/∂W_i|.
        cosine: The cosine of the angle between the two; 0 at ε = 0, and where either is zero.
    """

    W: Array
    W_bar: Array
    cosine: Array


class Spread(NamedTuple):
    """How much a layer's outputs differ from one another, scalars.

    Attributes:
        directions: The effective number of directions, n²/Σ_jk Corr(u_j, u_k)² over the n outputs
            that vary: from 1, all aligned, to n, all uncorrelated; 0 where none varies.
        correlation: The mean of |Corr(u_j, u_k)| over pairs of different outputs that vary.
        varying: The number of outputs that vary.
    """

    directions: Array
    correlation: Array
    varying: Array


def weight_norms(W: Array, W_bar: Array) -> WeightNorms:
    """Compute the norms of each neuron's weights and gradient, and the angle between (BN.5).

    Args:
        W: (n_in, n_out).
        W_bar: ∂C/∂W, the same shape.

    Returns:
        The `WeightNorms`.

    Example:
        >>> print(*weight_norms(jnp.array([[3.0], [4.0]]), jnp.array([[8.0], [-6.0]])))
        [5.] [10.] [0.]
    """
    norms = column_norms(W), column_norms(W_bar)
    W, W_bar = (a / jnp.where(n > 0, n, 1)[None] for a, n in zip((W, W_bar), norms, strict=True))
    return WeightNorms(*norms, jnp.sum(W * W_bar, 0))


def effective_rate(W: Array, rate: float | Array = 1.0) -> Array:
    """Return the effective learning rate of each neuron's direction, η/|W_i|² (BN.5).

    A normalized layer (ε = 0) does not depend on |W_i|, and its gradient is orthogonal to W_i and
    proportional to 1/|W_i|: a step of gradient descent rotates W_i by η/|W_i|² times the length
    that the gradient has at |W_i| = 1.

    Args:
        W: (n_in, n_out).
        rate: η.

    Returns:
        (n_out,); infinite where W_i = 0.

    Example:
        >>> print(effective_rate(jnp.array([[3.0], [4.0]]), 0.5))
        [0.02]
    """
    norms = column_norms(W)
    return rate / norms / norms


def saturation(y: Array, activation: str | Activation, *, below: float = SATURATED) -> Array:
    """Return for each neuron the fraction of samples with |g'(y)| below a threshold (BL.9).

    Args:
        y: The input of the activation, (B, n).
        activation: g: a name in `activations.ACTIVATIONS`, or an `Activation`.
        below: The threshold.

    Returns:
        (n,), from 0 to 1.

    Example:
        >>> print(saturation(jnp.array([[9.0, 0.0], [-1.0, 1.0]]), "sigmoid"))
        [0.5 0. ]
    """
    g_prime = activations.get(activation).g_prime(y)
    return jnp.mean(jnp.abs(g_prime) < below, 0)


def percentiles(y: Array, q: tuple[float, ...] = (15.0, 50.0, 85.0)) -> Array:
    """Return percentiles over the samples of each neuron's activation input.

    Args:
        y: The input of the activation, (B, n).
        q: The percentiles, from 0 to 100; by default those of figure 1 of Ioffe & Szegedy.

    Returns:
        (len(q), n).

    Example:
        >>> print(percentiles(jnp.array([[0.0], [1.0], [4.0]]), (0.0, 50.0, 75.0))[:, 0])
        [0.  1.  2.5]
    """
    return jnp.percentile(y, jnp.asarray(q, y.dtype), axis=0)


def spread(u: Array) -> Spread:
    """Compute how much a layer's outputs differ, by their correlations (G.1).

    Args:
        u: A layer's outputs g(y), (B, n), B ≥ 2.

    Returns:
        The `Spread`.

    Example:
        >>> u = jnp.array([[1.0, 2.0, 0.0], [-1.0, -2.0, 0.0], [0.0, 0.0, 0.0]])
        >>> directions, correlation, varying = spread(u)
        >>> print(directions.round(4), correlation.round(4), varying)
        1.0 1.0 2.0
    """
    return standardized_spread(standardize(u))


def standardized_spread(u: Standardized) -> Spread:
    """Compute the `Spread` of outputs that are standardized already (G.1)."""
    hat = u.hat / len(u.hat) ** 0.5
    corr = jnp.matmul(hat.T, hat, precision=lax.Precision.HIGHEST)
    n = jnp.sum(u.sd > 0).astype(hat.dtype)
    directions = n**2 / jnp.maximum(jnp.sum(corr**2), 1)
    correlation = (jnp.sum(jnp.abs(corr)) - n) / jnp.maximum(n * (n - 1), 1)
    return Spread(directions, correlation, n)


def rank(u: Array, *, below: float = 1e-3) -> Array:
    """Return the rank of a layer's standardized outputs over the samples.

    Args:
        u: A layer's outputs g(y), (B, n), B ≥ 2.
        below: Singular values below this fraction of the largest count as zero.

    Returns:
        A scalar, int32, at most min(B − 1, n).

    Example:
        >>> print(rank(jnp.array([[1.0, 2.0, 1.0], [-1.0, -2.0, 0.0], [0.0, 0.0, 5.0]])))
        2
    """
    values = jnp.linalg.svd(standardize(u).hat, compute_uv=False)
    return jnp.sum((values > below * jnp.max(values)) & (values > 0), dtype=jnp.int32)
