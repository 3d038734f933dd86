"""D.8–D.12: derivatives with respect to the weights, and through the layers."""

from typing import Any

import numpy as np

from bnjax.identities import flows, numeric, observed
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, paired, recorder, sides

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)


def weight_jacobian_formula(u: Any, at: numeric.NormalizedLayer, gamma: Any) -> np.ndarray:
    """Compute D.8: ∂y_si/∂W_ji as (B, n_in, n)."""
    u = numeric.wide(u)
    overlap = u.T @ at.x_hat / len(u)
    deviation = (u - u.mean(0))[:, :, None]
    return gamma * at.r * (deviation - at.x_hat[:, None] * overlap)


def layer_of(case: Case) -> numeric.NormalizedLayer:
    """Normalize the case's u W."""
    return numeric.normalized_layer(numeric.wide(case.u) @ case.W, case.eps)


def gradient_terms(case: Case, at: numeric.NormalizedLayer) -> np.ndarray:
    """Bound the terms of ∂C/∂W: |u|ᵀ |γ r Δ|."""
    return np.abs(numeric.wide(case.u)).T @ np.abs(case.gamma * at.r * case.y_bar)


def between_neurons(jacobian: np.ndarray) -> np.ndarray:
    """Fill in the zeros between neurons: (B, n_in, n) -> (B, n, n_in, n)."""
    return np.einsum("sji,ki->skji", jacobian, np.eye(jacobian.shape[2]))


@identity(
    "D.8",
    "The derivative of y with respect to a weight, through the statistics too",
    "∂y_si/∂W_ji = γ_i r_i [u_sj − ⟨u_j⟩ − x̂_si ⟨u_j x̂_i⟩],  ∂y_si'/∂W_ji = 0 where i' ≠ i",
    "S0/S1 eq. 1",
    scale="|γ r u|",
    derivation="""
        ∂x_s'i/∂W_ji = u_s'j                                             (BN.1)
        ==> ∂y_si/∂W_ji = Σ_s' (∂y_si/∂x_s'i) u_s'j
                        = K(u_j)_si, the push-forward of the input u_j   (D.4)
        ==> ∂y_si/∂W_ji = γ_i r_i [u_sj − ⟨u_j⟩ − x̂_si ⟨u_j x̂_i⟩]
        W_ji reaches x_i alone, and x_i reaches y_i alone                (D.2)
        ==> ∂y_si'/∂W_ji = 0 where i' ≠ i
    """,
    implementation=("bnjax.jacobian.weight_jacobian",),
)
def _weight_jacobian_sides(case: Case) -> Sides:
    at = layer_of(case)
    formula = weight_jacobian_formula(case.u, at, case.gamma)
    terms = np.abs(case.u)[:, :, None] * np.abs(case.gamma * at.r)
    return sides(
        (observed.by_weights(case).jacobian, between_neurons(formula), terms),
        (observed.by_library_jacobian(case).weight, formula, terms),
    )


def both_jacobians(case: Case) -> Sides:
    """Compare D.8 and D.13 with autodiff: with the statistics as functions of W, and constant."""
    at, found = layer_of(case), observed.by_weights(case)
    moving = weight_jacobian_formula(case.u, at, case.gamma)
    held = np.broadcast_to(
        numeric.wide(case.u)[:, :, None] * (case.gamma * at.r), (*case.u.shape, case.width)
    )
    return sides(
        (found.jacobian, between_neurons(moving), held),
        (found.frozen_jacobian, between_neurons(held), held),
    )


def weight_gradient_by_means(case: Case, at: numeric.NormalizedLayer) -> np.ndarray:
    """Compute D.9 from means: (n_in, n)."""
    u, delta, B = numeric.wide(case.u), numeric.wide(case.y_bar), case.batch
    inside = (
        u.T @ delta / B
        - np.outer(u.mean(0), delta.mean(0))
        - (delta * at.x_hat).mean(0) * (u.T @ at.x_hat / B)
    )
    return B * case.gamma * at.r * inside


@identity(
    "D.9",
    "The weight gradient: a covariance of error and input, less the part along x̂",
    "∂C/∂W = uᵀ K(Δ),  ∂C/∂W_ji = B γ_i r_i [⟨Δ_i u_j⟩ − ⟨Δ_i⟩⟨u_j⟩ − ⟨Δ_i x̂_i⟩⟨u_j x̂_i⟩]",
    "S0/S1 §3",
    scale="|u|ᵀ |γ r Δ|",
    derivation="""
        ∂C/∂x = K(Δ),  x = u W                                            (D.4, BN.1)
        ==> ∂C/∂W = uᵀ K(Δ)
        ==> ∂C/∂W_ji = γ_i r_i Σ_s u_sj [Δ_si − ⟨Δ_i⟩ − x̂_si ⟨Δ_i x̂_i⟩]   (D.4)
                     = B γ_i r_i [⟨Δ_i u_j⟩ − ⟨Δ_i⟩⟨u_j⟩ − ⟨Δ_i x̂_i⟩⟨u_j x̂_i⟩]
        with sample weights:  ∂C/∂x = w K(Δ/w)                            (D.17)
        ==> ∂C/∂W = uᵀ (w K(Δ/w))
    """,
    implementation=("bnjax.backprop.value_and_grad",),
)
def _gradient_by_means(case: Case) -> Sides:
    at = layer_of(case)
    formula, terms = weight_gradient_by_means(case, at), gradient_terms(case, at)
    flow = flows.by_flow(case)
    through = [
        numeric.wide(u).T
        @ numeric.times_kernel(delta, numeric.normalized_layer(x, case.eps), params.gamma)
        for u, x, delta, params in zip(flow.u, flow.x, flow.delta, case.params, strict=True)
    ]
    grads = (flow.grads, flows.by_library_flow(case)[1], flows.by_hand(case)[1])
    return sides(
        (observed.by_weights(case).W, formula, terms),
        (observed.by_weights_library(case)[1], formula, terms),
        (numeric.wide(case.u).T @ numeric.times_kernel(case.y_bar, at, case.gamma), formula, terms),
        *(
            pair
            for one in grads
            for pair in paired([p.W for p in one], through, normalized_terms(case)[1])
        ),
    )


def normalized_terms(case: Case) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Bound the terms of the normalized network's Δ and ∂C/∂W, layer by layer."""
    flow, error = flows.by_flow(case), 1.0 / case.batch + np.zeros_like(case.targets)
    return numeric.magnitudes(flow.u, flow.x, flow.g_prime, case.params, error, case.eps, norm=True)


@identity(
    "D.10",
    "The weight gradient as a product of vectors in sample space",
    "∂C/∂W_ji = γ_i r_i Δ_iᵀ M_i u_j,  M_i = I − (O + x̂_i x̂_iᵀ)/B",
    "S0/S1 §3",
    scale="|u|ᵀ |γ r Δ|; 1 for M",
    derivation="""
        ∂y_si/∂x_s'i = γ_i r_i [δ_ss' − 1/B − x̂_si x̂_s'i / B]   (D.2)
        as a matrix with the rows s and the columns s':
        ==> γ_i r_i M_i with M_i = I − (O + x̂_i x̂_iᵀ)/B, symmetric
        ==> K(Δ)_i = γ_i r_i M_i Δ_i                            (D.4)
        ==> ∂C/∂W_ji = u_jᵀ K(Δ)_i = γ_i r_i Δ_iᵀ M_i u_j       (D.9)
    """,
    implementation=("bnjax.jacobian.mixing_matrix",),
)
def _sample_space(case: Case) -> Sides:
    at, B = layer_of(case), case.batch
    M = np.eye(B)[:, :, None] - (1 + at.x_hat[:, None] * at.x_hat[None]) / B
    formula = case.gamma * at.r * np.einsum("si,sti,tj->ji", case.y_bar, M, numeric.wide(case.u))
    terms = gradient_terms(case, at)
    here = case._replace(x=case.u @ case.W)
    return sides(
        (observed.by_weights(case).W, formula, terms),
        (observed.by_weights_library(case)[1], formula, terms),
        (observed.by_library_jacobian(here).mixing, M, 1),
    )


@identity(
    "D.11",
    "The error recursion of the normalized network",
    "Δˡ = g'(yˡ) ⊙ [K(Δˡ⁺¹) Wᵀ], K and W of layer l+1",
    "S0/S1 eq. 2",
    scale="|g'| |γ r Δ| |W|ᵀ ... |Δᴸ|",
    derivation="""
        ∂C/∂x = K(Δˡ⁺¹) in layer l+1                     (D.4)
        x = u W there, with u = g(yˡ)                    (BN.1, BN.3)
        ==> ∂C/∂u = K(Δˡ⁺¹) Wᵀ
        ==> Δˡ = ∂C/∂yˡ = g'(yˡ) ⊙ [K(Δˡ⁺¹) Wᵀ]          (D.14)
        and it starts with Δᴸ, the error of the output   (BL.3)
    """,
    implementation=("bnjax.backprop.value_and_grad", "bnjax.backprop.intermediates"),
)
def recursion(case: Case) -> Sides:
    """Compare the network's Δ, by autodiff and by hand, with D.11."""
    flow, terms = flows.by_flow(case), normalized_terms(case)[0]
    formula = [
        flow.g_prime[at - 1]
        * (numeric.times_kernel(flow.delta[at], above, layer.gamma) @ layer.W.T)
        for at, layer in list(enumerate(case.params))[1:]
        for above in [numeric.normalized_layer(flow.x[at], case.eps)]
    ]
    boundary = (numeric.sigmoid(flow.y[-1]) - case.targets) / case.batch
    _, _, by_hand = flows.by_hand(case)
    return sides(
        *paired(flow.delta, [*formula, boundary], terms),
        *paired([one.delta for one in by_hand], flow.delta, terms),
    )


def single(case: Case, sign: float = 1.0) -> tuple[Sides, np.ndarray]:
    """Compare M u with D.12 for layers of one input and one neuron each, side by side.

    Returns:
        The sides, and M u itself, (B, n).
    """
    u = numeric.wide(case.u[:, 1:])
    x = u * (sign * numeric.wide(case.factor))
    at = numeric.normalized_layer(x, case.eps)
    sd, u_hat = numeric.hat(u)
    remaining = u - u.mean(0) - at.x_hat * (at.x_hat * u).mean(0)
    formula = sd * u_hat * case.eps / (at.var + case.eps)
    x_bar = observed.by_plain(case._replace(x=x.astype(case.dtype))).x_bar
    terms = np.abs(case.gamma * at.r * case.y_bar * u).sum(0)
    gradient = case.gamma * at.r * (case.y_bar * formula).sum(0)
    return sides((remaining, formula, u), ((x_bar * u).sum(0), gradient, terms)), remaining


@identity(
    "D.12",
    "With one neuron per layer and ε = 0 the weights get no gradient at all",
    "M u = σ(u) û ε/(σ² + ε) where n_in = 1,  ∂C/∂W = 0 where n_in = 1, ε = 0",
    "S0/S1 §3 (ε = 0); own derivation",
    scale="|u|, Σ_s |γ r Δ u|",
    derivation="""
        x = u W with a number W:  x̂ = r W (u − ⟨u⟩),  σ² = W² σ(u)²   (BN.1, BN.2)
        M u = u − ⟨u⟩ − x̂ ⟨u x̂⟩                                       (D.10)
        ⟨u x̂⟩ = r W ⟨u (u − ⟨u⟩)⟩ = r W σ(u)²
        ==> x̂ ⟨u x̂⟩ = r² W² σ(u)² (u − ⟨u⟩) = σ²/(σ² + ε) (u − ⟨u⟩)   (BN.2)
        ==> M u = (u − ⟨u⟩) ε/(σ² + ε) = σ(u) û ε/(σ² + ε)            (G.1)
        ==> ∂C/∂W = γ r Δᵀ M u = 0 where ε = 0                        (D.10)
    """,
)
def _one_neuron(case: Case) -> Sides:
    (positive, _), (negative, _) = single(case), single(case, -1.0)
    return Sides(*(a + b for a, b in zip(positive, negative, strict=True)))
