"""BN: the normalized network (S0–S4)."""

from typing import Any

import numpy as np

from bnjax.identities import flows, numeric, observed
from bnjax.identities.cases import Case, float64, mixed
from bnjax.identities.entries import Identity, Sides, recorder, sides

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)


def normalized_forward(case: Case) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Run the case's normalized network in NumPy: (u, x, y) of every layer."""
    layers, u = [], numeric.wide(case.u)
    for W, gamma, beta in float64(case.params):
        x = np.einsum("sj,ji->si", u, W)
        y = gamma * numeric.normalized_layer(x, case.eps).x_hat + beta
        layers.append((u, x, y))
        u = mixed(y)
    return layers


@identity(
    "BN.1",
    "What is normalized is linear in u, without a bias: β is the bias",
    "x = u W",
    "S0–S4",
    scale="|x|",
    implementation=("bnjax.network.bn_apply",),
)
def _linear(case: Case) -> Sides:
    _, _, by_hand = flows.by_hand(case)
    layers = zip(by_hand, normalized_forward(case), strict=True)
    return sides(*((layer.x, x) for layer, (_, x, _) in layers))


@identity(
    "BN.2",
    "Normalization: x̂ has mean 0 and variance σ²/(σ² + ε)",
    "μ = ⟨x⟩,  σ² = ⟨(x − μ)²⟩,  x̂ = (x − μ) r,  r = (σ² + ε)^(−1/2),  ⟨x̂⟩ = 0,  ⟨x̂²⟩ = ρ²",
    "S0–S4 (ε = 0 in S0–S2)",
    scale="|x|, σ², |x̂| + |β/γ|, 1",
    implementation=("bnjax.batch_norm", "bnjax.moments.Moments"),
)
def _moments_and_x_hat(case: Case) -> Sides:
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
    "Scale and shift; normalization comes right before the activation",
    "y = γ x̂ + β,  u_next = g(y)",
    "S0–S4",
    scale="|y|",
    implementation=("bnjax.batch_norm", "bnjax.network.bn_apply"),
)
def _scaled_and_shifted(case: Case) -> Sides:
    at = numeric.normalized_layer(case.x, case.eps)
    _, _, logits, _ = flows.by_library_flow(case)
    y = numeric.wide(case.gamma) * at.x_hat + case.beta
    return sides(
        (observed.by_rule(case).y, y),
        (observed.by_plain(case).y, y),
        (logits, normalized_forward(case)[-1][2]),
    )


@identity(
    "BN.4",
    "γ and β can undo the normalization",
    "y = x where γ = (σ² + ε)^(1/2), β = μ",
    "S3; Ioffe & Szegedy 2015",
    scale="|x|",
    derivation="""
        γ r = 1 where γ = (σ² + ε)^(1/2)          (BN.2)
        ==> y = γ r (x − μ) + β = x − μ + μ = x   (BN.3)
    """,
)
def _undone(case: Case) -> Sides:
    at = numeric.normalized_layer(case.x, case.eps)
    gamma, beta = (1 / at.r).astype(case.dtype), at.mean.astype(case.dtype)
    return sides((observed.by_rule(case._replace(gamma=gamma, beta=beta)).y, case.x))


@identity(
    "BN.5",
    "At ε = 0 the scale of W does not matter, and ∂C/∂W is orthogonal to W",
    "BN(a x + c) = BN(x) where ε = 0, a > 0,  ∂C/∂(a W) = ∂C/∂W / a where ε = 0, a > 0,  "
    "Σ_j W_ji ∂C/∂W_ji = γ_i ∂C/∂γ_i ε/(σ_i² + ε)",
    "S3, claim 1; Ioffe & Szegedy 2015",
    scale="|y|, |u|ᵀ |γ r Δ|, Σ_j |W| |u|ᵀ |γ r Δ|",
    derivation="""
        a x + c has mean a μ + c and variance a² σ²                          (BN.2)
        ==> BN(a x + c) = γ a (x − μ)/(a σ) + β = BN(x) where ε = 0, a > 0   (BN.3)
        the cost is one function of W and of a W
        ==> ∂C/∂(a W) = ∂C/∂W / a
        ∂C/∂W_ji = Σ_s u_sj K(Δ)_si                                          (D.9)
        ==> Σ_j W_ji ∂C/∂W_ji = Σ_s x_si K(Δ)_si                             (BN.1)
                              = Σ_s K(x)_si Δ_si                             (D.3)
        x_i = μ_i + x̂_i/r_i,  K(1) = 0,  K(x̂) = γ r ε/(σ² + ε) x̂             (BN.2, D.3)
        ==> Σ_j W_ji ∂C/∂W_ji = γ_i ε/(σ_i² + ε) Σ_s x̂_si Δ_si
                              = γ_i ∂C/∂γ_i ε/(σ_i² + ε)                     (D.5)
    """,
    implementation=("bnjax.geometry.weight_norms",),
)
def _scale_invariance(case: Case) -> Sides:
    at = numeric.normalized_layer(numeric.wide(case.u) @ case.W, case.eps)
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
    "A bias before the normalization cancels and gets no gradient",
    "BN(u W + b) = BN(u W),  ∂C/∂b = Σ_s K(Δ)_s = 0",
    "S3",
    scale="|y|, Σ_s |γ r Δ|",
    derivation="""
        u W + b has the mean μ + b, and the same deviations from it as u W   (BN.2)
        ==> BN(u W + b) = BN(u W)                                            (BN.3)
        x = u W + b,  ∂x_si/∂b_i = 1
        ==> ∂C/∂b = Σ_s K(Δ)_s                                               (D.4)
                  = B ⟨1 K(Δ)⟩ = B ⟨K(1) Δ⟩ = 0                              (D.3)
    """,
)
def _bias(case: Case) -> Sides:
    at = numeric.normalized_layer(numeric.wide(case.u) @ case.W, case.eps)
    with_bias, _, _, b_bar = observed.by_weights_library(case)
    terms = np.abs(case.gamma * at.r * case.y_bar).sum(0)
    return sides(
        (with_bias, numeric.wide(case.gamma) * at.x_hat + case.beta),
        (b_bar, 0 * case.bias, terms),
        (observed.by_weights(case).bias, 0 * case.bias, terms),
        (numeric.times_kernel(case.y_bar, at, case.gamma).sum(0), 0 * case.bias, terms),
    )
