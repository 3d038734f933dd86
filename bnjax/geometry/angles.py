"""Angles between errors, inputs and normalized sums in sample space.

(G.1)  t̂ = (t − ⟨t⟩)/σ(t),  Corr(t, v) = ⟨t̂ v̂⟩,
       cos θ1 = Corr(Δ_i, x_i),  cos θ2 = Corr(u_j, x_i),  cos θ3 = Corr(Δ_i, u_j)

Each vector has one entry per sample. x is normalized exactly here, without ε; x̂ (BN.2) is ρ times
that. With sample weights (D.17) ⟨·⟩ is the weighted mean, n = Σ_s w_s stands for B and
Δ/w for Δ. Means are subtracted before anything is multiplied: ⟨Δ u⟩ − ⟨Δ⟩⟨u⟩ loses all its digits
where inputs are far from zero.

Source: S0/S1 §3; ρ and the weights are ours.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from bnjax._checks import finite_eps, floating, per_channel, weights
from bnjax.geometry.vectors import Standardized, standardize_all
from bnjax.layout import accumulator_dtype


class Angles(NamedTuple):
    """The angles of one layer in sample space; float32, or float64 for float64 input.

    The cosine of a vector without direction (σ = 0) is 0; three masks mark the vectors that vary.

    Attributes:
        count: B, or n = Σ_s w_s with sample weights, a scalar.
        cos1: cos θ1 of Δ_i and x_i, (n_out,).
        cos2: cos θ2 of u_j and x_i, (n_in, n_out).
        cos3: cos θ3 of Δ_i and u_j, (n_in, n_out).
        sin1: |sin θ1|, (n_out,): the length of Δ̂'s component orthogonal to x̂, in units of √B,
            accurate where it is small; 1 where Δ has a direction and x has none.
        mean_delta: ⟨Δ_i⟩, (n_out,).
        mean_u: ⟨u_j⟩, (n_in,); as the two other quantities of u, (n_in, n_out) in a grouped
            convolution, where each neuron has inputs of its own.
        sd_delta: σ(Δ_i), (n_out,).
        sd_u: σ(u_j), (n_in,).
        sd_x: σ(x_i), (n_out,).
        delta_varies: Whether σ(Δ_i) > 0, (n_out,) bool.
        u_varies: Whether σ(u_j) > 0, (n_in,) bool.
        x_varies: Whether σ(x_i) > 0, (n_out,) bool.
        rho: ρ_i = σ(x_i) r_i, (n_out,); None without normalization, as are the next two.
        eps_share: 1 − ρ_i² = ε/(σ² + ε), (n_out,): ε as a fraction of σ² + ε; 0 where that is 0.
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
    """Compute the angles between a layer's vectors in sample space (G.1).

    Args:
        u: The layer's input, (B, n_in), B ≥ 2. With two samples all vectors are parallel.
        x: u W, (B, n_out). Adding a constant to all samples, such as a bias, changes nothing.
        delta: Δ = ∂C/∂y, (B, n_out).
        gamma: γ, (n_out,). None stands for 1.
        eps: ε ≥ 0 of the normalization.
        norm: Whether the layer is normalized. The angles are the same without; `rho`, `eps_share`
            and `scale` are then None, and `gamma` and `eps` are not used.
        where: None, or w, (B,): the mask or weights ≥ 0 that Δ was computed with, so that Δ is 0
            where w is. The values of u and x there have no influence.

    Returns:
        The `Angles`.

    Raises:
        TypeError: An array is not floating.
        ValueError: The shapes do not fit, eps is out of its range, or a weight is negative,
            infinite or NaN, where its value is known.

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
    arrays = _prepare_layer(u, x, delta, gamma, eps, where)
    return _compute_angles(*arrays, eps=eps, norm=norm)


# compiled for eager callers: some hundred operations become one program
@partial(jax.jit, static_argnames=("eps", "norm"))
def _compute_angles(
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
        delta = jnp.where(w != 0, delta / jnp.where(w == 0, 1, w), 0)  # D.17
    u_, x_, delta_ = standardize_all([u, x, delta], w)
    inputs = product_inputs(u_, x_, delta_, w)
    return angles_between(inputs, x_, delta_, gamma, w, eps=eps, norm=norm)


class Inputs(NamedTuple):
    """What the angles hold of a layer's inputs (G.1).

    Attributes:
        mean: ⟨u_j⟩, (n_in,), or (n_in, n_out) where each neuron has inputs of its own.
        sd: σ(u_j), of the same shape.
        cos2: cos θ2, (n_in, n_out).
        cos3: cos θ3, (n_in, n_out).
    """

    mean: Array
    sd: Array
    cos2: Array
    cos3: Array


def product_inputs(
    u: Standardized, x: Standardized, delta: Standardized, w: Array | None = None
) -> Inputs:
    """Compare the standardized inputs of a product with its x and Δ (G.1)."""
    fraction, _ = _fractions(x, w)
    inputs = (fraction * u.hat).T
    # full precision: by default a GPU or TPU would round the vectors to about three digits
    cos2, cos3 = (jnp.matmul(inputs, a.hat, precision=lax.Precision.HIGHEST) for a in (x, delta))
    return Inputs(u.mean, u.sd, cos2, cos3)


def angles_between(
    u: Inputs,
    x: Standardized,
    delta: Standardized,
    gamma: Array | None = None,
    w: Array | None = None,
    *,
    eps: float,
    norm: bool = True,
) -> Angles:
    """Compute the angles of a layer whose inputs are compared with x and Δ already (G.1)."""
    fraction, count = _fractions(x, w)
    cos1 = jnp.sum(fraction * delta.hat * x.hat, 0)
    orthogonal = delta.hat - cos1[None] * x.hat
    # rounding may yield 1 + 1e-16, which is the cosine of no angle
    cos1, cos2, cos3 = (jnp.clip(c, -1, 1) for c in (cos1, u.cos2, u.cos3))
    rho = eps_share = scale = None
    if norm:
        root = math.sqrt(eps)
        std = jnp.hypot(x.sd, root)  # (σ² + ε)^(1/2), also where σ² leaves the number range
        inv_std = jnp.where(std > 0, 1 / jnp.where(std > 0, std, 1), 0)
        rho, eps_share = x.sd * inv_std, (root * inv_std) ** 2
        scale = inv_std if gamma is None else gamma.astype(inv_std.dtype) * inv_std
    return Angles(
        count=count,
        cos1=cos1,
        cos2=cos2,
        cos3=cos3,
        sin1=jnp.sqrt(jnp.sum(fraction * orthogonal**2, 0)),
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


def _fractions(x: Standardized, w: Array | None) -> tuple[float | Array, Array]:
    """Return w/n and n; 1/B and B without weights."""
    batch = len(x.hat)
    count = jnp.asarray(batch, x.sd.dtype) if w is None else jnp.sum(w)
    return (1 / batch if w is None else w / jnp.where(count == 0, 1, count)), count


def per_weight(of_inputs: Array) -> Array:
    """Return a quantity of the inputs, (n_in,) or (n_in, n_out), to be combined with weights."""
    return of_inputs[:, None] if of_inputs.ndim == 1 else of_inputs


def normalization_terms(function: str, angles: Angles) -> tuple[Array, Array, Array]:
    """Return ρ, 1 − ρ² and γ r; raise for a layer without normalization."""
    if angles.rho is None or angles.eps_share is None or angles.scale is None:
        raise ValueError(
            f"{function}: `angles` must be those of a normalized layer; got those of a layer "
            "without normalization (norm=False), which has no x̂. Leave such layers out."
        )
    return angles.rho, angles.eps_share, angles.scale


def _prepare_layer(
    u: ArrayLike,
    x: ArrayLike,
    delta: ArrayLike,
    gamma: ArrayLike | None,
    eps: float,
    where: Array | None,
) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """Check the arguments of `layer_angles`; return them in one dtype, w as (B, 1)."""
    function = "geometry.layer_angles"
    u, x, delta = (
        floating(function, name, value) for name, value in (("u", u), ("x", x), ("delta", delta))
    )
    _check_shapes(function, u, x, delta, where)
    finite_eps(function, eps)
    if gamma is not None:
        gamma = per_channel(function, "gamma", gamma, x, (1,))
    dtype = accumulator_dtype(u.dtype, x.dtype, delta.dtype)
    u, x, delta = (array.astype(dtype) for array in (u, x, delta))
    gamma = None if gamma is None else gamma.astype(dtype)
    w = None if where is None else weights(function, where, dtype)[:, None]
    return u, x, delta, gamma, w


def _check_shapes(function: str, u: Array, x: Array, delta: Array, where: Array | None) -> None:
    """Raise where the arrays of a layer do not fit each other, or hold a single sample."""
    batch = u.shape[:1]
    for name, array in (("u", u), ("x", x), ("delta", delta)):
        if array.ndim != 2 or array.shape[:1] != batch:
            raise ValueError(
                f"{function}: `u`, `x` and `delta` must have two axes, the same samples first; "
                f"got `{name}` with shape {array.shape} and `u` with shape {u.shape}."
            )
    if delta.shape != x.shape:
        raise ValueError(
            f"{function}: `delta` must have the shape of `x`, {x.shape}; got {delta.shape}."
        )
    check_samples(function, "u", u)
    if where is not None and where.shape != batch:
        raise ValueError(
            f"{function}: `where` must have shape {batch}, one weight per sample; got "
            f"{where.shape}."
        )


def check_samples(function: str, name: str, array: Array) -> None:
    """Raise for a single sample, which has no direction in sample space."""
    if len(array) < 2:
        raise ValueError(
            f"{function}: `{name}` must hold at least two samples; got {len(array)}. A single "
            "sample has no direction in sample space: pass a larger batch."
        )
