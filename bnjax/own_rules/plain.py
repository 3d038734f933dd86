"""The references: each formula in plain JAX operations, for autodiff to differentiate."""

from typing import Any

import jax
import jax.numpy as jnp

BOUNDS: dict[str, Any] = {"r_max": 1.5, "d_max": 0.4}


def plain_normalize(x: Any, mean: Any, var: Any, gamma: Any, beta: Any, *, eps: float) -> Any:
    """Normalize with given statistics: P.3."""
    gamma, mean, var, beta = (a[None] for a in (gamma, mean, var, beta))
    return gamma * (x - mean) / jnp.sqrt(var + eps) + beta


def plain_renorm(
    x: Any, gamma: Any, beta: Any, mean: Any, var: Any, *, where: Any, eps: float
) -> Any:
    """Renormalize with `BOUNDS`, r and d held constant: R.1."""
    gamma, beta, mean, var = (a[None] for a in (gamma, beta, mean, var))
    n = where.sum()
    center = jnp.sum(jnp.where(where, x, 0), 0, keepdims=True) / n
    deviation = jnp.where(where, x - center, 0)
    std = jnp.sqrt(jnp.sum(deviation**2, 0, keepdims=True) / n + eps)
    given = jnp.sqrt(var + eps)
    r_max, d_max = BOUNDS.values()
    ratio = jax.lax.stop_gradient(jnp.clip(std / given, 1 / r_max, r_max))
    offset = jax.lax.stop_gradient(jnp.clip((center - mean) / given, -d_max, d_max))
    return jnp.where(where, gamma * (deviation / std * ratio + offset), 0) + beta


def plain_in_units(
    u: Any, gamma: Any, beta: Any, unit: Any, variance: Any, *, where: Any, eps: float
) -> Any:
    """Compute the same with plain operations, at the scale of 1."""
    w = jnp.ones((len(u), 1), u.dtype) if where is None else jnp.asarray(where, u.dtype)
    n = jnp.sum(w)
    mean = jnp.sum(w * u, 0) / n
    deviation = u - mean[None]
    var = jnp.sum(w * deviation**2, 0) / n
    y = gamma[None] * deviation / jnp.sqrt(var + eps / unit / unit)[None]
    return jnp.where(w > 0, y, 0) + beta[None], mean, variance * var
