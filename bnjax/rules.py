"""The forward of batch normalization, and its hand-derived derivatives.

(BN.2)  x̂ = (x − μ) r,  r = (σ² + ε)^(−1/2)
(BN.3)  y = γ x̂ + β
(D.4)   x̄ = K(ȳ),  ẏ = K(ẋ) + γ̇ x̂ + β̇
(D.5)   γ̄ = Σ_s ȳ_s x̂_s,  β̄ = Σ_s ȳ_s
(D.7)   x̄ += (w/n) [μ̄ + 2 σ̄² (x − μ)];  μ̇ = ⟨w ẋ⟩,  σ̇² = 2 ⟨w ẋ (x − μ)⟩
(D.17)  with weights x̄ = w K(ȳ⁺/w), and y = β where w = 0
(P.3)   y = γ (x − μ) r + β for given statistics

Arguments are checked in `norm`. Here γ, β and all statistics are vectors over the channels in
the sums' dtype, weights have x's rank, and x has its own shape. Forward and pull-back are jitted
each as one program, for whoever calls them eagerly.

Source: S0/S1 §2, S3; Ioffe & Szegedy 2015.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from bnjax import collectives, kernel, moments
from bnjax.collectives import Axes
from bnjax.kernel import Along
from bnjax.layout import Layout, fresh
from bnjax.moments import Centre, Moments


class Setting(NamedTuple):
    """What a rule knows when it is traced: all static."""

    layout: Layout
    eps: float
    axes: Axes = Axes()


class Saved(NamedTuple):
    """What the pull-back reads: x itself and per-channel vectors."""

    x: Array
    gamma: Array | None
    beta: Array | None
    weights: Array | None
    centre: Centre
    inv_std: Array


@partial(jax.jit, static_argnums=0)
def forward(
    setting: Setting, x: Array, gamma: Array | None, beta: Array | None, weights: Array | None
) -> tuple[tuple[Array, Moments], tuple[Centre, Array]]:
    """Normalize: the one forward of every rule. Returns (y, moments) and what else was found."""
    layout, eps, axes = setting
    view, w = _present(setting, x, weights)
    centre = moments.combine(moments.measure(view, layout, w), axes)
    inv_std = kernel.inverse_std(centre.var, eps)
    view, shift = fresh((view, centre.shift), reader=3)  # the moments read it twice
    deviation = moments.centred(view, centre._replace(shift=shift), layout)
    y = _affine(layout, deviation, inv_std, gamma, beta, w)
    found = Moments(centre.shift + centre.remainder, centre.var, centre.count * axes.copies)
    return (y.astype(x.dtype).reshape(x.shape), found), (centre, inv_std)


def by_autodiff(setting, x, gamma, beta, weights):
    """Normalize; differentiated by JAX."""
    return forward(setting, x, gamma, beta, weights)[0]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def by_vjp(setting, x, gamma, beta, weights):
    """Normalize; pulled back by hand."""
    return forward(setting, x, gamma, beta, weights)[0]


def _by_vjp_fwd(setting, x, gamma, beta, weights):
    out, found = forward(setting, x, gamma, beta, weights)
    return out, Saved(x, gamma, beta, weights, *found)


def pull_back(
    setting: Setting, saved: Saved, bars: tuple[Array, Moments]
) -> tuple[Array, Array | None, Array | None, None]:
    """Pull cotangents of (y, moments) back to (x, γ, β): D.4, D.5, D.7, D.17; one psum."""
    layout, _, axes = setting
    x, gamma, beta, weights, centre, inv_std = saved
    y_bar, (mean_bar, var_bar, _) = bars
    all_bar = layout.view(y_bar).astype(inv_std.dtype)
    view, w = _present(setting, x, weights)
    present = all_bar if w is None else jnp.where(w > 0, all_bar, 0)  # ȳ⁺
    along = kernel.overlaps(present, view, centre, layout)
    # β takes ȳ where the weight is zero, too
    sums = (*along, along.ones if w is None else layout.sum(all_bar))
    # γ, β equal on all devices, and typed so: their cotangents are whole sums
    whole = axes.checked and not collectives.varying(gamma, beta) & set(axes.names)
    if whole:
        sums = collectives.psum_together(sums, axes)
    scale = _scale(gamma, inv_std)
    removed = kernel.amounts(Along(*sums[:2]), scale, inv_std)
    moments_bar = mean_bar, 2 * var_bar  # D.7
    if not axes.checked:  # each device holds its part of the moments' cotangents
        removed = collectives.psum_together(_add(removed, moments_bar), axes)
    else:
        removed = removed if whole else collectives.psum_together(removed, axes)
        removed = _add(removed, moments_bar)
    x_bar = kernel.project(  # D.4, D.17
        present, view, centre, scale, Along(*removed), layout, w
    )
    gamma_bar = None if gamma is None else inv_std * sums[1]  # D.5
    return (
        x_bar.astype(x.dtype).reshape(x.shape),
        gamma_bar,
        None if beta is None else sums[2],  # D.5
        None,
    )


_pull_back_at_once = jax.jit(pull_back, static_argnums=0)


def _by_vjp_bwd(setting, saved, bars):
    # an eager grad(vmap) comes here from outside the vmap, where jit would not find its axis
    pull = pull_back if setting.axes.names else _pull_back_at_once
    return pull(setting, saved, bars)


by_vjp.defvjp(_by_vjp_fwd, _by_vjp_bwd)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def by_jvp(setting, x, gamma, beta, weights):
    """Normalize; pushed forward by hand, and transposed by JAX."""
    return forward(setting, x, gamma, beta, weights)[0]


@by_jvp.defjvp
def _by_jvp_jvp(setting, primals, tangents):
    x, gamma, beta, weights = primals
    out, (centre, inv_std) = forward(setting, x, gamma, beta, weights)

    # what it saves are its arguments, x among them: x − μ is formed again
    @partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable, prevent_cse=False)
    def push(dots, x, gamma, weights, centre, inv_std):
        layout, _, axes = setting
        x_dot, gamma_dot, beta_dot = dots
        view, w = _present(setting, x, weights)
        t = layout.view(x_dot).astype(inv_std.dtype)
        t = t if w is None else jnp.where(w > 0, t, 0)
        along = kernel.overlaps(t if w is None else w * t, view, centre, layout)
        zero = jnp.zeros_like(inv_std)
        small = (zero if dot is None else dot for dot in (gamma_dot, beta_dot))
        # summed and cast together, so that the transpose is one psum
        sums = collectives.psum(jnp.stack(along), axes)
        both = jnp.concatenate([sums, jnp.stack(tuple(small))])
        ones, deviations, gamma_dot, beta_dot = collectives.to_varying(both, collectives.varying(x))
        scale = _scale(gamma, inv_std)
        # K(ẋ) + γ̇ r (x − μ): both lie along x − μ
        removed = kernel.amounts(Along(ones, deviations), scale, inv_std)
        n = jnp.where(centre.count > 0, centre.count, 1)
        removed = removed._replace(deviations=removed.deviations + n * gamma_dot * inv_std)
        y_dot = kernel.project(t, view, centre, scale, removed, layout)
        y_dot = y_dot if w is None else jnp.where(w > 0, y_dot, 0)
        y_dot = (y_dot + layout.row(beta_dot)).astype(x.dtype).reshape(x.shape)
        return y_dot, sums[0] / n, 2 * sums[1] / n  # D.7

    y_dot, mean_dot, var_dot = push(tangents[:3], x, gamma, weights, centre, inv_std)
    return out, (y_dot, Moments(mean_dot, var_dot, jnp.zeros_like(out[1].count)))


RULES = {"vjp": by_vjp, "jvp": by_jvp, "autodiff": by_autodiff}


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def given(setting, x, mean, var, gamma, beta):
    """Normalize with given statistics (P.3); pushed forward by hand in all five."""
    layout, eps, _ = setting
    deviation = layout.view(x).astype(mean.dtype) - layout.row(mean)
    y = deviation * layout.row(_scale(gamma, kernel.inverse_std(var, eps)))
    if beta is not None:
        # product and sum apart: LLVM fuses them into one multiply-add at some places of a batch
        # and not at others, and a sample's last bit would depend on where it stands
        y = fresh(y) + layout.row(beta)
    return y.astype(x.dtype).reshape(x.shape)


@given.defjvp
def _given_jvp(setting, primals, tangents):
    x, mean, var, gamma, beta = primals

    @partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable, prevent_cse=False)
    def push(dots, x, mean, var, gamma):
        layout, eps, _ = setting
        x_dot, mean_dot, var_dot, gamma_dot, beta_dot = dots
        inv_std = kernel.inverse_std(var, eps)
        scale = _scale(gamma, inv_std)
        # ẏ = γ r (ẋ − μ̇) + (x − μ) (γ̇ r − ½ γ r³ σ̇²) + β̇
        along = -scale * inv_std**2 * var_dot / 2
        if gamma_dot is not None:
            along += gamma_dot * inv_std
        deviation = layout.view(x).astype(mean.dtype) - layout.row(mean)
        y_dot = layout.row(scale) * (layout.view(x_dot).astype(mean.dtype) - layout.row(mean_dot))
        y_dot += layout.row(along) * deviation
        if beta_dot is not None:
            y_dot += layout.row(beta_dot)
        return y_dot.astype(x.dtype).reshape(x.shape)

    return given(setting, *primals), push(tangents, x, mean, var, gamma)


def _present(setting: Setting, x: Array, weights: Array | None) -> tuple[Array, Array | None]:
    """See x and the weights in their layout, with zeros where the weight is zero (D.17).

    0 · x would not hide NaN and infinity.
    """
    view = setting.layout.view(x)
    if weights is None:
        return view, None
    w = setting.layout.view_weights(weights, x.shape)
    return jnp.where(w > 0, view, 0), w


def _affine(
    layout: Layout,
    deviation: Array,
    inv_std: Array,
    gamma: Array | None,
    beta: Array | None,
    weights: Array | None,
) -> Array:
    """Form γ r (x − μ) + β, and β where the weight is zero."""
    y = deviation * layout.row(_scale(gamma, inv_std))  # one product per number: γ r is a vector
    if weights is not None:
        y = jnp.where(weights > 0, y, 0)
    return y if beta is None else y + layout.row(beta)


def _add(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(map(jnp.add, a, b))


def _scale(gamma: Array | None, inv_std: Array) -> Array:
    return inv_std if gamma is None else gamma * inv_std
