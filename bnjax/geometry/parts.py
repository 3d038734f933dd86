"""What the angles are good for: gradients and propagated errors, put together from them.

(G.2)  ∂C/∂W_ji = B γ_i r_i σ(Δ_i) σ(u_j) [cos θ3 − ρ_i² cos θ1 cos θ2]
(G.3)  without normalization ∂C/∂W_ji = B σ(Δ_i) σ(u_j) cos θ3 + B ⟨Δ_i⟩⟨u_j⟩
(G.4)  ∂C/∂γ_i = B σ(Δ_i) ρ_i cos θ1
(G.5)  ∂C/∂x_i = γ_i r_i σ(Δ_i) [Δ̂_i − ρ_i cos θ1 x̂_i];  ε = 0: the bracket is √B |sin θ1| long

In G.5 x̂ is BN.2's, ρ times the exactly normalized x. With sample weights n stands for B (D.17).

Source: S0/S1 §3; ρ is ours.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bnjax.geometry.angles import Angles, of_normalization
from bnjax.network import Dense, NormDense


class Parts(NamedTuple):
    """∂C/∂W = amplitude · bracket + means, each (n_in, n_out) (G.2, G.3).

    Attributes:
        amplitude: B γ_i r_i σ(Δ_i) σ(u_j), with 1 for γ r without normalization.
        bracket: cos θ3 − ρ_i² cos θ1 cos θ2; cos θ3 alone without normalization.
        means: B ⟨Δ_i⟩⟨u_j⟩; None with normalization, which removes it.
    """

    amplitude: Array
    bracket: Array
    means: Array | None


class Propagated(NamedTuple):
    """How long the error is that a neuron hands to the layer below, each (n_out,) (G.5).

    Attributes:
        bracket: |Δ̂ − ρ cos θ1 x̂|, from 0 to √B; √B without normalization.
        length: |∂C/∂x_i| = |γ r| σ(Δ) · bracket; |Δ_i| without normalization.
    """

    bracket: Array
    length: Array


def weight_parts(angles: Angles) -> Parts:
    """Take the weights' gradient apart: amplitude, bracket and means (G.2, G.3).

    Args:
        angles: As `layer_angles` gives them.

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
    amplitude = angles.count * angles.sd_u[:, None] * angles.sd_delta[None]
    if angles.rho is None or angles.scale is None:
        means = angles.count * angles.mean_u[:, None] * angles.mean_delta[None]
        return Parts(amplitude, angles.cos3, means)  # G.3
    bracket = angles.cos3 - (angles.rho**2 * angles.cos1)[None] * angles.cos2
    return Parts(angles.scale[None] * amplitude, bracket, None)  # G.2


def gradients(angles: Angles) -> Dense | NormDense:
    """Put the layer's gradient together from its angles (G.2–G.4).

    Args:
        angles: As `layer_angles` gives them.

    Returns:
        ∂C/∂(that) as `NormDense`(W, gamma, beta), or `Dense`(W, b) without normalization: what
        `jax.grad` gives.

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
    ones = angles.count * angles.mean_delta  # Σ_s Δ_s: BL.5, D.5
    if angles.rho is None:
        return Dense(W_bar if means is None else W_bar + means, ones)
    return NormDense(W_bar, gamma_gradient(angles), ones)


def gamma_gradient(angles: Angles) -> Array:
    """Form ∂C/∂γ of a normalized layer, (n_out,) (G.4)."""
    rho, *_ = of_normalization(angles)
    return angles.count * angles.sd_delta * rho * angles.cos1


def propagated(angles: Angles) -> Propagated:
    """Tell how much of each neuron's error passes on to the layer below (G.5).

    Args:
        angles: As `layer_angles` gives them.

    Returns:
        The `Propagated`. An error along x̂ does not pass, one at a right angle to it passes whole.

    Example:
        >>> from bnjax.geometry import layer_angles
        >>> u = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
        >>> delta = u @ jnp.array([[1.0], [2.0]])
        >>> bracket, length = propagated(layer_angles(u, u[:, :1], delta, eps=0.0))
        >>> print(f"{bracket[0] ** 2:.3f} {length[0] ** 2:.3f}")
        3.200 16.000
    """
    root = jnp.sqrt(angles.count)
    if angles.scale is None:
        bracket = root * jnp.where(angles.delta_varies, 1, 0)
        return Propagated(bracket, root * jnp.hypot(angles.sd_delta, angles.mean_delta))
    bracket = root * jnp.sqrt(left_of_error(angles))
    return Propagated(bracket, jnp.abs(angles.scale) * angles.sd_delta * bracket)


def left_of_error(angles: Angles) -> Array:
    """Form |Δ̂ − ρ cos θ1 x̂|²/B of a normalized layer, (n_out,): sin² θ1 at ε = 0."""
    _, eps_share, _ = of_normalization(angles)
    return angles.sin1**2 + (eps_share * angles.cos1) ** 2


def left_of_inputs(angles: Angles) -> Array:
    """Form |û − ρ cos θ2 x̂|²/B of a normalized layer, (n_in, n_out): sin² θ2 at ε = 0."""
    _, eps_share, _ = of_normalization(angles)
    sin2_squared = (1 - angles.cos2) * (1 + angles.cos2)
    return sin2_squared + (eps_share[None] * angles.cos2) ** 2
