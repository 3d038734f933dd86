"""R: batch renormalization (Ioffe 2017)."""

from typing import Any

import jax
import numpy as np
from jax import Array

from bnjax.identities import numeric
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, recorder, sides
from bnjax.identities.quick import quick
from bnjax.renormalization import renorm

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)

# of λ and of τ: none; those of plain batch normalization; some that a part of the channels reaches
_BOUNDS = (np.inf, 1, 1.5), (np.inf, 0, 0.4)


@quick("eps")
def _renormalized(
    x: Any, gamma: Any, beta: Any, y_bar: Any, statistics: Any, bounds: Any, *, eps: float
) -> Any:
    """Return y, x̄ and γ̄ with each pair of bounds."""

    def one(r_max: Array, d_max: Array) -> Any:
        def function(x: Array, gamma: Array) -> Array:
            return renorm(x, statistics, gamma, beta, r_max=r_max, d_max=d_max, eps=eps)[0]

        y, pull_back = jax.vjp(function, x, gamma)
        return y, *pull_back(y_bar)

    return jax.vmap(one)(*bounds)


@identity(
    "R.1",
    "Batch renormalization: a batch normalized by its own moments, corrected to given statistics "
    "by constants; without bounds y is that of P.3, with λ_max = 1 and τ_max = 0 that of BN.3",
    "y = γ (λ x̂ + τ) + β,  λ = clip(r_BN/r, 1/λ_max, λ_max),  "
    "τ = clip((μ − μ_BN) r_BN, −τ_max, τ_max),  x̄ = γ λ r [ȳ − ⟨ȳ⟩ − x̂ ⟨ȳ x̂⟩],  "
    "γ̄ = λ Σ_s ȳ_s x̂_s + τ Σ_s ȳ_s,  y = γ (x − μ_BN) r_BN + β where λ_max = τ_max = ∞,  "
    "y = γ x̂ + β where λ_max = 1, τ_max = 0",
    "Ioffe 2017",
    scale="|γ (x̂ λ + τ)| + |β|, |γ λ r ȳ|, Σ_s |ȳ (x̂ λ + τ)|",
    derivation="""
        y = γ (λ x̂ + τ) + β with constants λ, τ
        ==> dy = γ λ dx̂ + (λ x̂ + τ) dγ + dβ
        γ dx̂ = K(dx)                                             (D.4)
        ==> x̄ = λ K(ȳ),  γ̄ = Σ_s ȳ_s (λ x̂_s + τ)                 (D.3)
        λ = r_BN/r,  τ = (μ − μ_BN) r_BN where λ_max = τ_max = ∞
        ==> λ x̂ + τ = (x − μ) r_BN + (μ − μ_BN) r_BN = (x − μ_BN) r_BN   (BN.2)
        λ = 1,  τ = 0 where λ_max = 1, τ_max = 0
        ==> y = γ x̂ + β                                          (BN.3)
    """,
    implementation=("bnjax.renorm", "bnjax.rules.correction.compare"),
)
def _renormalization(case: Case) -> Sides:
    at = numeric.normalized_layer(case.x, case.eps)
    x, y_bar, gamma = (numeric.wide(a) for a in (case.x, case.y_bar, case.gamma))
    mean, var = case.bias, case.factor**2
    given_r = (numeric.wide(var) + case.eps) ** -0.5
    bounds = tuple(np.array(each, case.dtype) for each in _BOUNDS)
    arrays = case.x, case.gamma, case.beta, case.y_bar, (mean, var)
    found = _renormalized(*arrays, bounds, eps=case.eps)
    pairs: list[Any] = []
    for k, (r_max, d_max) in enumerate(zip(*bounds, strict=True)):
        y, x_bar, gamma_bar = (part[k] for part in found)
        ratio = np.clip(given_r / at.r, 1 / r_max, r_max)
        offset = np.clip((at.mean - mean) * given_r, -d_max, d_max)
        corrected = ratio * at.x_hat + offset
        terms = np.abs(gamma) * (np.abs(ratio * at.x_hat) + np.abs(offset)) + np.abs(case.beta)
        pairs += [
            (y, gamma * corrected + case.beta, terms),
            (x_bar, numeric.times_kernel(y_bar, at, gamma * ratio), gamma * ratio * at.r * y_bar),
            (gamma_bar, (y_bar * corrected).sum(0), np.abs(y_bar * corrected).sum(0)),
        ]
    given = gamma * (x - mean) * given_r + case.beta
    terms = np.abs(gamma * given_r) * (np.abs(x) + np.abs(mean)) + np.abs(case.beta)
    return sides(*pairs, (found[0][0], given, terms))
