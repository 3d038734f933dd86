"""The push-forward of batch normalization, derived by hand: `rule="jvp"`, for every mode.

Means are weighted, ⟨t⟩ = Σ_s w_s t_s / n with n = Σ_s w_s. With tangents ẋ, γ̇, β̇:

    μ = ⟨x⟩,  σ² = ⟨(x − μ)²⟩
==> μ̇ = ⟨ẋ⟩,  σ̇² = 2 ⟨(x − μ) ẋ⟩                                                    (D.7)
    y = γ (x − μ) r + β,  r = (σ² + ε)^(−1/2)                                  (BN.2, BN.3)
==> ẏ = γ r (ẋ − μ̇) − ½ γ r³ (x − μ) σ̇² + γ̇ r (x − μ) + β̇
      = γ r [ẋ − ⟨ẋ⟩ − x̂ ⟨ẋ x̂⟩] + γ̇ x̂ + β̇ = K(ẋ) + γ̇ x̂ + β̇                     (D.4, D.5)
      = γ r ẋ + (1/n) [c₁ + (c₂ + n γ̇ r) (x − μ)] + β̇            (c₁, c₂ as in `kernel`)

JAX transposes this map where it needs the pull-back. Where w = 0, ẏ is β̇ (D.17).

Example:
    >>> import jax, jax.numpy as jnp
    >>> from bnjax import batch_norm
    >>> x, x_dot = jnp.array([[-1.0], [1.0]]), jnp.array([[0.0], [4.0]])
    >>> f = lambda x: batch_norm(x, eps=3.0, rule="jvp")[0]
    >>> y, y_dot = jax.jvp(f, (x,), (x_dot,))
    >>> print(y_dot[:, 0], jax.jacfwd(f)(x)[:, 0, :, 0])  # r = 1/2, K(t) = (t − ⟨t⟩ − x̂ ⟨t x̂⟩)/2
    [-0.75  0.75] [[ 0.1875 -0.1875]
     [-0.1875  0.1875]]

Source: S0/S1 §2 eq. 3; the weights are ours.
"""

from functools import partial

import jax
import jax.numpy as jnp

from bnjax import collectives, kernel
from bnjax.kernel import Projections
from bnjax.moments import Moments
from bnjax.rules.forward import forward, masked_view


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def normalize_by_jvp(config, x, gamma, beta, weights):
    """Normalize; pushed forward by hand, and transposed by JAX."""
    return forward(config, x, gamma, beta, weights)[0]


@normalize_by_jvp.defjvp
def _push_forward(config, primals, tangents):
    x, gamma, beta, weights = primals
    out, (split, inv_std) = forward(config, x, gamma, beta, weights)
    arguments = x, gamma, weights, split, inv_std
    y_dot, mean_dot, var_dot = _linear_map(config, tangents[:3], *arguments)
    zero = jnp.zeros_like(out[1].count)
    return out, (y_dot, Moments(mean_dot, var_dot, zero, zero))


# what JAX saves to transpose it are its arguments, x among them: x − μ is formed again
@partial(
    jax.checkpoint,
    policy=jax.checkpoint_policies.nothing_saveable,
    prevent_cse=False,
    static_argnums=0,
)
def _linear_map(config, dots, x, gamma, weights, split, inv_std):
    """Map (ẋ, γ̇, β̇) to (ẏ, μ̇, σ̇²)."""
    layout, _, axes = config
    x_dot, *channel_dots = dots
    view, w = masked_view(layout, x, weights)
    t = layout.view(x_dot).astype(inv_std.dtype)
    t = t if w is None else jnp.where(w != 0, t, 0)  # D.17
    scale = kernel.scale(gamma, inv_std)
    n = jnp.where(split.count > 0, split.count, 1)

    inner = kernel.inner_products(t if w is None else w * t, view, split, layout)
    zero = jnp.zeros_like(inv_std)
    channel_dots = [zero if dot is None else dot for dot in channel_dots]
    sums, of_x = collectives.sum_pushed_forward(inner, channel_dots, x, axes)
    ones, deviations, gamma_dot, beta_dot = of_x
    c = kernel.coefficients(Projections(ones, deviations), scale, inv_std)
    c = Projections(c.ones, c.deviations + n * gamma_dot * inv_std)  # γ̇ x̂ lies along x − μ
    y_dot = kernel.apply_kernel(t, view, split, scale, c, layout)  # K(ẋ) + γ̇ x̂, D.4
    y_dot = y_dot if w is None else jnp.where(w != 0, y_dot, 0)
    y_dot = (y_dot + layout.row(beta_dot)).astype(x.dtype).reshape(x.shape)
    return y_dot, sums[0] / n, 2 * sums[1] / n  # D.7
