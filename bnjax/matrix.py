"""One normalized (B, n) matrix with its intermediates, for `jacobian`, `backprop` and `geometry`.

(BN.2)  x̂ = (x − μ) r
(D.17)  x̂ = 0, y = β where w = 0

Source: S0/S1 §2.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from bnjax import _checks, kernel, layout, moments
from bnjax.layout import accumulator_dtype
from bnjax.moments import Moments
from bnjax.rules import RuleConfig, vjp
from bnjax.rules.forward import forward
from bnjax.rules.vjp import Residuals


class Intermediates(NamedTuple):
    """What a forward pass computes on its way: x̂ (B, n), r (n,) and the moments, (n,) each."""

    x_hat: Array
    inv_std: Array
    moments: Moments


def normalize_batch(function: str, x: ArrayLike, gamma: ArrayLike | None, eps: float) -> Residuals:
    """Check a batch (B, n), γ and ε for a public function, and normalize."""
    x = _checks.matrix(function, "x", x)
    _checks.finite_eps(function, eps)
    if gamma is not None:
        gamma = _checks.per_channel(function, "gamma", gamma, x, (1,))
    return normalize_matrix(function, x, gamma, None, None, eps=eps)[1]


def normalize_matrix(
    function: str,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    weights: Array | None,
    *,
    eps: float,
) -> tuple[Array, Residuals]:
    """Normalize x (B, n) with w (B, 1) or None: y, and the residuals of the pull-back."""
    if weights is None:
        _checks.several_samples(function, x, (1,))
    dtype = accumulator_dtype(x.dtype)
    gamma, beta, weights = (v if v is None else v.astype(dtype) for v in (gamma, beta, weights))
    (y, _), found = forward(RuleConfig((1,), float(eps)), x, gamma, beta, weights)
    return y, Residuals(x, gamma, beta, weights, *found)


def like_batch(function: str, name: str, t: ArrayLike, residuals: Residuals) -> Array:
    """Check a tangent or cotangent of the batch for a public function; cast to the sums' dtype."""
    t = _checks.matrix(function, name, t)
    if t.shape != residuals.x.shape:
        raise ValueError(
            f"{function}: `{name}` must have the shape of `x`, {residuals.x.shape}; got {t.shape}."
        )
    return t.astype(residuals.inv_std.dtype)


def pull_back_matrix(
    residuals: Residuals, y_bar: Array
) -> tuple[Array, Array | None, Array | None]:
    """Pull ȳ back to (x̄, γ̄, β̄) by the rule (D.5, D.17)."""
    none = jnp.zeros_like(residuals.inv_std)
    bars = y_bar, Moments(none, none, none)
    # ε is in r already
    return vjp.pull_back(RuleConfig((1,), 0.0), residuals, bars)[:3]


def kernel_times(residuals: Residuals, t: Array) -> Array:
    """Return K(t) of an unweighted batch, (B, n) (D.4)."""
    split, inv_std = residuals.split, residuals.inv_std
    scale = kernel.scale(residuals.gamma, inv_std * split.unit)
    return kernel.K(t, residuals.x, split, scale, inv_std)


def deviation(residuals: Residuals) -> Array:
    """Return a (x − μ), (B, n), 0 where w = 0."""
    x, w, split = residuals.x, residuals.weights, residuals.split
    x = x if w is None else jnp.where(w != 0, x, 0)
    view = layout.of(x, (1,))
    d = moments.deviation(view.view(x), split, view).reshape(x.shape)
    d -= (split.remainder * split.unit)[None]
    return d if w is None else jnp.where(w != 0, d, 0)


def scale_row(residuals: Residuals) -> Array:
    """Return γ r, (1, n)."""
    return kernel.scale(residuals.gamma, residuals.inv_std * residuals.split.unit)[None]


def unpack(residuals: Residuals) -> Intermediates:
    """Return x̂, r and the moments that the residuals stand for."""
    split, inv_std = residuals.split, residuals.inv_std
    x_hat = deviation(residuals) * inv_std[None]
    found = Moments(*split.natural(), split.count, split.effective_count)
    return Intermediates(x_hat, inv_std * split.unit, found)
