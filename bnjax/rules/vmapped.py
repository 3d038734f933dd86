"""The push-forward for a batch spread over an axis of `vmap`, with no collective inside a rule.

JAX may trace a rule after the vmap around it has ended (in an eager grad of the vmap, in
checkpoint, scan or cond), where a sum over its axis has no meaning. Here the rules are local to an
element of the vmap. Between them stands an ordinary sum over the elements, which JAX
differentiates:

    m = Σ_s p_s (x_s − μ₀),  v = ½ Σ_s p_s (x_s − μ₀)²,  summed over the whole vmap
==> μ = μ₀ + m,  σ² = 2v − m²                                                        (BN.2)
    y = g [a (x − μ₀) − a m] + β,  g = γ q                                     (BN.2, BN.3)

μ₀ is the mean, found from the whole batch and then a constant to differentiation; so m = 0, and v
is counted from ½ σ². Both are 0 in value, and cost nothing; their tangents are the two sums that a
push-forward needs:

    ṁ = ⟨ẋ⟩,  v̇ = ⟨(x − μ₀) ẋ⟩                                                         (D.7)
    ẏ = g a ẋ + ġ a (x − μ₀) − a (g ṁ + ġ m) + β̇

The derivatives of q and of σ² are JAX's; together this is K(ẋ) + γ̇ x̂ + β̇ (D.4, D.5), and right in
every order, because m and v are polynomials of x. q, a and p are those of `kernel`, and a (x − μ₀)
is its z − a e. With a `Correction` (R.1) g is γ λ q, and γ τ is added, with a tangent of its own; λ
and τ are constants, as μ₀ is.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from bnjax import batch_norm
    >>> def f(x):
    ...     return batch_norm(x, eps=3.0, axis_name="d")[0]
    >>> x, y_bar = jnp.array([[[-1.0]], [[1.0]]]), jnp.array([[[0.0]], [[4.0]]])
    >>> y, pull_back = jax.vjp(jax.vmap(f, axis_name="d"), x)
    >>> print(y[:, 0, 0], pull_back(y_bar)[0][:, 0, 0])  # r = 1/2, K(t) = (t − ⟨t⟩ − x̂ ⟨t x̂⟩)/2
    [-0.5  0.5] [-0.75  0.75]

Source: S0/S1 §2 eq. 3; the sum over a vmap is ours.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from bnjax import collectives, kernel, moments
from bnjax.kernel import Projections
from bnjax.layout import Layout, by_platform, plain
from bnjax.moments import Moments, SplitMoments
from bnjax.rules.correction import GivenStatistics, compare, corrected
from bnjax.rules.forward import (
    RuleConfig,
    inverse_std,
    local_moments,
    saving_arguments,
    scale_and_shift,
)
from bnjax.rules.jvp import local_means, push


def normalize_over_vmap(
    config: RuleConfig,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    weights: Array | None,
    mean_guess: Array | None,
    given: GivenStatistics | None,
) -> tuple[Array, Moments]:
    """Normalize over the axes of a vmap; pushed forward by hand, and transposed by JAX."""
    axes = config.axes
    on_mesh, vmapped = collectives.split_vmapped(axes)
    # under vmap this moves nothing
    gathered = (a if a is None else collectives.gather(a, vmapped) for a in (x, weights))
    whole = config._replace(features=tuple(a + 1 for a in config.features), axes=on_mesh)
    split = _whole_moments(whole, *lax.stop_gradient(tuple(gathered)), mean_guess)
    x_step, steps = _steps(config, x, weights, split)
    mean_step, var_step = collectives.sum_vectors(steps, axes)  # m, a v
    unit = split.unit
    var = split.var + (2 * (unit * var_step) - (unit * mean_step) ** 2)  # a² σ²
    inv_std = inverse_std(config, split, var)
    correction = None if given is None else compare(split, inv_std, given, config.eps)
    gamma_ratio, gamma_offset = corrected(gamma, correction)
    scale = kernel.scale(gamma_ratio, inv_std)  # g
    vectors = scale, unit * mean_step, beta, gamma_offset
    y = _normalize(config, x, x_step, *vectors, weights, split)
    mean, var = split._replace(remainder=split.remainder + mean_step, var=var).natural()
    return y, Moments(mean, var, split.count, split.effective_count)


@partial(jax.jit, static_argnums=0)
def _whole_moments(
    config: RuleConfig, x: Array, weights: Array | None, mean_guess: Array | None
) -> SplitMoments:
    """Compute the moments of a batch, gathered over the vmap, and over the mesh around it."""
    split = by_platform(
        x, config.features, lambda layout: local_moments(config, layout, x, weights, mean_guess)
    )
    return moments.combine_devices(split, config.eps, config.axes)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _zero_steps(config, x, weights, split):
    """Return x − x in the sums' dtype, and this element's parts of m and a v: all 0."""
    dtype = split.shift.dtype
    # from x and w: where the values are not mapped, vmap takes the tangents not to be, either
    zero = jnp.where(False, x.astype(dtype), 0)
    if weights is not None:
        zero = jnp.where(False, weights, zero)
    vector = plain(x, config.features).sum(zero)
    return zero, Projections(vector, vector)


@_zero_steps.defjvp
def _push_steps(config, primals, tangents):
    return _zero_steps(config, *primals), _step_map(config, tangents[0], *primals)


@saving_arguments
def _step_map(config, x_dot, x, weights, split):
    """Map ẋ to itself and to ṁ and a v̇."""
    x_dot = x_dot.astype(split.shift.dtype)  # once, as in `jvp`

    def means(layout: Layout) -> Projections:
        return local_means(config, layout, x_dot, x, weights, split)

    return x_dot, by_platform(x, config.features, means)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _normalize_around(config, x, x_step, scale, mean_step, beta, gamma_offset, weights, split):
    """Return g [a (x − μ₀) − a m] + γ τ + β for m = 0; the tangent of x is that of its step."""
    del x_step, mean_step  # 0

    def normalized(layout: Layout) -> Array:
        gamma_r = scale * split.unit
        return scale_and_shift(config, layout, x, split, gamma_r, beta, gamma_offset, weights)

    return by_platform(x, config.features, normalized)


@_normalize_around.defjvp
def _push_around(config, primals, tangents):
    x, _, scale, mean_step, _, _, weights, split = primals
    out = _normalize_around(config, *primals)
    return out, _around_map(config, tangents[1:6], x, scale, mean_step, weights, split)


@saving_arguments
def _around_map(config, dots, x, scale, mean_step, weights, split):
    """Map (ẋ, ġ, a ṁ, β̇, and that of γ τ) to ẏ."""
    x_dot, scale_dot, mean_dot, beta_dot, offset_dot = dots
    beta_dot = jnp.zeros_like(scale) if beta_dot is None else beta_dot
    constant = -(scale * mean_dot + scale_dot * mean_step)
    c = Projections(constant if offset_dot is None else constant + offset_dot, scale_dot)
    gamma_r = scale * split.unit

    def pushed(layout: Layout) -> Array:
        return push(config, layout, x_dot, x, weights, split, gamma_r, c, beta_dot)

    return by_platform(x, config.features, pushed)


# one program each for an eager caller
_steps = jax.jit(_zero_steps, static_argnums=0)
_normalize = jax.jit(_normalize_around, static_argnums=0)
