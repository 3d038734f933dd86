"""Normalization with given statistics, as in evaluation, and its push-forward by hand.

(BN.2)  r = (σ² + ε)^(−1/2)
(P.3)   y = γ (x − μ) r + β

Each sample is normalized by itself, and all five arguments have tangents, μ and σ² among them:

    ṙ = −½ r³ σ̇²                                                                       (BN.2)
==> ẏ = γ r (ẋ − μ̇) + (γ̇ r + γ ṙ) (x − μ) + β̇                                           (P.3)
      = γ r (ẋ − μ̇) + (γ̇ r − ½ γ r³ σ̇²) (x − μ) + β̇

γ r³ σ̇² is formed as γ r (r (r σ̇²)): r³ leaves float32 where σ leaves 1e-13 … 1e13.
JAX transposes this map where it needs the pull-back.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from bnjax import normalize
    >>> args = jnp.array([[1.0], [5.0]]), jnp.array([3.0]), jnp.array([4.0])
    >>> y, pull_back = jax.vjp(lambda *args: normalize(*args, eps=0.0), *args)
    >>> x_bar, mean_bar, var_bar = pull_back(jnp.array([[0.0], [1.0]]))
    >>> print(y[:, 0], x_bar[:, 0], mean_bar, var_bar)  # r = 1/2, ∂y/∂σ² = −½ r³ (x − μ) = −1/8
    [-1.  1.] [0.  0.5] [-0.5] [-0.125]

Source: S3; S4 (4).
"""

from functools import partial

import jax

from bnjax import _xla, kernel
from bnjax.layout import plain
from bnjax.rules.forward import saving_arguments


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def normalize_with(config, x, mean, var, gamma, beta):
    """Normalize with given statistics (P.3); pushed forward by hand in all five."""
    layout, eps = plain(x, config.features), config.eps
    deviation = x.astype(mean.dtype) - layout.row(mean)
    # a sample's y depends on that sample alone, to the last bit
    scale = kernel.scale(gamma, kernel.inverse_std(var, eps))
    y = _xla.rounded_product(deviation, layout.row(scale))
    if beta is not None:
        y += layout.row(beta)
    return y.astype(config.dtype or x.dtype)


@normalize_with.defjvp
def _push_forward(config, primals, tangents):
    return normalize_with(config, *primals), _linear_map(config, tangents, *primals[:-1])


@saving_arguments
def _linear_map(config, dots, x, mean, var, gamma):
    """Map (ẋ, μ̇, σ̇², γ̇, β̇) to ẏ."""
    layout, eps = plain(x, config.features), config.eps
    x_dot, mean_dot, var_dot, gamma_dot, beta_dot = dots
    inv_std = kernel.inverse_std(var, eps)
    scale = kernel.scale(gamma, inv_std)
    coefficient = -scale * (inv_std * (inv_std * var_dot)) / 2  # −½ γ r³ σ̇²
    if gamma_dot is not None:
        coefficient += gamma_dot * inv_std  # γ̇ r
    deviation = x.astype(mean.dtype) - layout.row(mean)
    y_dot = layout.row(scale) * (x_dot.astype(mean.dtype) - layout.row(mean_dot))
    y_dot += layout.row(coefficient) * deviation
    if beta_dot is not None:
        y_dot += layout.row(beta_dot)
    return y_dot.astype(config.dtype or x.dtype)
