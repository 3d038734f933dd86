"""D.18: the pull-back of a large batch, micro-batch by micro-batch."""

from typing import Any

import numpy as np

from bnjax.identities import flows, layers, numeric, observed
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, paired, recorder, sides
from bnjax.identities.quick import quick
from bnjax.training.accumulation import exact_gradient

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)


@quick("net")
def _accumulated(net: Any, params: Any, inputs: Any, targets: Any) -> Any:
    """Compute the cost, the moments and the gradient from micro-batches of one sample each."""
    return exact_gradient(net, params, inputs[:, None], targets[:, None], None, 1)


def _part_moments(x: np.ndarray, w: np.ndarray) -> tuple[Any, ...]:
    """Compute n, μ and σ² of a part; all 0 without weight."""
    n = w.sum()
    p = w / n if n else w
    mean = (p * x).sum(0)
    return n, mean, (p * (x - mean) ** 2).sum(0)


def _by_parts(case: Case) -> np.ndarray:
    """Compute x̄ with weights from two parts of the batch: P.5, D.18."""
    arrays = (numeric.wide(a) for a in (case.x, case.y_bar, case.weights))
    parts = list(zip(*(np.split(a, [1]) for a in arrays), strict=True))
    counts, means, variances = zip(*(_part_moments(x, w) for x, _, w in parts), strict=True)
    p = (np.array(counts) / sum(counts))[:, None]
    mean = (p * means).sum(0)
    var = (p * (variances + (means - mean) ** 2)).sum(0)
    r, gamma = (var + case.eps) ** -0.5, numeric.wide(case.gamma)
    parts = [(x, np.where(w > 0, y_bar, 0), w) for x, y_bar, w in parts]
    mean_bar = -gamma * r * sum(t.sum(0) for _, t, _ in parts)
    var_bar = -gamma * r**3 / 2 * sum((t * (x - mean)).sum(0) for x, t, _ in parts)
    pulled = [
        gamma * r * t + w / sum(counts) * (mean_bar + 2 * var_bar * (x - mean)) for x, t, w in parts
    ]
    return np.concatenate(pulled)


@identity(
    "D.18",
    "The pull-back of a large batch from its micro-batches: they share n, μ, σ², μ̄ and σ̄² alone",
    "μ̄ = −γ r Σ_s ȳ⁺_s,  σ̄² = −½ γ r³ Σ_s ȳ⁺_s (x_s − μ),  x̄ = γ r ȳ⁺ + (w/n) [μ̄ + 2 σ̄² (x − μ)]",
    "own derivation",
    scale="|γ r ȳ|, |u|ᵀ |γ r Δ|",
    derivation="""
        y = γ (x − μ) r + β where w > 0, a function of x, μ and σ²                 (BN.2, BN.3)
        ∂y_s/∂x_s = γ r,  ∂y_s/∂μ = −γ r,  ∂r/∂σ² = −½ r³
        ==> μ̄ = −γ r Σ_s ȳ⁺_s,  σ̄² = −½ γ r³ Σ_s ȳ⁺_s (x_s − μ)
        μ and σ² are functions of x                                                (D.7)
        ==> x̄ = γ r ȳ⁺ + (w/n) [μ̄ + 2 σ̄² (x − μ)], the same as in D.17
        n, μ and σ² follow from those of the mini-batches                          (P.5)
        μ̄ and σ̄² are sums over them, too
        ==> with all five, a mini-batch computes its part of y and of x̄ by itself
        in a chain, μ and σ² of layer l need those of the layers below, over all mini-batches,
        and μ̄ and σ̄² of layer l those of the layers above
        ==> L of each:  L + 1 sweeps over the mini-batches forward, L + 1 back
    """,
    implementation=(
        "bnjax.accumulation.accumulate_gradient",
        "bnjax.training.make_accumulating_step",
    ),
)
def _large_batch(case: Case) -> Sides:
    r = numeric.normalized_layer(case.x, case.eps).r
    weighted = observed.by_rule(case, where=case.weights).x_bar
    terms = layers.normalized_terms(case)[1]
    flow, library = flows.by_flow(case), flows.by_library_flow(case)[1]
    (cost, _), grads = _accumulated(case.net, case.params, case.u, case.targets)
    return sides(
        (weighted, _by_parts(case), np.abs(case.gamma * r * case.y_bar)),
        (cost, flow.cost),
        *(
            pair
            for other in (flow.grads, library)
            for pair in paired([one.W for one in grads], [one.W for one in other], terms)
        ),
    )
