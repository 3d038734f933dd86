"""BL.1–BL.5: the baseline network, its cost and its gradients (S0/S1 §1)."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from bnjax import costs, network
from bnjax.identities import flows, numeric
from bnjax.identities.cases import Case, float64, mixed
from bnjax.identities.entries import Identity, Sides, paired, recorder, sides
from bnjax.identities.quick import quick

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)


def baseline_forward(params: Any, u: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Run the baseline in NumPy: (u, y) of every layer."""
    layers, u = [], numeric.wide(u)
    for W, b in float64(params):
        y = np.einsum("sj,ji->si", u, W) + b
        layers.append((u, y))
        u = mixed(y)
    return layers


def baseline_terms(case: Case, flow: flows.Flow) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Bound the terms of the baseline's Δ and ∂C/∂W."""
    error = 1.0 / case.batch + np.zeros_like(case.targets)
    return numeric.magnitudes(
        flow.u, flow.x, flow.g_prime, case.baseline_params, error, case.eps, norm=False
    )


@identity(
    "BL.1",
    "A layer is affine, then activated; the last activation is the prediction",
    "y = u W + b,  u_next = g(y)",
    "S0/S1 §1",
    scale="|y| + |b|",
    implementation=("bnjax.network.apply", "bnjax.activations.get"),
)
def _forward(case: Case) -> Sides:
    logits = _baseline_logits(case.baseline, case.baseline_params, case.u)
    y, b = baseline_forward(case.baseline_params, case.u)[-1][1], case.baseline_params[-1].b
    return sides((logits, y, np.abs(y) + np.abs(b)))


_baseline_logits = quick("net")(network.apply)


class _Costs(NamedTuple):
    cost: list[Array]
    weighted: list[Array]
    error: list[Array]
    weighted_error: list[Array]
    weighted_grad: list[Array]


@quick()
def _costs(y: Any, targets: Any, where: Any) -> _Costs:
    def cost(name: str, where: Any, y: Array) -> Array:
        return costs.mean(costs.get(name).per_sample(y, targets), where)

    each = list(costs.COSTS)
    weighted = [jax.value_and_grad(partial(cost, name, where))(y) for name in each]
    return _Costs(
        [cost(name, None, y) for name in each],
        [value for value, _ in weighted],
        [costs.output_error(name, y, targets) for name in each],
        [costs.output_error(name, y, targets, where) for name in each],
        [grad for _, grad in weighted],
    )


def _predictions(y: Any) -> dict[str, np.ndarray]:
    y = numeric.wide(y)
    return {
        "sigmoid_cross_entropy": numeric.sigmoid(y),
        "softmax_cross_entropy": np.exp(y) / np.exp(y).sum(1, keepdims=True),
        "squared_error": y,
    }


def _distributions(case: Case) -> np.ndarray:
    return case.targets / case.targets.sum(1, keepdims=True)  # softmax needs Σ_i φ_si = 1


@identity(
    "BL.2",
    "The cost is the weighted mean over the samples of a sum over the outputs",
    "C = Σ_s w_s C_s / Σ_s w_s,  "
    "C_s = −Σ_i [φ_si log uᴸ_si + (1 − φ_si) log(1 − uᴸ_si)] for sigmoid cross entropy,  "
    "C_s = −Σ_i φ_si log uᴸ_si for softmax cross entropy,  "
    "C_s = ½ Σ_i (uᴸ_si − φ_si)² for squared error",
    "S0/S1 §1",
    scale="C",
    implementation=("bnjax.costs.mean", "bnjax.costs.get"),
)
def _cost(case: Case) -> Sides:
    phi = numeric.wide(_distributions(case))
    per_sample = {
        "sigmoid_cross_entropy": lambda u: -(phi * np.log(u) + (1 - phi) * np.log(1 - u)).sum(1),
        "softmax_cross_entropy": lambda u: -(phi * np.log(u)).sum(1),
        "squared_error": lambda u: ((u - phi) ** 2).sum(1) / 2,
    }
    u = _predictions(case.x)
    each = [per_sample[name](u[name]) for name in costs.COSTS]
    w = numeric.wide(case.weights[:, 0])
    found = _costs(case.x, _distributions(case), case.weights[:, 0])
    return sides(
        *zip(found.cost, [c.mean() for c in each], strict=True),
        *zip(found.weighted, [(w * c).sum() / w.sum() for c in each], strict=True),
    )


@identity(
    "BL.3",
    "The output error is prediction minus label, for each cost with its own link",
    "Δᴸ = ∂C/∂uᴸ ⊙ g'(yᴸ) where g acts neuron by neuron,  Δᴸ = w (uᴸ − φ) / Σ_s w_s",
    "S0/S1 §1",
    scale="(|u| + |φ|)/B",
    derivation="""
        u = g(y) with the sigmoid g,  ∂C_s/∂u = −φ/u + (1 − φ)/(1 − u)   (BL.1, BL.2)
        g'(y) = u (1 − u)                                                (BL.9)
        ==> ∂C_s/∂y = −φ (1 − u) + (1 − φ) u = u − φ
        u = softmax of y:  ∂ log u_i/∂y_i' = δ_ii' − u_i',  Σ_i φ_i = 1
        ==> ∂C_s/∂y_i' = −Σ_i φ_i (δ_ii' − u_i') = u_i' − φ_i'           (BL.2)
        u = y and C_s = ½ Σ_i (u_i − φ_i)²
        ==> ∂C_s/∂y = u − φ                                              (BL.2)
        C = Σ_s w_s C_s / Σ_s w_s                                        (BL.2)
        ==> Δᴸ = w (uᴸ − φ) / Σ_s w_s
    """,
    implementation=("bnjax.costs.output_error",),
)
def _output_error(case: Case) -> Sides:
    phi = numeric.wide(_distributions(case))
    u = _predictions(case.x)
    found = _costs(case.x, _distributions(case), case.weights[:, 0])
    w = numeric.wide(case.weights)
    plain = [(u[name] - phi) / case.batch for name in costs.COSTS]
    weighted = [(u[name] - phi) * w / w.sum() for name in costs.COSTS]
    terms = [(np.abs(u[name]) + phi) / case.batch for name in costs.COSTS]
    a = u["sigmoid_cross_entropy"]
    chain = -(phi / a - (1 - phi) / (1 - a)) / case.batch * (a * (1 - a))
    return sides(
        *paired(found.error, plain, terms),
        *paired(found.weighted_error, weighted, terms),
        *paired(found.weighted_grad, weighted, terms),
        (chain, plain[0], terms[0]),
    )


@identity(
    "BL.4",
    "The error recursion of the baseline network",
    "Δˡ = (Δˡ⁺¹ Wᵀ) ⊙ g'(yˡ), W of layer l+1",
    "S0/S1 §1",
    scale="|g'| |Δᴸ| |W|ᵀ ...",
    derivation="""
        y = u W + b in layer l+1, with u = g(yˡ)   (BL.1)
        ==> ∂C/∂u = Δˡ⁺¹ Wᵀ
        ==> Δˡ = ∂C/∂yˡ = (Δˡ⁺¹ Wᵀ) ⊙ g'(yˡ)       (D.14)
    """,
    implementation=("bnjax.backprop.value_and_grad", "bnjax.backprop.intermediates"),
)
def _recursion(case: Case) -> Sides:
    flow = flows.by_baseline_flow(case)
    above = zip(flow.delta[1:], case.baseline_params[1:], flow.g_prime[:-1], strict=True)
    formula = [numeric.wide(delta) @ layer.W.T * g_prime for delta, layer, g_prime in above]
    terms = baseline_terms(case, flow)[0]
    by_hand = [layer.delta for layer in flows.by_hand_baseline(case)[2]]
    return sides(
        *paired(flow.delta[:-1], formula, terms[:-1]),
        *paired(by_hand, flow.delta, terms),
    )


@identity(
    "BL.5",
    "The gradients of the baseline network",
    "∂C/∂W = uᵀ Δ,  ∂C/∂b = Σ_s Δ_s",
    "S0/S1 §1",
    scale="|u|ᵀ |Δ|",
    derivation="""
        ∂y_si/∂W_ji = u_sj,  ∂y_si/∂b_i = 1   (BL.1)
        ==> ∂C/∂W_ji = Σ_s u_sj Δ_si,  ∂C/∂b_i = Σ_s Δ_si
    """,
    implementation=("bnjax.backprop.value_and_grad",),
)
def _gradients(case: Case) -> Sides:
    flow = flows.by_baseline_flow(case)
    deltas, terms = baseline_terms(case, flow)
    W = [
        numeric.wide(u).T @ numeric.wide(delta) for u, delta in zip(flow.u, flow.delta, strict=True)
    ]
    b = [numeric.wide(delta).sum(0) for delta in flow.delta]
    pairs = []
    by_rule, by_hand = flows.by_baseline_library(case)[1], flows.by_hand_baseline(case)[1]
    for grads in (flow.grads, by_rule, by_hand):
        pairs += paired([layer.W for layer in grads], W, terms)
        pairs += paired([layer.b for layer in grads], b, [case.batch * d for d in deltas])
    return sides(*pairs)
