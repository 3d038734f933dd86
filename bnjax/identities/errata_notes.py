"""E.1, E.6, E.7, E.9: what the note S0–S2 gets wrong."""

from typing import Any

import numpy as np

from bnjax.identities import descent, flows, geometry, layers, numeric, observed
from bnjax.identities.cases import Case, float64
from bnjax.identities.entries import Identity, Sides, paired, recorder, sides

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)

_EPS = 1.0  # an ε that shows, E.9


def _orthogonal(case: Case) -> np.ndarray:
    """Return vectors of length √B orthogonal to 1 and to x̂, one per neuron."""
    _, x_hat = numeric.hat(case.x)
    rest = numeric.wide(case.y_bar) - case.y_bar.mean(0)
    rest = rest - x_hat * (rest * x_hat).mean(0)
    return numeric.hat(rest)[1]


def _opposite(case: Case) -> Sides:
    _, x_hat = numeric.hat(case.x)
    opposite = case._replace(y_bar=-x_hat.astype(case.dtype), gamma=np.ones_like(case.gamma))
    at = numeric.normalized_layer(case.x, case.eps)
    product = numeric.wide(observed.by_library_jacobian(opposite).product) / at.r
    length = np.linalg.norm(product, axis=0)
    return sides((np.full(case.width, case.batch**0.5), length, case.batch**0.5))


@identity(
    "E.1",
    "S0/S1: opposite to x̂ “the error back-propagates with largest magnitude”",
    "|Δ̂_i − cos θ1 x̂_i| = √B |sin θ1| where ε = 0,  |Δ̂_i − cos θ1 x̂_i| = 0 where Δ̂_i = −x̂_i,  "
    "|Δ̂_i − cos θ1 x̂_i| = √B where cos θ1 = 0",
    "S0/S1 §3",
    holds="eps = 0",
    scale="√B",
    batch=3,
    refuted=_opposite,
    margin=0.5,
    correction="S0/S1 say that an error opposite to x̂ propagates with the largest magnitude. It "
    "does not propagate at all, like an aligned one; the magnitude is largest at a right angle "
    "(G.5).",
)
def _right_angle(case: Case) -> Sides:
    at = numeric.normalized_layer(case.x, case.eps)
    _, x_hat = numeric.hat(case.x)
    orthogonal = _orthogonal(case)
    pairs: list[Any] = []
    for angle in np.linspace(0, np.pi, 5):
        t = np.cos(angle) * x_hat + np.sin(angle) * orthogonal
        turned = case._replace(y_bar=t.astype(case.dtype))
        product = numeric.wide(observed.by_library_jacobian(turned).product)
        length = np.linalg.norm(product / (case.gamma * at.r), axis=0)
        expected = np.full(case.width, case.batch**0.5 * abs(np.sin(angle)))
        pairs.append((length, expected, case.batch**0.5))
    return sides(*pairs)


def _layer_below(case: Case) -> Sides:
    flow = flows.by_flow(case)
    pairs = []
    for below in range(len(case.params) - 1):
        at = numeric.normalized_layer(flow.x[below], case.eps)
        pulled = numeric.times_kernel(flow.delta[below + 1], at, case.params[below].gamma)
        claimed = flow.g_prime[below] * (pulled @ case.params[below + 1].W.T)
        pairs.append((claimed, flow.delta[below]))
    return sides(*pairs)


@identity(
    "E.6",
    "S0/S1, derivation of eq. 2: γ, σ and x̂ in the error recursion are those of layer l",
    "Δˡ = g'(yˡ) ⊙ [K(Δˡ⁺¹) Wᵀ], K and W of layer l+1",
    "S0/S1 §2",
    scale="as D.11",
    batch=3,
    refuted=_layer_below,
    correction="In the middle of their derivation of eq. 2 S0/S1 write γ, σ and x̂ of layer l. They "
    "are those of layer l+1, as in eq. 2 itself (D.11). Once they also write Δˡ for Δˡ⁺¹, and S0 "
    "writes rˡ for γˡ.",
)
def _layer_above(case: Case) -> Sides:
    return layers.recursion(case)


def _along_step(case: Case) -> tuple[float, float]:
    """Return how fast the cost changes along a step of the library, and −|step|²/η.

    The rate is Im C(W + i h step)/h, in NumPy: exact, without a derivative written by hand.
    """
    W, b = float64(case.baseline_params)[0]
    after = descent.descent_steps(case)[1]
    step = numeric.wide(after.W[-1]) - W, numeric.wide(after.b[-1]) - b
    h = 1e-30
    y = numeric.wide(case.u) @ (W + 1j * h * step[0]) + (b + 1j * h * step[1])
    cost = (np.log1p(np.exp(y)) - case.targets * y).sum() / case.batch
    squared = sum(float((part**2).sum()) for part in step)
    return float(np.imag(cost)) / h, -squared / descent.RATE


def _slips(case: Case) -> Sides:
    along, expected = _along_step(case)
    at, u = layers.layer_of(case), numeric.wide(case.u)
    no_index = (u - u.mean(0))[:, :, None] * case.gamma * at.r  # x̂ without s: its mean, 0
    return sides(
        (-along, expected),  # W + η ∂C/∂W climbs
        (no_index, layers.weight_jacobian_formula(u, at, case.gamma), no_index),
    )


@identity(
    "E.7",
    "S0–S2: bias bˡ in layer l+1, an update without its minus, x̂ without its index",
    "yˡ⁺¹ = g(yˡ) Wˡ⁺¹ + bˡ⁺¹,  W ← W − η ∂C/∂W,  "
    "∂y_si/∂W_ji = γ_i r_i [u_sj − ⟨u_j⟩ − x̂_si ⟨u_j x̂_i⟩]",
    "S0/S1 §1; S0; S2",
    scale="|step|²/η, |y|",
    refuted=_slips,
    correction="S0/S1 differentiate W g(y) + bˡ. The bias is bˡ⁺¹ (BL.1); nothing follows from it, "
    "as its derivative is zero. S0 lost the minus sign of the update (BL.6). S2 lost the sample "
    "index of x̂ in eq. 1 (D.8).",
)
def _corrected_slips(case: Case) -> Sides:
    flow = flows.by_baseline_flow(case)
    y = [numeric.wide(u) @ W + b for u, (W, b) in zip(flow.u, case.baseline_params, strict=True)]
    return sides(
        _along_step(case),
        *paired(flow.y, y, y),
    )


def _for_every_eps(case: Case) -> Sides:
    case = case._replace(eps=_EPS)
    at = layers.layer_of(case)
    exact = at._replace(r=at.var**-0.5)
    _, u_hat = numeric.hat(case.u[:, 1:])
    negative = numeric.hat(-case.factor * numeric.wide(case.u[:, 1:]))[1]
    remaining = layers.single(case)[1]
    return sides(
        (geometry.weight_gradient_by_angles(case, exact, 1.0), observed.by_weights(case).W),
        (0 * remaining, remaining),
        (u_hat, negative),
    )


@identity(
    "E.9",
    "S0/S1: the insights of §3 hold for every ε, and with one neuron for W of either sign",
    "ρ_i² = σ_i²/(σ_i² + ε),  M u = σ(u) û ε/(σ² + ε) where n_in = 1,  "
    "x̂ = −ρ û where n_in = 1, W < 0,  σ(u) = σ/|W| where n_in = 1",
    "S0/S1 §3",
    scale="as G.2, D.12; |û|, σ",
    refuted=_for_every_eps,
    correction="The insights of S0/S1 hold at ε = 0 only; G.2, G.4, G.5 and D.12 state them for "
    "every ε. With one neuron per layer x̂ = û and σ(u) = σ/W need W > 0; for W < 0, x̂ = −û and "
    "σ(u) = σ/|W|.",
)
def _with_eps(case: Case) -> Sides:
    case = case._replace(eps=_EPS)
    at = layers.layer_of(case)
    terms = layers.gradient_terms(case, at)
    single, _ = layers.single(case, -1.0)
    w = -numeric.wide(case.factor)
    sd, u_hat = numeric.hat(case.u[:, 1:])
    sd_x, x_hat = numeric.hat(case.u[:, 1:] * w)
    found = sides(
        (
            geometry.weight_gradient_by_angles(case, at, at.rho),
            observed.by_weights(case).W,
            terms,
        ),
        (x_hat, -u_hat),
        (sd, sd_x / np.abs(w)),
    )
    return Sides(*(a + b for a, b in zip(found, single, strict=True)))
