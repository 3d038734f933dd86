"""Gradients and propagated errors of a layer, assembled from its angles.

(G.2)  ∂C/∂W_ji = B γ_i r_i σ(Δ_i) σ(u_j) [cos θ3 − ρ_i² cos θ1 cos θ2]
(G.3)  ∂C/∂W_ji = B σ(Δ_i) σ(u_j) cos θ3 + B ⟨Δ_i⟩⟨u_j⟩
(G.4)  ∂C/∂γ_i = B σ(Δ_i) ρ_i cos θ1
(G.5)  ∂C/∂x_i = γ_i r_i σ(Δ_i) [Δ̂_i − ρ_i cos θ1 x̂_i],
       |Δ̂_i − ρ_i cos θ1 x̂_i| = √B |sin θ1| where ε = 0

G.3 is the layer without normalization. x̂ is ρ times the exactly normalized x (BN.2). With sample
weights n stands for B (D.17).

Source: S0/S1 §3; ρ is ours.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bnjax.geometry.angles import Angles, per_weight
from bnjax.network import Dense, NormDense


class Parts(NamedTuple):
    """∂C/∂W = amplitude · bracket + means, each (n_in, n_out) (G.2, G.3).

    Attributes:
        amplitude: B γ_i r_i σ(Δ_i) σ(u_j), with 1 for γ r without normalization.
        bracket: cos θ3 − ρ_i² cos θ1 cos θ2; cos θ3 without normalization.
        means: B ⟨Δ_i⟩⟨u_j⟩; None with normalization, which removes this term.
    """

    amplitude: Array
    bracket: Array
    means: Array | None


class Propagated(NamedTuple):
    """The length of the error that a neuron passes to the layer below, each (n_out,) (G.5).

    Attributes:
        bracket: |Δ̂ − ρ cos θ1 x̂|, from 0 to √B; √B without normalization.
        length: |∂C/∂x_i| = |γ r| σ(Δ) · bracket; |Δ_i| without normalization.
    """

    bracket: Array
    length: Array


def weight_parts(angles: Angles) -> Parts:
    """Compute the factors of the weights' gradient: amplitude, bracket and means (G.2, G.3).

    Args:
        angles: As returned by `layer_angles`.

    Returns:
        The `Parts`: ∂C/∂W is amplitude · bracket, plus means without normalization.

    Example:
        >>> from bnjax.geometry import layer_angles
        >>> u = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
        >>> x = u @ jnp.array([[3.0], [4.0]])
        >>> amplitude, bracket, means = weight_parts(layer_angles(u, x, u[:, :1], eps=0.0))
        >>> for j in range(2):
        ...     print(f"{amplitude[j, 0]:.3f} · {bracket[j, 0]:.3f}")
        0.800 · 0.640
        0.800 · -0.480
    """
    sd_u = per_weight(angles.sd_u)
    if angles.rho is None or angles.scale is None:
        means = angles.count * per_weight(angles.mean_u) * angles.mean_delta[None]
        return Parts(sd_u * (angles.count * angles.sd_delta)[None], angles.cos3, means)  # G.3
    bracket = angles.cos3 - (angles.rho**2 * angles.cos1)[None] * angles.cos2
    # γ r σ(Δ) first: σ(u) may be as large as r is small
    amplitude = sd_u * (angles.count * (angles.scale * angles.sd_delta))[None]
    return Parts(amplitude, bracket, None)  # G.2


def gradients(angles: Angles) -> Dense | NormDense:
    """Compute the gradient in a layer's parameters from its angles (G.2–G.4).

    Args:
        angles: As returned by `layer_angles`.

    Returns:
        `NormDense`(∂C/∂W, ∂C/∂γ, ∂C/∂β), or `Dense`(∂C/∂W, ∂C/∂b) without normalization: equal to
        `jax.grad`.

    Example:
        >>> from bnjax.geometry import layer_angles
        >>> u = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
        >>> x = u @ jnp.array([[3.0], [4.0]])
        >>> W_bar, gamma_bar, beta_bar = gradients(layer_angles(u, x, u[:, :1], eps=0.0))
        >>> print(f"{W_bar[0, 0]:.3f} {W_bar[1, 0]:.3f} {gamma_bar[0]:.3f} {beta_bar[0]:.3f}")
        0.512 -0.384 2.400 0.000
    """
    amplitude, bracket, means = weight_parts(angles)
    W_bar = amplitude * bracket
    sum_delta = angles.count * angles.mean_delta  # ∂C/∂β or ∂C/∂b: D.5, BL.5
    if angles.rho is None:
        return Dense(W_bar if means is None else W_bar + means, sum_delta)
    return NormDense(W_bar, gamma_gradient(angles, angles.rho), sum_delta)


def gamma_gradient(angles: Angles, rho: Array) -> Array:
    """Return ∂C/∂γ, (n_out,) (G.4)."""
    return angles.count * angles.sd_delta * rho * angles.cos1


def propagated(angles: Angles) -> Propagated:
    """Compute how much of each neuron's error is propagated to the layer below (G.5).

    Args:
        angles: As returned by `layer_angles`.

    Returns:
        The `Propagated`. An error parallel to x̂ is removed, one orthogonal to it passes unchanged.

    Example:
        >>> from bnjax.geometry import layer_angles
        >>> u = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
        >>> delta = u @ jnp.array([[1.0], [2.0]])
        >>> bracket, length = propagated(layer_angles(u, u[:, :1], delta, eps=0.0))
        >>> print(f"{bracket[0] ** 2:.3f} {length[0] ** 2:.3f}")
        3.200 16.000
    """
    root = jnp.sqrt(angles.count)
    if angles.scale is None or angles.eps_share is None:
        bracket = root * jnp.where(angles.delta_varies, 1, 0)
        return Propagated(bracket, root * jnp.hypot(angles.sd_delta, angles.mean_delta))
    bracket = root * jnp.sqrt(error_residual(angles, angles.eps_share))
    return Propagated(bracket, jnp.abs(angles.scale) * angles.sd_delta * bracket)


def error_residual(angles: Angles, eps_share: Array) -> Array:
    """Return |Δ̂ − ρ cos θ1 x̂|²/B of a normalized layer, (n_out,): sin² θ1 at ε = 0."""
    return angles.sin1**2 + (eps_share * angles.cos1) ** 2


def input_residual(angles: Angles, eps_share: Array) -> Array:
    """Return |û − ρ cos θ2 x̂|²/B of a normalized layer, (n_in, n_out): sin² θ2 at ε = 0."""
    sin2_squared = (1 - angles.cos2) * (1 + angles.cos2)
    return sin2_squared + (eps_share[None] * angles.cos2) ** 2
