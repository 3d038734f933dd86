"""P: statistics for inference (S3)."""

from functools import reduce
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from bnjax import folding, network, norm
from bnjax import population as statistics
from bnjax.identities import draws, flows, numeric
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, recorder, sides
from bnjax.identities.quick import quick
from bnjax.moments import Moments

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)

DECAY = 0.9  # d
_GROWTH = 3.0  # by how much x grows from one batch to the next, P.7


class InferenceStatistics(NamedTuple):
    """The batches' statistics by `population`: (mean, var) each; and the batches' own moments."""

    average: Any
    moving: Any
    pooled: Any
    each: Any


@quick()
def _inference_statistics(batches: Any) -> InferenceStatistics:
    each = jax.vmap(lambda x: norm.batch_norm(x)[1])(batches)

    def take(state: Any, moments: Any) -> tuple[Any, None]:
        return statistics.update(state, moments, decay=DECAY), None

    start = statistics.init(batches.shape[-1], batches.dtype)
    moving = statistics.statistics(jax.lax.scan(take, start, each)[0])
    return InferenceStatistics(statistics.average(each), moving, statistics.pool(each), each)


def _data(case: Case) -> np.ndarray:
    """Return the mini-batches in float64: (N_B, B, n + 1)."""
    return numeric.wide(case.batches)


@identity(
    "P.1",
    "The mean for inference: the average of the mini-batches' means",
    "μ_BN = Σ_k μ_k / N_B",
    "S3; Ioffe & Szegedy 2015",
    scale="|x|",
    implementation=("bnjax.population.average", "bnjax.population.update"),
)
def _mean(case: Case) -> Sides:
    found, data = _inference_statistics(case.batches), _data(case)
    return sides(
        (found.average[0], data.mean((0, 1)), data),
        (numeric.wide(found.each.mean).mean(0), data.mean((0, 1)), data),
    )


@quick()
def _weighted_variance(x: Any, w: Any) -> Array:
    """Return the variance for inference of a single mini-batch with sample weights."""
    start = statistics.init(x.shape[-1], x.dtype)
    return statistics.update(start, norm.batch_norm(x, where=w)[1], decay=None).var


@identity(
    "P.2",
    "The variance for inference: the average of the mini-batches' unbiased variances",
    "σ²_BN = Σ_k ν_k/(ν_k − 1) σ_k² / N_B,  ν = (Σ_s w_s)²/Σ_s w_s²",
    "S3; Ioffe & Szegedy 2015; own derivation",
    scale="σ²",
    derivation="""
        x_s drawn independently, each of variance Var[x]; Σ_s w_s² / n² = 1/ν
        ==> the variance of μ = Σ_s w_s x_s / n is Σ_s w_s² Var[x] / n² = Var[x]/ν     (D.17)
        ⟨(x − E[x])²⟩ = σ² + (μ − E[x])²                                               (P.5)
        ==> E[σ²] = Var[x] − Var[x]/ν = (ν − 1)/ν Var[x]
        ==> E[ν/(ν − 1) σ²] = Var[x]; without weights ν = B                            (P.6)
    """,
    implementation=("bnjax.population.average", "bnjax.population.update"),
)
def variance(case: Case) -> Sides:
    """Compare the library's variance for inference with the unbiased one of NumPy."""
    found = _inference_statistics(case.batches)
    unbiased = _data(case).var(1, ddof=1).mean(0)
    w = numeric.wide(case.weights)
    weighted = _weighted_variance(case.x, case.weights)
    x, n = numeric.wide(case.x), w.sum()
    deviation = x - (w * x).sum(0) / n
    return sides(
        (weighted, n * (w * deviation**2).sum(0) / (n**2 - (w**2).sum())),
        (found.average[1], unbiased),
        (case.batch / (case.batch - 1) * numeric.wide(found.each.var).mean(0), unbiased),
    )


@quick("eps")
def _normalized_with(x: Any, mean: Any, var: Any, gamma: Any, beta: Any, *, eps: float) -> Array:
    return norm.normalize(x, mean, var, gamma, beta, eps=eps)


def _made_up_statistics(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return statistics that are not the batch's own: (mean, var), (n,) each."""
    return case.bias, case.factor**2


@identity(
    "P.3",
    "With given statistics normalization is affine in x, each sample by itself",
    "y = γ (x − μ) r + β,  y = γ x r_BN + (β − γ μ_BN r_BN),  r_BN = (σ²_BN + ε)^(−1/2)",
    "S3; Ioffe & Szegedy 2015",
    scale="|γ x r| + |γ μ r| + |β|",
    implementation=("bnjax.normalize",),
)
def _inference(case: Case) -> Sides:
    mean, var = _made_up_statistics(case)
    slope = case.gamma / np.sqrt(numeric.wide(var) + case.eps)
    terms = np.abs(slope * case.x) + np.abs(slope * mean) + np.abs(case.beta)
    arrays = mean, var, case.gamma, case.beta
    y = _normalized_with(case.x, *arrays, eps=case.eps)
    # every sample but the first is moved: the first one's y must stay
    moved = np.where(np.arange(case.batch)[:, None] == 0, case.x, case.x + case.x_dot)
    alone = _normalized_with(moved, *arrays, eps=case.eps)
    return sides(
        (y, numeric.wide(case.x) * slope + (case.beta - slope * mean), terms),
        (y[0], alone[0], terms),
    )


@quick("net", "baseline")
def _logits(net: Any, baseline: Any, params: Any, state: Any, folded: Any, x: Any) -> Any:
    return (
        network.bn_apply(net, params, state, x, train=False)[0],
        network.apply(baseline, folded, x),
        network.apply(*folding.fold(net, params, state), x),
    )


@identity(
    "P.4",
    "For inference a normalized network folds into a baseline network",
    "W' = W diag(γ r_BN),  b' = β − γ μ_BN r_BN,  y = u W' + b'",
    "S3",
    scale="|y| + |b'|, |W'|, |β| + |γ μ r|",
    derivation="""
        y = γ x r_BN + (β − γ μ_BN r_BN)           (P.3)
        x_si = Σ_j u_sj W_ji                       (BN.1)
        ==> y_si = Σ_j u_sj W_ji γ_i (r_BN)_i + (β − γ μ_BN r_BN)_i
        ==> y = u W' + b' with W' = W diag(γ r_BN),  b' = β − γ μ_BN r_BN
        which is a layer of the baseline network   (BL.1)
    """,
    implementation=("bnjax.folding.fold", "bnjax.folding.fold_affine"),
)
def _folding(case: Case) -> Sides:
    mean, var = _made_up_statistics(case)
    state = tuple(
        one._replace(mean=mean, var=var, batches=one.batches + 1)
        for one in flows.initial_state(case)
    )
    baseline, folded = folding.fold(case.net, case.params, state)
    y, *of_folded = _logits(case.net, baseline, case.params, state, folded, case.u)
    size = np.abs(y) + np.abs(folded[-1].b)
    pairs: list[Any] = [(other, y, size) for other in of_folded]
    for layer, (W, gamma, beta) in zip(folded, case.params, strict=True):
        slope = gamma / np.sqrt(numeric.wide(var) + case.eps)
        pairs += [
            (layer.W, W * slope),
            (layer.b, beta - slope * mean, np.abs(beta) + np.abs(slope * mean)),
        ]
    return sides(*pairs)


@quick()
def _pools(mean: Any, var: Any, count: Any) -> Any:
    """Pool batches in order, and merge them from the last one on: (mean, var) of each."""
    empty = statistics.empty(mean.shape[1], mean.dtype)
    each = [statistics.add(empty, Moments(*one)) for one in zip(mean, var, count, strict=True)]
    merged = reduce(statistics.merge, reversed(each))
    read = statistics.statistics(statistics.to_state(merged))
    return statistics.pool(Moments(mean, var, count)), read


@identity(
    "P.5",
    "Pooled moments: the exact mean and variance of all samples together",
    "N = Σ_k n_k,  E[x] = Σ_k n_k μ_k / N,  Var[x] = Σ_k n_k [σ_k² + (μ_k − E[x])²] / N,  "
    "E[x] = μ_1 + (n_2/N) (μ_2 − μ_1) where N_B = 2,  "
    "Var[x] = σ_1² + (n_2/N) (σ_2² − σ_1²) + (n_1/N) (n_2/N) (μ_2 − μ_1)² where N_B = 2",
    "own derivation; Chan, Golub & LeVeque 1983",
    scale="|x|, x²",
    derivation="""
        the sums of x and of (x − E[x])² over all samples are those over the mini-batches
        ==> E[x] = Σ_k n_k μ_k / N                        (BN.2)
        of mini-batch k:  ⟨(x − E[x])²⟩ = ⟨(x − μ_k)²⟩ + (μ_k − E[x])², as ⟨x − μ_k⟩ = 0
        ==> Var[x] = Σ_k n_k [σ_k² + (μ_k − E[x])²] / N   (BN.2)
        two of them:  E[x] = μ_1 + (n_2/N) (μ_2 − μ_1), as n_1 = N − n_2
        μ_1 − E[x] = −(n_2/N) (μ_2 − μ_1),  μ_2 − E[x] = (n_1/N) (μ_2 − μ_1)
        ==> Var[x] = σ_1² + (n_2/N) (σ_2² − σ_1²) + (n_1/N) (n_2/N) (μ_2 − μ_1)²
    """,
    implementation=("bnjax.population.pool", "bnjax.population.merge"),
)
def _pooled(case: Case) -> Sides:
    data, found = _data(case), _inference_statistics(case.batches)
    n = data.shape[2]
    equal = numeric.wide(found.each.var).mean(0) + numeric.wide(found.each.mean).var(0)
    flat = data.reshape(-1, n)
    parts = np.split(flat, [1, case.batch + 2])  # unequal batches, one of a single sample
    means, variances = (np.array([f(part, 0) for part in parts]) for f in (np.mean, np.var))
    counts = np.array([np.full(n, len(part)) for part in parts])
    unequal = [a.astype(case.dtype) for a in (means, variances, counts)]
    mean, var, terms = flat.mean(0), flat.var(0), np.mean(flat**2, 0)
    pairs: list[Any] = [(equal, var, terms)]
    for pooled in (found.pooled, *_pools(*unequal)):
        pairs += [(pooled[0], mean, flat), (pooled[1], var, terms)]
    return sides(*pairs)


@quick()
def _running_statistics(batches: Any) -> tuple[Array, Array]:
    """Run P.7 over batches (k, B, n) in order: (mean, var), (n,) each."""
    state = statistics.init(batches.shape[2], batches.dtype)
    for x in batches:
        state = statistics.update(state, norm.batch_norm(x)[1], decay=DECAY)
    return statistics.statistics(state)


def _expected_running(case: Case, growth: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run P.7 over every pair of batches with replacement, the second one of growth · x.

    Returns:
        The batches' population (N,), and the running mean and variance of each pair.
    """
    size = len(case.population)
    pairs = draws.every_batch(size, 4).with_replacement.T.reshape(2, 2, -1)
    drawn = case.population[pairs] * np.array([1, growth], case.dtype)[:, None, None]
    mean, var = _running_statistics(drawn)
    return numeric.wide(case.population), numeric.wide(mean), numeric.wide(var)


def _prevented(case: Case) -> Sides:
    population, mean, var = _expected_running(case, _GROWTH)
    late = (_GROWTH * population).var()
    _, _, unchanged = _expected_running(case, 1.0)
    return sides(
        (var.mean(), late),  # the weights change: old batches lag behind
        ((1 - DECAY**2) * unchanged.mean(), population.var()),  # not divided by 1 − d^k
        (0 * mean.var(), mean.var()),  # it never settles, however many batches
    )


@identity(
    "P.7",
    "The running mean, divided by the sum of its weights: unbiased unless Θ changes meanwhile",
    "m_k = d m_(k−1) + (1 − d) μ_k,  m_0 = 0,  μ_BN ≈ m_k / (1 − d^k),  "
    "m_k / (1 − d^k) = Σ_k' d^(k−k') μ_k' / Σ_k' d^(k−k'),  "
    "E[m_k / (1 − d^k)] = E[x] for constant Θ,  E[m_k / (1 − d^k)] ≠ E[μ_k] where Θ changes,  "
    "Var[m_k / (1 − d^k)] = (1 − d)/(1 + d) (1 + d^k)/(1 − d^k) Var[μ_k] for constant Θ",
    "S3; own derivation",
    scale="|x|, σ²",
    refuted=_prevented,
    margin=0.1,
    derivation="""
        m_k = d m_(k−1) + (1 − d) μ_k from m_0 = 0
        ==> m_k = (1 − d) Σ_k' d^(k−k') μ_k', for k' from 1 to k
        (1 − d) Σ_k' d^(k−k') = 1 − d^k
        ==> m_k / (1 − d^k) = Σ_k' d^(k−k') μ_k' / Σ_k' d^(k−k')
        the running variance averages ν_k/(ν_k − 1) σ_k² in the same way        (P.2)
        constant Θ:  all μ_k' have the mean E[x] and one variance               (P.8)
        ==> E[m_k / (1 − d^k)] = E[x], and the running variance has that of P.6
        drawn independently:  Var[m_k] = (1 − d)² Σ_k' d^(2(k−k')) Var[μ_k]
        ==> Var[m_k / (1 − d^k)] = (1 − d)/(1 + d) (1 + d^k)/(1 − d^k) Var[μ_k]
        Θ changes:  E[μ_k'] differs from k' to k', and the mean mixes them
    """,
    implementation=("bnjax.population.update", "bnjax.population.statistics"),
)
def _running(case: Case) -> Sides:
    data, (mean, var) = _data(case), _inference_statistics(case.batches).moving
    m, v = np.zeros(data.shape[2]), np.zeros(data.shape[2])
    for x in data:
        m = DECAY * m + (1 - DECAY) * x.mean(0)
        v = DECAY * v + (1 - DECAY) * x.var(0, ddof=1)
    correction = 1 - DECAY ** len(data)
    powers = DECAY ** np.arange(len(data) - 1, -1, -1)
    weights = powers / powers.sum()
    population, constant_mean, constant_var = _expected_running(case, 1.0)
    _, changing_mean, changing_var = _expected_running(case, _GROWTH)
    lag = (DECAY + np.array([_GROWTH, _GROWTH**2])) / (1 + DECAY)
    settled = (1 - DECAY) / (1 + DECAY) * (1 + DECAY**2) / (1 - DECAY**2)
    return sides(
        (mean, m / correction, data),
        (var, v / correction),
        (weights @ data.mean(1), m / correction, data),
        (constant_mean.mean(), population.mean(), population),
        (constant_var.mean(), population.var()),
        (constant_mean.var(), settled * population.var() / 2),
        (changing_mean.mean(), lag[0] * population.mean(), _GROWTH * population),
        (changing_var.mean(), lag[1] * population.var()),
    )
