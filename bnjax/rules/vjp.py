"""The pull-back of batch normalization, derived by hand: `rule="vjp"`.

Means are weighted, ⟨t⟩ = Σ_s w_s t_s / n with n = Σ_s w_s. A small change dx of the batch alone:

    μ = ⟨x⟩,  σ² = ⟨(x − μ)²⟩                                                          (BN.2)
==> dμ = ⟨dx⟩,  dσ² = 2 ⟨(x − μ) dx⟩                                                   (D.7)
    r = (σ² + ε)^(−1/2)                                                                (BN.2)
==> dr = −½ r³ dσ² = −r² ⟨x̂ dx⟩
    y = γ (x − μ) r + β                                                          (BN.2, BN.3)
==> dy = γ [(dx − dμ) r + (x − μ) dr] = γ r [dx − ⟨dx⟩ − x̂ ⟨x̂ dx⟩] = K(dx)             (D.4)

By definition Σ_s x̄_s dx_s = Σ_s ȳ_s dy_s for every dx. Where w = 0, y is β whatever x is: ȳ counts
as ȳ⁺, ȳ where w > 0, else 0. Written out, ⟨dx⟩ and ⟨x̂ dx⟩ are sums over s; collect what multiplies
one dx_s, and the same with dy = x̂ dγ + dβ for a change of γ and β alone:

==> x̄ = γ r [ȳ⁺ − (w/n) (Σ ȳ⁺ + x̂ Σ ȳ⁺ x̂)] = w K(ȳ⁺/w)                               (D.17)
==> γ̄ = Σ ȳ⁺ x̂,  β̄ = Σ ȳ                                                             (D.5)

With `masked="normalize"` dy = K(dx) holds where w = 0 as well: dx there counts in no ⟨⟩, but dμ and
dr move y. So ȳ⁺ is ȳ: it takes part in Σ ȳ⁺ and Σ ȳ⁺ x̂, which the weights hand on to the places
that count, and x̄ is γ r ȳ where w = 0. Only where x is not finite and w = 0 is there no y: there ȳ⁺
is 0, and ȳ does not reach β either, β̄ = Σ ȳ⁺.

μ and σ² are outputs too: μ̄ dμ + σ̄² dσ² adds (w/n) [μ̄ + 2 σ̄² (x − μ)] to x̄ (D.7). With q = r/a,
a (x − μ) = z − a e and x̂ = q (z − a e) from `kernel`, this is the code:

==> x̄ = γ r ȳ⁺ + (w/n) [c₁ + c₂ (z − a e)],  γ̄ = q Σ ȳ⁺ (z − a e),  β̄ = Σ ȳ
    c₁ = −γ r Σ ȳ⁺ + μ̄,  c₂ = −γ r q² Σ ȳ⁺ (z − a e) + 2 σ̄²/a

With a `Correction` y = γ (λ x̂ + τ) + β, where λ and τ are constants (R.1): γ λ r stands for γ r in
x̄, and dy = (λ x̂ + τ) dγ for a change of γ:

==> γ̄ = λ Σ ȳ⁺ x̂ + τ Σ ȳ⁺                                                              (R.1)

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
from jax import Array

from bnjax import collectives, kernel, moments
from bnjax.kernel import Projections
from bnjax.layout import Layout, by_platform
from bnjax.moments import Moments, SplitMoments
from bnjax.rules.correction import Correction, corrected, corrected_cotangent
from bnjax.rules.forward import RuleConfig, forward, masked_pair


class Residuals(NamedTuple):
    """What the pull-back reads: x itself and per-channel vectors."""

    x: Array
    gamma: Array | None
    beta: Array | None
    weights: Array | None
    split: SplitMoments
    inv_std: Array  # q = r/a
    correction: Correction | None  # λ and τ, for batch renormalization

    def scale(self) -> Array:
        """Return γ r, or γ λ r."""
        gamma = corrected(self.gamma, self.correction)[0]
        return kernel.scale(gamma, self.inv_std * self.split.unit)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalize_by_vjp(config, x, gamma, beta, weights, mean_guess, given):
    """Normalize; pulled back by hand."""
    return forward(config, x, gamma, beta, weights, mean_guess, given)[0]


def _fwd(config, x, gamma, beta, weights, mean_guess, given):
    out, found = forward(config, x, gamma, beta, weights, mean_guess, given)
    return out, Residuals(x, gamma, beta, weights, *found)


def pull_back(
    config: RuleConfig, residuals: Residuals, bars: tuple[Array, Moments]
) -> tuple[Array, Array | None, Array | None, None, None, None]:
    """Pull cotangents of (y, moments) back to (x, γ, β, weights, guess, given statistics)."""
    _, gamma, beta, _, split, inv_std, correction = residuals
    y_bar, (mean_bar, var_bar, *_) = bars
    scale = residuals.scale()
    (inner, beta_bar), c = collectives.sum_pulled_back(
        pull_back_sums(config, residuals, y_bar),
        lambda inner: kernel.coefficients(inner, scale, inv_std),  # −γ r Σ ȳ⁺ …: D.17
        Projections(mean_bar, 2 * var_bar / split.unit),  # + μ̄, + 2 σ̄²/a: D.7
        (gamma, beta, *(correction or ())),  # all that may differ between devices
        config.axes,
    )
    gamma_bar = inv_std * inner.deviations  # q Σ ȳ⁺ (z − a e): D.5
    return (
        pull_back_samples(config, residuals, y_bar, c),
        None if gamma is None else corrected_cotangent(gamma_bar, inner.ones, correction),
        None if beta is None else beta_bar,  # Σ ȳ: D.5
        None,  # weights are constants
        None,  # the guess influences nothing but rounding
        None,  # λ and τ are constants
    )


def pull_back_sums(
    config: RuleConfig, residuals: Residuals, y_bar: Array
) -> tuple[Projections, Array]:
    """Return what the pull-back sums over this device's samples: Σ ȳ⁺, Σ ȳ⁺ (z − a e), and β̄."""
    x, _, _, weights, split, inv_std, _ = residuals

    def sums(layout: Layout) -> tuple[Projections, Array]:
        t_plus, view, *_ = masked_pair(config, layout, y_bar, x, weights, inv_std.dtype)
        inner = kernel.inner_products(t_plus, view, split, layout)
        if weights is None or config.masked == "normalize":
            return inner, inner.ones
        return inner, layout.sum(layout.view(y_bar).astype(inv_std.dtype))  # some y are β alone

    return by_platform(x, config.features, sums)


def pull_back_samples(
    config: RuleConfig, residuals: Residuals, y_bar: Array, c: Projections
) -> Array:
    """Return x̄ = γ r ȳ⁺ + (w/n) [c₁ + c₂ (z − a e)]: D.7, D.17."""
    x, _, _, weights, split, inv_std, _ = residuals
    scale = residuals.scale()

    def pulled(layout: Layout) -> Array:
        t_plus, view, w, _ = masked_pair(config, layout, y_bar, x, weights, inv_std.dtype)
        p = None if w is None else moments.fractions(w, split.count, layout)
        mean_c = c if p is not None else kernel.average(c, split.count)
        x_bar = kernel.apply_kernel(t_plus, view, split, scale, mean_c, layout, p)
        return x_bar.astype(x.dtype).reshape(x.shape)

    return by_platform(x, config.features, pulled)


_pull_back_jitted = jax.jit(pull_back, static_argnums=0)  # one program for an eager caller
normalize_by_vjp.defvjp(_fwd, _pull_back_jitted)
