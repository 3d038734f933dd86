"""BN: the normalized network (S0-S4)."""

from typing import Any

import numpy as np

from bnjax.identities import numeric, observed
from bnjax.identities.cases import Case, float64, mixed
from bnjax.identities.entries import Identity, Sides, recorder, sides

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)


def forward(case: Case) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Run the case's normalized network in NumPy: (u, x, y) of every layer."""
    layers, u = [], numeric.wide(case.u)
    for W, gamma, beta in float64(case.params):
        x = np.einsum("sj,ji->si", u, W)
        y = gamma * numeric.layer(x, case.eps).x_hat + beta
        layers.append((u, x, y))
        u = mixed(y)
    return layers


@identity(
    "BN.1",
    "what is normalized is linear, without a bias",
    "x = u W",
    "S0–S4",
    scale="|x|",
)
def _linear(case: Case) -> Sides:
    _, _, by_hand = observed.by_hand(case)
    layers = zip(by_hand, forward(case), strict=True)
    return sides(*((layer.x, x) for layer, (_, x, _) in layers))


@identity(
    "BN.2",
    "normalization: mean 0, and variance ρ²",
    "μ = ⟨x⟩,  σ² = ⟨(x − μ)²⟩,  x̂ = (x − μ) r,  r = (σ² + ε)^(−1/2)",
    "S0–S4 (ε = 0 in S0–S2)",
    scale="|x|, σ², |x̂| + |β/γ|, 1",
)
def _normalize(case: Case) -> Sides:
    x = numeric.wide(case.x)
    seen = observed.by_rule(case)
    x_hat = (numeric.wide(seen.y) - case.beta) / case.gamma
    mean = x.mean(0)
    # half the mean squared difference of all pairs: a variance without a mean
    var = ((x[:, None] - x[None]) ** 2).mean((0, 1)) / 2
    formula = (x - mean) / np.sqrt(var + case.eps)
    return sides(
        (seen.mean, mean, x),
        (seen.var, var),
        (x_hat, formula, np.abs(formula) + np.abs(case.beta / case.gamma)),
        (x_hat.mean(0), 0 * mean, 1),
        ((x_hat**2).mean(0), var / (var + case.eps), 1),
    )


@identity(
    "BN.3",
    "normalization comes right before the activation",
    "y = γ x̂ + β,  u_next = g(y)",
    "S0–S4",
    scale="|y|",
)
def _affine(case: Case) -> Sides:
    at = numeric.layer(case.x, case.eps)
    _, _, logits, _ = observed.by_library_flow(case)
    y = numeric.wide(case.gamma) * at.x_hat + case.beta
    return sides(
        (observed.by_rule(case).y, y),
        (observed.by_plain(case).y, y),
        (logits, forward(case)[-1][2]),
    )


@identity(
    "BN.4",
    "normalization can be undone: the layer may learn the identity",
    "γ = √(σ² + ε), β = μ:  y = x",
    "S3; Ioffe & Szegedy",
    scale="|x|",
)
def _undone(case: Case) -> Sides:
    at = numeric.layer(case.x, case.eps)
    gamma, beta = (1 / at.r).astype(case.dtype), at.mean.astype(case.dtype)
    return sides((observed.by_rule(case._replace(gamma=gamma, beta=beta)).y, case.x))


@identity(
    "BN.5",
    "the weights' scale does not matter, and a gradient step is orthogonal to them",
    "ε = 0: BN(a x + c) = BN(x), a > 0, ∂C/∂(aW) = (1/a) ∂C/∂W;  "
    "every ε: Σ_j W_ji ∂C/∂W_ji = γ_i ∂C/∂γ_i · ε/(σ_i² + ε)",
    "S3, claim 1; Ioffe & Szegedy",
    scale="|y|, |u|ᵀ |γ r Δ|, Σ_j |W| |u|ᵀ |γ r Δ|",
)
def _scale(case: Case) -> Sides:
    at = numeric.layer(numeric.wide(case.u) @ case.W, case.eps)
    terms = np.abs(numeric.wide(case.u)).T @ np.abs(case.gamma * at.r * case.y_bar)
    _, W_bar, gamma_bar, _ = observed.by_weights_library(case)
    radial = case.gamma * numeric.wide(gamma_bar) * case.eps / (at.var + case.eps)
    overlap = (case.W * numeric.wide(W_bar)).sum(0)
    pairs: list[Any] = [(overlap, radial, (np.abs(case.W) * terms).sum(0))]
    if case.eps == 0:
        moved = case._replace(x=case.factor * case.x + case.bias)
        pairs += [(observed.by_rule(moved).y, observed.by_rule(case).y)]
        longer = observed.by_weights_library(case._replace(W=case.factor * case.W))
        pairs += [(case.factor * longer[1], W_bar, terms)]
    return sides(*pairs)


@identity(
    "BN.6",
    "a bias before the normalization cancels, and learns nothing",
    "BN(u W + b) = BN(u W),  ∂C/∂b = Σ_s K(Δ)_s = 0",
    "S3",
    scale="|y|, Σ_s |γ r Δ|",
)
def _bias(case: Case) -> Sides:
    at = numeric.layer(numeric.wide(case.u) @ case.W, case.eps)
    with_bias, _, _, b_bar = observed.by_weights_library(case)
    terms = np.abs(case.gamma * at.r * case.y_bar).sum(0)
    return sides(
        (with_bias, numeric.wide(case.gamma) * at.x_hat + case.beta),
        (b_bar, 0 * case.bias, terms),
        (observed.by_weights(case).bias, 0 * case.bias, terms),
        (numeric.kernel(case.y_bar, at, case.gamma).sum(0), 0 * case.bias, terms),
    )
