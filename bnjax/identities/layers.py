"""D.8–D.12: derivatives in the weights and through the layers."""

from typing import Any

import numpy as np

from bnjax.identities import numeric, observed
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, paired, recorder, sides

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)


def weight_jacobian(u: Any, at: numeric.Layer, gamma: Any) -> np.ndarray:
    """Write D.8 down: ∂y_si/∂W_ji as (B, n_in, n)."""
    u = numeric.wide(u)
    overlap = u.T @ at.x_hat / len(u)
    deviation = (u - u.mean(0))[:, :, None]
    return gamma * at.r * (deviation - at.x_hat[:, None] * overlap)


def layer(case: Case) -> numeric.Layer:
    """Normalize the case's u W."""
    return numeric.layer(numeric.wide(case.u) @ case.W, case.eps)


def gradient_terms(case: Case, at: numeric.Layer) -> np.ndarray:
    """Bound the terms of ∂C/∂W: |u|ᵀ |γ r Δ|."""
    return np.abs(numeric.wide(case.u)).T @ np.abs(case.gamma * at.r * case.y_bar)


def between_neurons(jacobian: np.ndarray) -> np.ndarray:
    """Fill in the zeros between neurons: (B, n_in, n) -> (B, n, n_in, n)."""
    return np.einsum("sji,ki->skji", jacobian, np.eye(jacobian.shape[2]))


@identity(
    "D.8",
    "what a weight does to y, through the statistics too",
    "∂y_sk/∂W_ji = δ_ik γ_i r_i [u_sj − ⟨u_j⟩ − x̂_si ⟨u_j x̂_i⟩]",
    "S0/S1 eq. 1",
    scale="|γ r u|",
)
def _weight_jacobian_sides(case: Case) -> Sides:
    at = layer(case)
    formula = weight_jacobian(case.u, at, case.gamma)
    terms = np.abs(case.u)[:, :, None] * np.abs(case.gamma * at.r)
    return sides(
        (observed.by_weights(case).jacobian, between_neurons(formula), terms),
        (observed.by_library_jacobian(case).weight, formula, terms),
    )


def both_jacobians(case: Case) -> Sides:
    """Hold D.8 and D.13 against autodiff, with the statistics moving and held."""
    at, found = layer(case), observed.by_weights(case)
    moving = weight_jacobian(case.u, at, case.gamma)
    held = np.broadcast_to(
        numeric.wide(case.u)[:, :, None] * (case.gamma * at.r), (*case.u.shape, case.width)
    )
    return sides(
        (found.jacobian, between_neurons(moving), held),
        (found.frozen_jacobian, between_neurons(held), held),
    )


def gradient(case: Case, at: numeric.Layer) -> np.ndarray:
    """Write D.9 down: (n_in, n)."""
    u, delta, B = numeric.wide(case.u), numeric.wide(case.y_bar), case.batch
    inside = (
        u.T @ delta / B
        - np.outer(u.mean(0), delta.mean(0))
        - (delta * at.x_hat).mean(0) * (u.T @ at.x_hat / B)
    )
    return B * case.gamma * at.r * inside


@identity(
    "D.9",
    "the weights' gradient: a covariance, less what x̂ takes",
    "∂C/∂W_ji = B γ_i r_i (⟨Δ_i u_j⟩ − ⟨Δ_i⟩⟨u_j⟩ − ⟨Δ_i x̂_i⟩⟨u_j x̂_i⟩) = uᵀ K(Δ)",
    "S0/S1 §3",
    scale="|u|ᵀ |γ r Δ|",
)
def _weight_gradient(case: Case) -> Sides:
    at = layer(case)
    formula, terms = gradient(case, at), gradient_terms(case, at)
    flow = observed.by_flow(case)
    through = [
        numeric.wide(u).T @ numeric.kernel(delta, numeric.layer(x, case.eps), params.gamma)
        for u, x, delta, params in zip(flow.u, flow.x, flow.delta, case.params, strict=True)
    ]
    grads = (flow.grads, observed.by_library_flow(case)[1], observed.by_hand(case)[1])
    return sides(
        (observed.by_weights(case).W, formula, terms),
        (observed.by_weights_library(case)[1], formula, terms),
        (numeric.wide(case.u).T @ numeric.kernel(case.y_bar, at, case.gamma), formula, terms),
        *(pair for one in grads for pair in paired([p.W for p in one], through, sizes(case)[1])),
    )


def sizes(case: Case) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Bound the terms of the normalized network's Δ and ∂C/∂W, layer by layer."""
    flow, error = observed.by_flow(case), 1.0 / case.batch + np.zeros_like(case.targets)
    return numeric.magnitudes(flow.u, flow.x, flow.g_prime, case.params, error, case.eps, norm=True)


@identity(
    "D.10",
    "the same in sample space",
    "∂C/∂W_ji = γ_i r_i Δ_iᵀ M_i u_j,  M_i = I − (O + x̂_i x̂_iᵀ)/B",
    "S0/S1 §3",
    scale="|u|ᵀ |γ r Δ|; 1 for M",
)
def _sample_space(case: Case) -> Sides:
    at, B = layer(case), case.batch
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
    "the error recursion of the normalized network",
    "Δˡ = g'(yˡ) ⊙ [K(Δˡ⁺¹) Wᵀ],  γ, r, x̂, W of layer l+1;  Δᴸ as in BL.3",
    "S0/S1 eq. 2",
    scale="|g'| |γ r Δ| |W|ᵀ ... |Δᴸ|",
)
def recursion(case: Case) -> Sides:
    """Hold the network's Δ, by autodiff and by hand, against D.11."""
    flow, terms = observed.by_flow(case), sizes(case)[0]
    formula = [
        flow.g_prime[at - 1] * (numeric.kernel(flow.delta[at], above, layer.gamma) @ layer.W.T)
        for at, layer in list(enumerate(case.params))[1:]
        for above in [numeric.layer(flow.x[at], case.eps)]
    ]
    boundary = (numeric.sigmoid(flow.y[-1]) - case.targets) / case.batch
    _, _, by_hand = observed.by_hand(case)
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
    at = numeric.layer(x, case.eps)
    sd, u_hat = numeric.hat(u)
    remaining = u - u.mean(0) - at.x_hat * (at.x_hat * u).mean(0)
    formula = sd * u_hat * case.eps / (at.var + case.eps)
    x_bar = observed.by_plain(case._replace(x=x.astype(case.dtype))).x_bar
    terms = np.abs(case.gamma * at.r * case.y_bar * u).sum(0)
    gradient = case.gamma * at.r * (case.y_bar * formula).sum(0)
    return sides((remaining, formula, u), ((x_bar * u).sum(0), gradient, terms)), remaining


@identity(
    "D.12",
    "one neuron per layer: at ε = 0 the weights get no gradient at all",
    "M u = σ(u) û · ε/(σ² + ε)",
    "S0/S1 §3 (ε = 0); ours",
    scale="|u|, Σ_s |γ r Δ u|",
)
def _one_neuron(case: Case) -> Sides:
    (positive, _), (negative, _) = single(case), single(case, -1.0)
    return Sides(*(a + b for a, b in zip(positive, negative, strict=True)))
