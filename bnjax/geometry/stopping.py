"""What the angles of a layer say about its learning: where it stopped, and what took over.

(G.6)   sin θ1_i = 0 ⇒ ∂C/∂W_ji = 0 for all j, and γ_i takes over;  sin θ2_ji = 0 ⇒ ∂C/∂W_ji = 0
(D.13)  with the statistics held constant ∂C/∂W_ji = B γ_i r_i ⟨Δ_i u_j⟩;  normalization takes off
        B γ_i r_i (⟨Δ_i⟩⟨u_j⟩ + ⟨Δ_i x̂_i⟩⟨u_j x̂_i⟩)

G.6 holds at ε = 0. For ε > 0 something is left along x̂: at most |Δ̂ − ρ cos θ1 x̂|/√B of the error,
or |û − ρ cos θ2 x̂|/√B of the input, reaches a weight, and these stand for |sin θ1| and |sin θ2|
below. They are the same at ε = 0. Vectors of few samples are aligned by themselves: two always.

Source: S0/S1 §3, S4 (4); ε > 0 is ours.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bnjax.geometry.angles import Angles, of_normalization
from bnjax.geometry.parts import left_of_error, left_of_inputs

ALIGNED = 0.1  # |sin θ| below which two vectors count as aligned: six degrees

REASONS = (
    "learning",
    "the error is the same for all samples",
    "the input is the same for all samples",
    "γ r is zero",
    "the error is aligned with x̂: γ learns instead",
    "the input is aligned with x̂",
)


class Synced(NamedTuple):
    """Inputs aligned with x̂_i, and so with one another (G.6).

    Attributes:
        member: Whether input j belongs to neuron i's group, (n_in, n_out) bool.
        sign: 1 if aligned, −1 if opposite, 0 if not in the group, (n_in, n_out) int8.
        size: How many inputs the group has, 0 or at least 2, (n_out,) int32.
    """

    member: Array
    sign: Array
    size: Array


class Removed(NamedTuple):
    """What normalization takes off each neuron's weight gradient, in units of |D.13|, (n_out,).

    Attributes:
        share: |D.9 − D.13| / |D.13|, norms over the inputs; 0 where D.13 is zero. Above 1 more
            is taken off than was there in some direction.
        by_mean: The part with ⟨Δ⟩⟨u⟩ alone.
        by_x_hat: The part with ⟨Δ x̂⟩⟨u x̂⟩ alone.
    """

    share: Array
    by_mean: Array
    by_x_hat: Array


def handed_to_gamma(angles: Angles, *, below: float = ALIGNED) -> Array:
    """Find the neurons whose learning is handed to γ: sin θ1 ≈ 0 (G.6).

    Args:
        angles: Of a normalized layer.
        below: What |sin θ1| must be below.

    Returns:
        (n_out,) bool; False where Δ or x has no direction.

    Raises:
        ValueError: The layer is not normalized.

    Example:
        >>> from bnjax.geometry import layer_angles
        >>> u = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
        >>> x = u[:, :1]
        >>> print(handed_to_gamma(layer_angles(u, x, 1 - 2 * x, eps=0.0)))
        [ True]
    """
    return (left_of_error(angles) < below**2) & angles.delta_varies & angles.x_varies


def stopped(angles: Angles, *, below: float = ALIGNED) -> Array:
    """Find the weights that stopped because their input is aligned with x̂: sin θ2 ≈ 0 (G.6).

    Args:
        angles: Of a normalized layer.
        below: What |sin θ2| must be below; in float32 not less than 1e-3, which rounding is.

    Returns:
        (n_in, n_out) bool; False where u or x has no direction.

    Raises:
        ValueError: The layer is not normalized.

    Example:
        >>> from bnjax.geometry import layer_angles
        >>> u = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
        >>> print(stopped(layer_angles(u, -u[:, :1], u[:, 1:], eps=0.0))[:, 0])
        [ True False]
    """
    return (left_of_inputs(angles) < below**2) & angles.u_varies[:, None] & angles.x_varies[None]


def synced(angles: Angles, *, below: float = ALIGNED) -> Synced:
    """Find the groups of inputs that are synced to a neuron: stopped together (G.6).

    Args:
        angles: Of a normalized layer.
        below: As in `stopped`.

    Returns:
        The `Synced`: a group is what `stopped` finds of one neuron, from two inputs on.

    Raises:
        ValueError: The layer is not normalized.

    Example:
        >>> from bnjax.geometry import layer_angles
        >>> x = jnp.array([[1.0], [-1.0], [2.0], [0.0]])
        >>> u = jnp.concatenate([x, -2 * x], axis=1)
        >>> found = synced(layer_angles(u, x, x**2, eps=0.0))
        >>> print(found.size, found.sign[:, 0])
        [2] [ 1 -1]
    """
    member = stopped(angles, below=below)
    size = jnp.sum(member, 0, dtype=jnp.int32)
    size = jnp.where(size > 1, size, 0)
    member &= (size > 0)[None]
    return Synced(member, jnp.where(member, jnp.sign(angles.cos2), 0).astype(jnp.int8), size)


def dead(angles: Angles) -> Array:
    """Find the neurons that no error reaches: Δ is zero for every sample.

    Nothing moves them on this batch: not W, not γ, not β or b.

    Args:
        angles: Of any layer.

    Returns:
        (n_out,) bool.

    Example:
        >>> from bnjax.geometry import layer_angles
        >>> u = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
        >>> print(dead(layer_angles(u, u[:, :1], jnp.zeros((4, 1)), eps=0.0)))
        [ True]
    """
    return ~angles.delta_varies & (angles.mean_delta == 0)


def reasons(angles: Angles, *, below: float = ALIGNED) -> Array:
    """Say of each weight why it does not learn, or that it does.

    Args:
        angles: Of any layer.
        below: What counts as aligned, as in `handed_to_gamma` and `stopped`.

    Returns:
        (n_in, n_out) int8, indices into `REASONS`, the first one that applies; without
        normalization the first three are possible, and an input must be zero to stop a weight.
        A gradient that is zero because two terms balance counts as learning.

    Example:
        >>> from bnjax.geometry import layer_angles
        >>> u = jnp.array([[1.0, 7.0], [-1.0, 7.0], [1.0, 7.0], [-1.0, 7.0]])
        >>> for reason in reasons(layer_angles(u, u[:, :1], u[:, :1], eps=0.0))[:, 0]:
        ...     print(REASONS[reason])
        the error is aligned with x̂: γ learns instead
        the input is the same for all samples
    """
    no_error, no_input = ~angles.delta_varies, ~angles.u_varies
    if angles.scale is None:  # G.3: the averages learn, too
        no_error, no_input = dead(angles), no_input & (angles.mean_u == 0)
        found = [no_error[None], no_input[:, None]]
    else:
        found = [
            no_error[None],
            no_input[:, None],
            (angles.scale == 0)[None],
            handed_to_gamma(angles, below=below)[None],
            stopped(angles, below=below),
        ]
    found = [jnp.broadcast_to(mask, angles.cos3.shape) for mask in found]
    numbers = [jnp.int8(k + 1) for k in range(len(found))]
    return jnp.select(found, numbers, jnp.int8(0))


def removed(angles: Angles) -> Removed:
    """Measure what normalization takes off the gradient that frozen statistics give (D.13).

    Args:
        angles: Of a normalized layer.

    Returns:
        The `Removed`, for the layer's own Δ.

    Raises:
        ValueError: The layer is not normalized.

    Example:
        >>> from bnjax.geometry import layer_angles
        >>> u = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
        >>> print(removed(layer_angles(u, u[:, :1], u[:, :1], eps=0.0)).share)
        [1.]
    """
    rho, *_ = of_normalization(angles)
    # each up to B γ_i r_i |Δ_i|, which all of them share
    size = jnp.hypot(angles.sd_delta, angles.mean_delta)
    safe = jnp.where(size > 0, size, 1)
    by_mean = angles.mean_u[:, None] * (angles.mean_delta / safe)[None]
    amplitude = angles.sd_u[:, None] * (angles.sd_delta / safe)[None]
    by_x_hat = amplitude * (rho**2 * angles.cos1)[None] * angles.cos2
    parts = amplitude * angles.cos3 + by_mean, by_mean + by_x_hat, by_mean, by_x_hat
    whole, *taken = (jnp.sqrt(jnp.sum(part**2, 0)) for part in parts)  # the first: D.13
    whole = jnp.where(whole > 0, whole, jnp.inf)
    return Removed(*(part / whole for part in taken))
