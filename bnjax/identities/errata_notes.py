"""E.6, E.7, E.13: slips in the derivations of S0–S2 (§1, §2)."""

import numpy as np

from bnjax.identities import descent, flows, layers, numeric, observed
from bnjax.identities.cases import Case, float64
from bnjax.identities.entries import Identity, Sides, paired, recorder, sides

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)


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


def _with_the_mean(case: Case) -> Sides:
    x = numeric.wide(case.x)
    x = (x - x.mean(0) + case.factor).astype(case.dtype)  # a mean that shows
    claimed = 2 / case.batch * (x - x.mean(0) + x.mean(0))
    return sides((claimed, observed.by_plain(case._replace(x=x)).var_x))


@identity(
    "E.13",
    "S0: ∂σ²/∂x_s' = (2/B) (x_s' − μ + μ)",
    "∂σ²/∂x_s' = (2/B) Σ_s (x_s − μ) (δ_ss' − 1/B),  "
    "∂σ²/∂x_s' = (2/B) (x_s' − μ − ⟨x⟩ + μ),  ∂σ²/∂x_s' = (2/B) (x_s' − μ)",
    "S0",
    scale="|x|/B",
    refuted=_with_the_mean,
    margin=1e-2,
    correction="In a middle step S0 writes x − μ + μ, which is x. S1 has x − μ − μ + μ, whose last "
    "two terms cancel (D.1).",
)
def _of_the_deviation(case: Case) -> Sides:
    x, B = numeric.wide(case.x), case.batch
    mean = x.mean(0)
    summed = 2 / B * np.einsum("si,st->ti", x - mean, np.eye(B) - 1 / B)
    step = 2 / B * (x - mean - x.sum(0) / B + mean)
    found = observed.by_plain(case).var_x, observed.by_rule(case).var_x
    return sides(*((one, other, 2 * x / B) for one in found for other in (summed, step)))
