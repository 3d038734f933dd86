"""The push-forward of batch normalization, derived by hand: `rule="jvp"`, for every mode.

Means are weighted, ⟨t⟩ = Σ_s p_s t_s with p = w/n, n = Σ_s w_s. With tangents ẋ, γ̇, β̇:

    μ = ⟨x⟩,  σ² = ⟨(x − μ)²⟩
==> μ̇ = ⟨ẋ⟩,  σ̇² = 2 ⟨(x − μ) ẋ⟩                                                    (D.7)
    y = γ (x − μ) r + β,  r = (σ² + ε)^(−1/2)                                  (BN.2, BN.3)
==> ẏ = γ r (ẋ − μ̇) − ½ γ r³ (x − μ) σ̇² + γ̇ r (x − μ) + β̇
      = γ r [ẋ − ⟨ẋ⟩ − x̂ ⟨ẋ x̂⟩] + γ̇ x̂ + β̇ = K(ẋ) + γ̇ x̂ + β̇                     (D.4, D.5)

With a (x − μ) = z − a e, x̂ = q (z − a e), c₁ and c₂ from `kernel`, this is the code:

==> ẏ = γ r ẋ + c₁ + (c₂ + γ̇ q) (z − a e) + β̇,  μ̇ = ⟨ẋ⟩,  σ̇² = 2 ⟨ẋ (z − a e)⟩/a

Where w = 0, ẏ is β̇ (D.17). JAX transposes this map where it needs the pull-back. With
`masked="normalize"` the formula of ẏ holds there, too: ẋ is in ẏ, and p = 0 keeps it out of the
means. Where w = 0 and x is not finite there is no y, and ẏ is 0.

With a `Correction` y = γ (λ x̂ + τ) + β, where λ and τ are constants (R.1): γ λ r stands for γ r,
and γ̇ (λ x̂ + τ) for γ̇ x̂, so that γ̇ τ is added to c₁, and γ̇ λ q to c₂.

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
from jax import Array

from bnjax import collectives, kernel, moments
from bnjax.kernel import Projections
from bnjax.layout import Layout, by_platform
from bnjax.moments import Moments, SplitMoments
from bnjax.rules.correction import corrected
from bnjax.rules.forward import RuleConfig, forward, masked_pair, saving_arguments


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def normalize_by_jvp(config, x, gamma, beta, weights, mean_guess, given):
    """Normalize; pushed forward by hand, and transposed by JAX."""
    return forward(config, x, gamma, beta, weights, mean_guess, given)[0]


@normalize_by_jvp.defjvp
def _push_forward(config, primals, tangents):
    x, gamma, _, weights, *_ = primals
    out, found = forward(config, *primals)
    arguments = x, gamma, weights, *found
    y_dot, mean_dot, var_dot = _linear_map(config, tangents[:3], *arguments)
    zero = jnp.zeros_like(out[1].count)
    return out, (y_dot, Moments(mean_dot, var_dot, zero, zero))


@saving_arguments
def _linear_map(config, dots, x, gamma, weights, split, inv_std, correction):
    """Map (ẋ, γ̇, β̇) to (ẏ, μ̇, σ̇²)."""
    features, axes = config.features, config.axes
    x_dot, *channel_dots = dots
    x_dot = x_dot.astype(inv_std.dtype)  # once: transposed, what it gets is added up, then rounded
    scale = kernel.scale(corrected(gamma, correction)[0], inv_std * split.unit)  # γ r, γ λ r
    zero = jnp.zeros_like(inv_std)
    channel_dots = [zero if dot is None else dot for dot in channel_dots]
    inner = by_platform(
        x, features, lambda layout: local_means(config, layout, x_dot, x, weights, split)
    )
    (mean_dot, covariance), as_x = collectives.sum_pushed_forward(inner, channel_dots, x, axes)
    ones, deviations, gamma_dot, beta_dot = as_x  # the same two means, with the type of x
    c = kernel.coefficients(Projections(ones, deviations), scale, inv_std)  # c₁, c₂: D.4
    gamma_dot, constant = corrected(gamma_dot, correction)  # γ̇ λ, γ̇ τ: R.1
    ones = c.ones if constant is None else c.ones + constant
    c = Projections(ones, c.deviations + gamma_dot * inv_std)  # γ̇ x̂ = γ̇ q (z − a e): D.5

    def pushed(layout: Layout) -> Array:
        return push(config, layout, x_dot, x, weights, split, scale, c, beta_dot)

    return by_platform(x, features, pushed), mean_dot, 2 * covariance / split.unit  # D.7


def local_means(
    config: RuleConfig,
    layout: Layout,
    x_dot: Array,
    x: Array,
    weights: Array | None,
    split: SplitMoments,
) -> Projections:
    """Return this device's part of ⟨ẋ⟩ and ⟨ẋ (z − a e)⟩."""
    t, view, w, _ = masked_pair(config, layout, x_dot, x, weights, split.shift.dtype)
    if w is not None:
        t = moments.fractions(w, split.count, layout) * jnp.where(w != 0, t, 0)
    inner = kernel.inner_products(t, view, split, layout)
    return inner if w is not None else kernel.average(inner, split.count)


def push(
    config: RuleConfig,
    layout: Layout,
    x_dot: Array,
    x: Array,
    weights: Array | None,
    split: SplitMoments,
    scale: Array,
    c: Projections,
    beta_dot: Array,
) -> Array:
    """Return γ r ẋ + c₁ + c₂ (z − a e) + β̇, D.4 and D.5, in y's dtype; β̇ where w = 0, D.17."""
    t, view, _, kept = masked_pair(config, layout, x_dot, x, weights, split.shift.dtype)
    y_dot = kernel.apply_kernel(t, view, split, scale, c, layout)
    shift = layout.row(beta_dot)
    if kept is None:
        y_dot += shift
    else:
        y_dot = jnp.where(kept, y_dot + shift, shift if config.masked == "beta" else 0)
    return y_dot.astype(config.dtype or x.dtype).reshape(x.shape)
