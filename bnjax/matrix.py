"""Batch normalization of one (B, n) matrix with its inside open: for jacobian and backprop.

(BN.2)  x̂ = (x − μ) r
(D.4)   K(t) = γ r [t − ⟨t⟩ − x̂ ⟨t x̂⟩]
(D.17)  x̂ = 0 where the weight is zero

Source: S0/S1 §2.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bnjax import kernel, layout, moments, norm, rules
from bnjax.moments import Moments, accumulator_dtype
from bnjax.rules import Saved, Setting


class Found(NamedTuple):
    """What a forward pass found: x̂ (B, n), r (n,) and the moments, (n,) each."""

    x_hat: Array
    inv_std: Array
    moments: Moments


def forward(
    x: Array, gamma: Array | None, beta: Array | None, weights: Array | None, *, eps: float
) -> tuple[Array, Saved]:
    """Normalize x (B, n) with w (B, 1) or None: y, and what the way back reads."""
    if weights is None:
        norm.check_batch("forward", x, (1,))
    dtype = accumulator_dtype(x.dtype)
    gamma, beta, weights = (v if v is None else v.astype(dtype) for v in (gamma, beta, weights))
    (y, _), found = rules.forward(_setting(x, eps), x, gamma, beta, weights)
    return y, Saved(x, gamma, beta, weights, *found)


def pull_back(saved: Saved, y_bar: Array) -> tuple[Array, Array | None, Array | None]:
    """Pull ȳ back to (x̄, γ̄, β̄): D.4, D.5."""
    none = jnp.zeros_like(saved.inv_std)
    # ε is in r already
    bars = rules.pull_back(_setting(saved.x, 0.0), saved, (y_bar, Moments(none, none, none)))
    return bars[:3]


def K(saved: Saved, t: Array) -> Array:
    """Apply the kernel of an unweighted batch to t, (B, n) (D.4)."""
    return kernel.K(t, saved.x, saved.centre, scale(saved)[0], saved.inv_std)


def deviation(saved: Saved) -> Array:
    """Form x − μ, (B, n), 0 under a zero weight."""
    how = layout.of(saved.x, (1,))
    x, w = saved.x, saved.weights
    x = x if w is None else jnp.where(w > 0, x, 0)
    d = moments.centred(how.view(x), saved.centre, how).reshape(x.shape)
    return d if w is None else jnp.where(w > 0, d, 0)


def scale(saved: Saved) -> Array:
    """Form γ r, (1, n)."""
    r = saved.inv_std[None]
    return r if saved.gamma is None else saved.gamma[None] * r


def found(saved: Saved) -> Found:
    """Hand out x̂, r and the moments."""
    shift, remainder, var, count = saved.centre
    x_hat = deviation(saved) * saved.inv_std[None]
    return Found(x_hat, saved.inv_std, Moments(shift + remainder, var, count))


def _setting(x: Array, eps: float) -> Setting:
    return Setting(layout.of(x, (1,)), float(eps))
