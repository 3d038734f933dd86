"""Where learning stopped, and why, from the angles of a layer.

(G.6)   sin θ1 = 0 ⇒ ∂C/∂W_ji = 0 for all j,
        sin θ1 = 0 ⇒ |∂C/∂γ_i| = B σ(Δ_i),
        sin θ2 = 0 ⇒ ∂C/∂W_ji = 0,
        σ(Δ_i) σ(u_j) cos θ3 = −⟨Δ_i⟩⟨u_j⟩ ⇒ ∂C/∂W_ji = 0 without BN
(D.13)  [uᵀ (γ r Δ) − uᵀ K(Δ)]_ji = B γ_i r_i [⟨Δ_i⟩⟨u_j⟩ + ⟨Δ_i x̂_i⟩⟨u_j x̂_i⟩]

G.6 holds at ε = 0. For ε > 0 a component along x̂ remains: the fraction |Δ̂ − ρ cos θ1 x̂|/√B of the
error, or |û − ρ cos θ2 x̂|/√B of the input, is the most that reaches a weight. These take the place
of |sin θ1| and |sin θ2| below, which they equal at ε = 0. With few samples vectors are aligned by
chance, with two always.

Source: S0/S1 §3, S4 (4); ε > 0 is ours.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bnjax.geometry.angles import Angles, normalization_terms, per_weight
from bnjax.geometry.parts import error_residual, input_residual
from bnjax.geometry.vectors import column_norms

ALIGNED = 0.1  # |sin θ| below which two vectors count as aligned: about six degrees

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
    """What normalization removes from each neuron's weight gradient, relative to D.13, (n_out,).

    Attributes:
        share: |D.9 − D.13| / |D.13|, norms over the inputs; 0 where D.13 is zero. Above 1 the
            difference is larger than D.13 itself.
        by_mean: The same for the term ⟨Δ⟩⟨u⟩ alone.
        by_x_hat: The same for the term ⟨Δ x̂⟩⟨u x̂⟩ alone.
    """

    share: Array
    by_mean: Array
    by_x_hat: Array


def handed_to_gamma(angles: Angles, *, below: float = ALIGNED) -> Array:
    """Mark the neurons in which only γ still learns: sin θ1 ≈ 0 (G.6).

    Args:
        angles: Of a normalized layer.
        below: The threshold on |sin θ1|.

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
    _, eps_share, _ = normalization_terms("geometry.handed_to_gamma", angles)
    residual = error_residual(angles, eps_share)
    return (residual < below**2) & angles.delta_varies & angles.x_varies


def stopped(angles: Angles, *, below: float = ALIGNED) -> Array:
    """Mark the weights that stopped because their input is aligned with x̂: sin θ2 ≈ 0 (G.6).

    Args:
        angles: Of a normalized layer.
        below: The threshold on |sin θ2|. In float32 at least 1e-3, the size of rounding errors.

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
    return _aligned_inputs("geometry.stopped", angles, below)


def _aligned_inputs(function: str, angles: Angles, below: float) -> Array:
    _, eps_share, _ = normalization_terms(function, angles)
    residual = input_residual(angles, eps_share)
    return (residual < below**2) & per_weight(angles.u_varies) & angles.x_varies[None]


def synced(angles: Angles, *, below: float = ALIGNED) -> Synced:
    """Find the groups of inputs that are synced to a neuron, whose weights stop together (G.6).

    Args:
        angles: Of a normalized layer.
        below: As in `stopped`.

    Returns:
        The `Synced`. A neuron's group holds the inputs that `stopped` marks, if at least two.

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
    member = _aligned_inputs("geometry.synced", angles, below)
    size = jnp.sum(member, 0, dtype=jnp.int32)
    size = jnp.where(size > 1, size, 0)
    member &= (size > 0)[None]
    return Synced(member, jnp.where(member, jnp.sign(angles.cos2), 0).astype(jnp.int8), size)


def dead(angles: Angles) -> Array:
    """Mark the neurons that no error reaches: Δ is zero for every sample.

    On this batch the gradient in all their parameters is zero: W, γ, and β or b.

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
    """Return for each weight why it does not learn, or that it does.

    Args:
        angles: Of any layer.
        below: The threshold for alignment, as in `handed_to_gamma` and `stopped`.

    Returns:
        (n_in, n_out) int8, indices into `REASONS`: of several reasons the first. Without
        normalization only the first three entries occur, and errors and inputs must be zero, not
        just constant, to stop a weight. A gradient that is zero because two terms cancel counts
        as learning.

    Example:
        >>> from bnjax.geometry import layer_angles
        >>> u = jnp.array([[1.0, 7.0], [-1.0, 7.0], [1.0, 7.0], [-1.0, 7.0]])
        >>> for reason in reasons(layer_angles(u, u[:, :1], u[:, :1], eps=0.0))[:, 0]:
        ...     print(REASONS[reason])
        the error is aligned with x̂: γ learns instead
        the input is the same for all samples
    """
    no_error, no_input = ~angles.delta_varies, ~angles.u_varies
    if angles.scale is None:  # G.3: the means contribute, too
        no_error, no_input = dead(angles), no_input & (angles.mean_u == 0)
        found = [no_error[None], per_weight(no_input)]
    else:
        found = [
            no_error[None],
            per_weight(no_input),
            (angles.scale == 0)[None],
            handed_to_gamma(angles, below=below)[None],
            stopped(angles, below=below),
        ]
    found = [jnp.broadcast_to(mask, angles.cos3.shape) for mask in found]
    numbers = [jnp.int8(k + 1) for k in range(len(found))]
    return jnp.select(found, numbers, jnp.int8(0))


def removed(angles: Angles) -> Removed:
    """Compute what normalization removes from the gradient with frozen statistics (D.13).

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
    rho, *_ = normalization_terms("geometry.removed", angles)
    # each without the factor B γ_i r_i |Δ_i|/√B, which all have in common
    size = jnp.hypot(angles.sd_delta, angles.mean_delta)
    safe = jnp.where(size > 0, size, 1)
    by_mean = per_weight(angles.mean_u) * (angles.mean_delta / safe)[None]
    amplitude = per_weight(angles.sd_u) * (angles.sd_delta / safe)[None]
    by_x_hat = amplitude * (rho**2 * angles.cos1)[None] * angles.cos2
    parts = amplitude * angles.cos3 + by_mean, by_mean + by_x_hat, by_mean, by_x_hat
    frozen, *differences = map(column_norms, parts)  # D.13 first
    frozen = jnp.where(frozen > 0, frozen, jnp.inf)
    return Removed(*(difference / frozen for difference in differences))
