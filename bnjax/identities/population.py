"""P: statistics for inference (S3)."""

from functools import reduce
from itertools import combinations, product
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from bnjax import folding, network, norm
from bnjax import population as statistics
from bnjax.identities import numeric, observed
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, recorder, sides
from bnjax.identities.quick import quick
from bnjax.moments import Moments

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)

DECAY = 0.9  # d
_DRAWN = 3  # samples in a batch of P.6


class Gathered(NamedTuple):
    """What `population` makes of the batches: (mean, var) each, and their moments."""

    average: Any
    moving: Any
    pooled: Any
    each: Any


@quick()
def _gathered(batches: Any) -> Gathered:
    each = jax.vmap(lambda x: norm.batch_norm(x)[1])(batches)

    def take(state: Any, moments: Any) -> tuple[Any, None]:
        return statistics.update(state, moments, decay=DECAY), None

    start = statistics.init(batches.shape[-1], batches.dtype)
    moving = statistics.statistics(jax.lax.scan(take, start, each)[0])
    return Gathered(statistics.average(each), moving, statistics.pool(each), each)


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
    found, data = _gathered(case.batches), _data(case)
    return sides(
        (found.average[0], data.mean((0, 1)), data),
        (numeric.wide(found.each.mean).mean(0), data.mean((0, 1)), data),
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
    found = _gathered(case.batches)
    unbiased = _data(case).var(1, ddof=1).mean(0)
    return sides(
        (found.average[1], unbiased),
        (case.batch / (case.batch - 1) * numeric.wide(found.each.var).mean(0), unbiased),
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
        network.apply(*folding.fold(net, params, state), x),
    )


@identity(
    "P.4",
    "a normalized network, for inference, is a baseline network",
    "W' = W diag(γ r_BN),  b' = β − γ μ_BN r_BN",
    "S3",
    scale="|y| + |b'|, |W'|, |β| + |γ μ r|",
)
def _folding(case: Case) -> Sides:
    mean, var = _statistics(case)
    state = tuple(
        one._replace(mean=mean, var=var, batches=one.batches + 1) for one in observed.states(case)
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
    "pooled instead of averaged: the data's own variance, exactly",
    "Var[x] = ⟨σ_B²⟩ + Var_B[μ_B], weighted by count",
    "ours",
    scale="|x|, x²",
)
def _pooled(case: Case) -> Sides:
    data, found = _data(case), _gathered(case.batches)
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
def _averages(*drawn: Any) -> list[Array]:
    """Average the unbiased variances of each set of batches (B, K)."""
    found = []
    for batches in drawn:
        moments = norm.batch_norm(batches)[1]  # one batch is one channel
        found.append(statistics.average(jax.tree.map(lambda m: m[:, None], moments))[1][0])
    return found


@identity(
    "P.6",
    "what the unbiased variance estimates: counted over every batch that can be drawn",
    "E[B/(B − 1) σ_B²] = Var (÷ N) with replacement;  ÷ (N − 1) without",
    "S3",
    scale="Var",
)
def _expectation(case: Case) -> Sides:
    population = case.population
    every = range(len(population))
    ways = product(every, repeat=_DRAWN), combinations(every, _DRAWN)
    with_replacement, without = _averages(*(population[np.array(list(way)).T] for way in ways))
    wide = numeric.wide(population)
    return sides((with_replacement, wide.var()), (without, wide.var(ddof=1)))


@identity(
    "P.7",
    "the running estimate: weights that add up to one from the first batch on",
    "m_k = d m_(k−1) + (1 − d) μ_k, m_0 = 0, read as m_k / (1 − d^k)",
    "S3; ours",
    scale="|x|, σ²",
)
def _running(case: Case) -> Sides:
    data, (mean, var) = _data(case), _gathered(case.batches).moving
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
