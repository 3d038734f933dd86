"""P: statistics for inference (S3)."""

from itertools import combinations, product
from typing import Any

import jax
import numpy as np
from jax import Array

from bnjax import network, norm
from bnjax import population as statistics
from bnjax.identities import numeric, observed
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, recorder, sides
from bnjax.identities.quick import quick

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)

DECAY = 0.9  # d
_DRAWN = 3  # samples in a batch of P.6


@quick()
def _gathered(batches: Any) -> tuple[Any, Any, Any]:
    """Take the batches in, one after the other: cumulative, moving, and their moments."""
    each = jax.vmap(lambda x: norm.batch_norm(x)[1])(batches)
    start = statistics.init(batches.shape[-1], batches.dtype)

    def take(states: Any, moments: Any) -> tuple[Any, None]:
        average, moving = states
        average = statistics.update(average, moments, decay=None)
        return (average, statistics.update(moving, moments, decay=DECAY)), None

    (average, moving), _ = jax.lax.scan(take, (start, start), each)
    return statistics.statistics(average), statistics.statistics(moving), each


def _data(case: Case) -> np.ndarray:
    """Hand out the mini-batches in float64: (K, B, n + 1)."""
    return numeric.wide(case.batches)


@identity(
    "P.1",
    "the mean for inference: the mini-batches' average, for equal batches the data's own",
    "μ_BN = (1/K) Σ_B μ_B",
    "S3; Ioffe & Szegedy",
    scale="|x|",
)
def _mean(case: Case) -> Sides:
    (mean, _), _, each = _gathered(case.batches)
    data = _data(case)
    return sides(
        (mean, data.mean((0, 1)), data),
        (numeric.wide(each.mean).mean(0), data.mean((0, 1)), data),
    )


@identity(
    "P.2",
    "the variance for inference: the mini-batches' unbiased ones, averaged",
    "σ²_BN = B/(B − 1) · (1/K) Σ_B σ_B²",
    "S3; Ioffe & Szegedy",
    scale="σ²",
)
def variance(case: Case) -> Sides:
    """Hold the library's inference variance against the unbiased one of NumPy."""
    (_, var), _, each = _gathered(case.batches)
    unbiased = _data(case).var(1, ddof=1).mean(0)
    return sides(
        (var, unbiased),
        (case.batch / (case.batch - 1) * numeric.wide(each.var).mean(0), unbiased),
    )


@quick("eps")
def _normalize(x: Any, mean: Any, var: Any, gamma: Any, beta: Any, *, eps: float) -> Array:
    return norm.normalize(x, mean, var, gamma, beta, eps=eps)


def _statistics(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Make up statistics gathered elsewhere: (mean, var), (n,) each."""
    return case.bias, case.factor**2


@identity(
    "P.3",
    "inference is affine, sample by sample: no batch",
    "y = γ x r_BN + (β − γ μ_BN r_BN)",
    "S3; Ioffe & Szegedy",
    scale="|γ x r| + |γ μ r| + |β|",
)
def _inference(case: Case) -> Sides:
    mean, var = _statistics(case)
    slope = case.gamma / np.sqrt(numeric.wide(var) + case.eps)
    terms = np.abs(slope * case.x) + np.abs(slope * mean) + np.abs(case.beta)
    arrays = mean, var, case.gamma, case.beta
    y = _normalize(case.x, *arrays, eps=case.eps)
    # every other sample moved: what remains is what it was
    moved = np.where(np.arange(case.batch)[:, None] == 0, case.x, case.x + case.x_dot)
    alone = _normalize(moved, *arrays, eps=case.eps)
    return sides(
        (y, numeric.wide(case.x) * slope + (case.beta - slope * mean), terms),
        (y[0], alone[0], terms),
    )


@quick("net", "baseline")
def _logits(net: Any, baseline: Any, params: Any, state: Any, folded: Any, x: Any) -> Any:
    return (
        network.bn_apply(net, params, state, x, train=False)[0],
        network.apply(baseline, folded, x),
    )


@identity(
    "P.4",
    "a normalized network, for inference, is a baseline network",
    "W' = W diag(γ r_BN),  b' = β − γ μ_BN r_BN",
    "S3",
    scale="|y| + |b'|",
)
def _folding(case: Case) -> Sides:
    mean, var = _statistics(case)
    state = tuple(one._replace(mean=mean, var=var) for one in observed.states(case))
    folded = []
    for W, gamma, beta in case.params:
        slope = gamma / np.sqrt(numeric.wide(var) + case.eps)
        W, b = W * slope, beta - slope * mean
        folded.append(network.Dense(W.astype(case.dtype), b.astype(case.dtype)))
    arrays = case.params, state, tuple(folded), case.u
    y, y_folded = _logits(case.net, case.baseline, *arrays)
    return sides((y, y_folded, np.abs(y) + np.abs(folded[-1].b)))


@identity(
    "P.5",
    "pooled instead of averaged: the data's own variance, exactly",
    "Var[x] = ⟨σ_B²⟩ + Var_B[μ_B], weighted by count",
    "ours",
    scale="x²",
)
def _pooled(case: Case) -> Sides:
    data, each = _data(case), _gathered(case.batches)[2]
    n = data.shape[2]
    pooled = numeric.wide(each.var).mean(0) + numeric.wide(each.mean).var(0)
    flat = data.reshape(-1, n)
    parts = np.split(flat, [1, case.batch + 2])  # unequal batches
    weight = np.array([len(part) for part in parts])[:, None] / len(flat)
    mean, var = (np.array([f(part, 0) for part in parts]) for f in (np.mean, np.var))
    unequal = (weight * var).sum(0) + (weight * (mean - (weight * mean).sum(0)) ** 2).sum(0)
    terms = np.mean(flat**2, 0)
    return sides((pooled, flat.var(0), terms), (unequal, flat.var(0), terms))


@quick()
def _variances(batches: Any) -> Array:
    """Measure σ_B² of each column."""
    return norm.batch_norm(batches)[1].var


@identity(
    "P.6",
    "what the unbiased variance estimates: counted over every batch that can be drawn",
    "E[B/(B − 1) σ_B²] = Var (÷ N) with replacement;  ÷ (N − 1) without",
    "S3",
    scale="Var",
)
def _expectation(case: Case) -> Sides:
    population = case.population
    with_replacement = list(product(range(len(population)), repeat=_DRAWN))
    without = list(combinations(range(len(population)), _DRAWN))
    batches = population[np.array(with_replacement + without).T]
    unbiased = _DRAWN / (_DRAWN - 1) * numeric.wide(_variances(batches))
    wide = numeric.wide(population)
    return sides(
        (unbiased[: len(with_replacement)].mean(), wide.var()),
        (unbiased[len(with_replacement) :].mean(), wide.var(ddof=1)),
    )


@identity(
    "P.7",
    "the running estimate: weights that add up to one from the first batch on",
    "m_k = d m_(k−1) + (1 − d) μ_k, m_0 = 0, read as m_k / (1 − d^k)",
    "S3; ours",
    scale="|x|, σ²",
)
def _running(case: Case) -> Sides:
    data, (_, (mean, var), _) = _data(case), _gathered(case.batches)
    m, v = np.zeros(data.shape[2]), np.zeros(data.shape[2])
    for x in data:
        m = DECAY * m + (1 - DECAY) * x.mean(0)
        v = DECAY * v + (1 - DECAY) * x.var(0, ddof=1)
    correction = 1 - DECAY ** len(data)
    powers = DECAY ** np.arange(len(data) - 1, -1, -1)
    weights = powers / powers.sum()
    return sides(
        (mean, m / correction, data),
        (var, v / correction),
        (weights @ data.mean(1), m / correction, data),
    )
