"""The pull-back of batch normalization, derived by hand: `rule="vjp"`.

Means are weighted, ⟨t⟩ = Σ_s w_s t_s / n with n = Σ_s w_s. A step dx of the batch:

    μ = ⟨x⟩,  σ² = ⟨(x − μ)²⟩
==> dμ = ⟨dx⟩,  dσ² = 2 ⟨(x − μ) dx⟩                                                 (D.1)
    r = (σ² + ε)^(−1/2)
==> dr = −½ r³ dσ² = −r² ⟨x̂ dx⟩
    y = γ (x − μ) r + β                                                        (BN.2, BN.3)
==> dy = γ [(dx − dμ) r + (x − μ) dr] = γ r [dx − ⟨dx⟩ − x̂ ⟨x̂ dx⟩] = K(dx)             (D.4)
    dy = x̂ dγ + dβ
==> γ̄ = Σ_s ȳ_s x̂_s,  β̄ = Σ_s ȳ_s                                                   (D.5)

x̄ is what makes Σ_s x̄_s dx_s = Σ_s ȳ_s K(dx)_s for every dx. In Σ_s ȳ_s ⟨dx⟩ and in
Σ_s ȳ_s x̂_s ⟨x̂ dx⟩ the two sums change places; dx_s is then multiplied by

==> x̄ = γ r [ȳ − (w/n) Σ ȳ − (w/n) x̂ Σ ȳ x̂] = w K(ȳ/w)                              (D.17)

The moments are outputs, too: μ̄ dμ + σ̄² dσ² adds (w/n) [μ̄ + 2 σ̄² (x − μ)], which lies along 1 and
x − μ as what K takes out does (D.7). Where w = 0 the value does not exist: ȳ there reaches β only,
and ȳ⁺ is ȳ without it (D.17).

With `masked="normalize"` dy = K(dx) holds where w = 0 as well: dx there counts in no ⟨⟩, but dμ and
dr move y. So ȳ⁺ is ȳ: it takes part in Σ ȳ and Σ ȳ x̂, which the weights hand on to the places that
count, and x̄ is γ r ȳ where w = 0. ȳ⁺ is without places that have no y, where x is not finite and
w = 0; those do not reach β either.

The code computes it in the terms of `kernel`, q = r/a and a (x − μ) = d − aρ:

==> x̄ = γ r ȳ⁺ + (w/n) [c₁ + c₂ (d − aρ)]
    c₁ = μ̄ − γ r Σ ȳ⁺,  c₂ = 2 σ̄²/a − γ r q² Σ ȳ⁺ (d − aρ)

Example:
    >>> import jax, jax.numpy as jnp
    >>> from bnjax import batch_norm
    >>> x, gamma, beta = jnp.array([[-1.0], [1.0]]), jnp.ones(1), jnp.zeros(1)
    >>> y, pull_back = jax.vjp(lambda *args: batch_norm(*args, eps=3.0)[0], x, gamma, beta)
    >>> x_bar, gamma_bar, beta_bar = pull_back(jnp.array([[0.0], [4.0]]))
    >>> print(y[:, 0], x_bar[:, 0], gamma_bar, beta_bar)  # r = 1/2, K(t) = (t − ⟨t⟩ − x̂ ⟨t x̂⟩)/2
    [-0.5  0.5] [-0.75  0.75] [2.] [4.]

Source: S0/S1 §2, S3; Ioffe & Szegedy 2015; the weights and the moments' cotangents are ours.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from bnjax import collectives, kernel, moments
from bnjax.kernel import Projections
from bnjax.layout import Layout, by_platform
from bnjax.moments import Moments, SplitMoments
from bnjax.rules.forward import RuleConfig, forward, masked_view


class Residuals(NamedTuple):
    """What the pull-back reads: x itself and per-channel vectors."""

    x: Array
    gamma: Array | None
    beta: Array | None
    weights: Array | None
    split: SplitMoments
    inv_std: Array  # q = r/a


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalize_by_vjp(config, x, gamma, beta, weights):
    """Normalize; pulled back by hand."""
    return forward(config, x, gamma, beta, weights)[0]


def _fwd(config, x, gamma, beta, weights):
    out, found = forward(config, x, gamma, beta, weights)
    return out, Residuals(x, gamma, beta, weights, *found)


def pull_back(
    config: RuleConfig, residuals: Residuals, bars: tuple[Array, Moments]
) -> tuple[Array, Array | None, Array | None, None]:
    """Pull cotangents of (y, moments) back to (x, γ, β, weights)."""
    features, axes = config.features, config.axes
    x, gamma, beta, weights, split, inv_std = residuals
    y_bar, (mean_bar, var_bar, *_) = bars
    scale = kernel.scale(gamma, inv_std * split.unit)  # γ r

    def masked(layout: Layout) -> tuple[Array, Array, Array, Array | None]:
        """Return ȳ, ȳ⁺, x and w in a layout."""
        view, w, kept = masked_view(config, layout, x, weights)
        t = layout.view(y_bar).astype(inv_std.dtype)
        return t, t if kept is None else jnp.where(kept, t, 0), view, w  # D.17

    def sums(layout: Layout) -> tuple[Projections, Array]:
        """Return Σ ȳ⁺, Σ ȳ⁺ (d − aρ) and Σ ȳ."""
        t, valid, view, _ = masked(layout)
        inner = kernel.inner_products(valid, view, split, layout)
        of_beta = weights is not None and config.masked == "beta"  # some y are β alone
        return inner, layout.sum(t) if of_beta else inner.ones

    (inner, beta_bar), c = collectives.sum_pulled_back(
        by_platform(x, features, sums),
        lambda inner: kernel.coefficients(inner, scale, inv_std),
        Projections(mean_bar, 2 * var_bar / split.unit),  # D.7
        (gamma, beta),
        axes,
    )

    def pulled(layout: Layout) -> Array:
        """Return γ r ȳ⁺ + (w/n) [c₁ + c₂ (d − aρ)]: D.7, D.17."""
        _, valid, view, w = masked(layout)
        p = None if w is None else moments.fractions(w, split.count, layout)
        mean_c = c if p is not None else kernel.average(c, split.count)
        x_bar = kernel.apply_kernel(valid, view, split, scale, mean_c, layout, p)
        return x_bar.astype(x.dtype).reshape(x.shape)

    return (
        by_platform(x, features, pulled),
        None if gamma is None else inv_std * inner.deviations,  # D.5
        None if beta is None else beta_bar,
        None,
    )


_pull_back_jitted = jax.jit(pull_back, static_argnums=0)  # one program for an eager caller
normalize_by_vjp.defvjp(_fwd, _pull_back_jitted)
