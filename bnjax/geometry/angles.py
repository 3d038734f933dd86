"""Angles in sample space.

(G.1)  â = (a − ⟨a⟩)/σ(a);  cos θ1 = ⟨Δ̂_i x̂_i⟩,  cos θ2 = ⟨û_j x̂_i⟩,  cos θ3 = ⟨Δ̂_i û_j⟩
(D.17) with sample weights ⟨·⟩ is the weighted mean, n stands for B and Δ/w for Δ

Each vector has one entry per sample. Here x̂ is exactly normalized, without ε; BN.2's is ρ times
that. The mean is taken off before anything is multiplied: ⟨Δ u⟩ − ⟨Δ⟩⟨u⟩ loses what is asked for
wherever inputs are far from zero.

Source: S0/S1 §3; ρ and the weights are ours.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from bnjax import kernel
from bnjax._checks import finite_eps, floating, per_channel
from bnjax.geometry.vectors import Normal, normals
from bnjax.layout import accumulator_dtype


class Angles(NamedTuple):
    """One layer in sample space; float32, or float64 for float64 input.

    A cosine of a vector without direction (σ = 0) is 0; the three masks say which those are.

    Attributes:
        count: B, or n = Σ_s w_s with sample weights, a scalar.
        cos1: cos θ1 of Δ_i and x_i, (n_out,).
        cos2: cos θ2 of u_j and x_i, (n_in, n_out).
        cos3: cos θ3 of Δ_i and u_j, (n_in, n_out).
        sin1: |sin θ1|, (n_out,): the part of Δ̂ beside x̂, exact where it is small; 1 where Δ has a
            direction and x has none.
        mean_delta: ⟨Δ_i⟩, (n_out,).
        mean_u: ⟨u_j⟩, (n_in,).
        sd_delta: σ(Δ_i), (n_out,).
        sd_u: σ(u_j), (n_in,).
        sd_x: σ(x_i), (n_out,).
        delta_varies: Whether σ(Δ_i) > 0, (n_out,) bool.
        u_varies: Whether σ(u_j) > 0, (n_in,) bool.
        x_varies: Whether σ(x_i) > 0, (n_out,) bool.
        rho: ρ_i = σ(x_i) r_i, (n_out,); None without normalization, like the two below.
        eps_share: 1 − ρ_i² = ε/(σ² + ε), (n_out,): how far ε matters; 0 where σ² + ε = 0.
        scale: γ_i r_i, (n_out,).
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    cos1: Array
    cos2: Array
    cos3: Array
    sin1: Array
    mean_delta: Array
    mean_u: Array
    sd_delta: Array
    sd_u: Array
    sd_x: Array
    delta_varies: Array
    u_varies: Array
    x_varies: Array
    rho: Array | None
    eps_share: Array | None
    scale: Array | None


def layer_angles(
    u: ArrayLike,
    x: ArrayLike,
    delta: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    norm: bool = True,
    where: Array | None = None,
) -> Angles:
    """Measure a layer's vectors in sample space, and the angles between them (G.1).

    Args:
        u: The layer's input, (B, n_in), B ≥ 2. With two samples all vectors lie on one line.
        x: u W, (B, n_out); what is added to all samples alike, as a bias is, changes nothing.
        delta: Δ = ∂C/∂y, (B, n_out).
        gamma: γ, (n_out,). None stands for 1.
        eps: ε ≥ 0 of the normalization.
        norm: Whether the layer is normalized. The angles are the same; False leaves out what only
            normalization has, and `gamma` and `eps` with it.
        where: None, or w, (B,): the mask or weights ≥ 0 that Δ was computed with, so that Δ is 0
            where w is. What u and x hold there influences nothing.

    Returns:
        The `Angles`.

    Raises:
        TypeError: An array is not floating.
        ValueError: The shapes do not fit, or eps is out of its range.

    Example:
        >>> u = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
        >>> x = u @ jnp.array([[3.0], [4.0]])
        >>> angles = layer_angles(u, x, u[:, :1], eps=0.0)
        >>> for cosines in (angles.cos1, angles.cos2[:, 0], angles.cos3[:, 0]):
        ...     print([round(float(cosine), 4) for cosine in cosines])
        [0.6]
        [0.6, 0.8]
        [1.0, 0.0]
    """
    arrays = _checked(u, x, delta, gamma, eps, where)
    return _measure(*arrays, eps=eps, norm=norm)


# one program for whoever calls it eagerly: measuring takes some hundred operations
@partial(jax.jit, static_argnames=("eps", "norm"))
def _measure(
    u: Array,
    x: Array,
    delta: Array,
    gamma: Array | None,
    w: Array | None,
    *,
    eps: float,
    norm: bool,
) -> Angles:
    if w is not None:
        delta = jnp.where(w > 0, delta / jnp.where(w > 0, w, 1), 0)  # D.17
    u_, x_, delta_ = normals([u, x, delta], w)
    return between(u_, x_, delta_, gamma, w, eps=eps, norm=norm)


def between(
    u: Normal,
    x: Normal,
    delta: Normal,
    gamma: Array | None = None,
    w: Array | None = None,
    *,
    eps: float,
    norm: bool = True,
) -> Angles:
    """Measure the angles between vectors that have been taken apart already."""
    batch = len(u.hat)
    count = jnp.asarray(batch, u.sd.dtype) if w is None else jnp.sum(w)
    share = 1 / batch if w is None else w / jnp.where(count > 0, count, 1)
    cos1 = jnp.sum(share * delta.hat * x.hat, 0)
    beside = delta.hat - cos1[None] * x.hat
    inputs = (share * u.hat).T
    # full precision: a GPU or TPU would round the vectors to some three digits
    cos2, cos3 = (jnp.matmul(inputs, a.hat, precision=lax.Precision.HIGHEST) for a in (x, delta))
    # rounding may leave a cosine of 1 + 1e-16, which has no angle
    cos1, cos2, cos3 = (jnp.clip(c, -1, 1) for c in (cos1, cos2, cos3))
    rho = eps_share = scale = None
    if norm:
        inv_std = kernel.inverse_std(x.sd**2, eps)
        rho, eps_share = x.sd * inv_std, eps * inv_std**2
        scale = inv_std if gamma is None else gamma * inv_std
    return Angles(
        count=count,
        cos1=cos1,
        cos2=cos2,
        cos3=cos3,
        sin1=jnp.sqrt(jnp.sum(share * beside**2, 0)),
        mean_delta=delta.mean,
        mean_u=u.mean,
        sd_delta=delta.sd,
        sd_u=u.sd,
        sd_x=x.sd,
        delta_varies=delta.sd > 0,
        u_varies=u.sd > 0,
        x_varies=x.sd > 0,
        rho=rho,
        eps_share=eps_share,
        scale=scale,
    )


def of_normalization(angles: Angles) -> tuple[Array, Array, Array]:
    """Hand out ρ, 1 − ρ² and γ r; refuse a layer that has none."""
    if angles.rho is None or angles.eps_share is None or angles.scale is None:
        raise ValueError(
            "geometry: `angles` must be those of a normalized layer, where x̂ stops learning; got "
            "those of a layer without normalization (norm=False). Leave this reading out there."
        )
    return angles.rho, angles.eps_share, angles.scale


def _checked(
    u: ArrayLike,
    x: ArrayLike,
    delta: ArrayLike,
    gamma: ArrayLike | None,
    eps: float,
    where: Array | None,
) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """Refuse what does not fit; hand the rest on in one dtype, w as (B, 1)."""
    arrays = {
        name: floating("layer_angles", name, value)
        for name, value in (("u", u), ("x", x), ("delta", delta))
    }
    batch = arrays["u"].shape[:1]
    for name, array in arrays.items():
        if array.ndim != 2 or array.shape[:1] != batch:
            raise ValueError(
                "layer_angles: `u`, `x` and `delta` must have two axes, the same samples first; "
                f"got `{name}` with shape {array.shape} beside `u` with {arrays['u'].shape}."
            )
    if arrays["delta"].shape != arrays["x"].shape:
        raise ValueError(
            f"layer_angles: `delta` must have the shape of `x`, {arrays['x'].shape}; got "
            f"{arrays['delta'].shape}."
        )
    if batch[0] < 2:
        raise ValueError(
            f"layer_angles: `u` must hold at least two samples; got {batch[0]}: a single one has "
            "no direction in sample space. Pass a larger batch."
        )
    finite_eps("layer_angles", eps)
    if where is not None and where.shape != batch:
        raise ValueError(
            f"layer_angles: `where` must have shape {batch}, one weight per sample; got "
            f"{where.shape}."
        )
    if gamma is not None:
        gamma = per_channel("layer_angles", "gamma", gamma, arrays["x"], (1,))
    dtype = accumulator_dtype(jnp.result_type(*arrays.values()))
    u, x, delta = (array.astype(dtype) for array in arrays.values())
    gamma = None if gamma is None else gamma.astype(dtype)
    return u, x, delta, gamma, None if where is None else where.astype(dtype)[:, None]
