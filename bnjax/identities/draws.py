"""P.6, P.8, P.9: the moments of a mini-batch as random variables; batches drawn for other rooms.

Small populations are exhausted: every batch that can be drawn is. From larger ones many batches
are drawn, always the same, and a mean over them must be within `LIMIT` standard errors.
"""

from functools import cache
from itertools import combinations, product
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from bnjax import norm, population
from bnjax.identities import numeric
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, recorder, sides
from bnjax.identities.quick import quick

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)

DRAWN = 3  # samples in each batch of a small population
DRAWS = 4096  # batches of a simulation
_LARGEST = 8  # samples in each of them: more would only take longer
LIMIT = 6.0  # standard errors: a normal variable is beyond them once in 5e8


class Draws(NamedTuple):
    """Batches, as indices of samples, (draws, B); or anything else that both ways have."""

    with_replacement: Any
    without: Any


@cache
def every_batch(size: int, batch: int = DRAWN) -> Draws:
    """List all batches that can be drawn from `size` samples."""
    ways = product(range(size), repeat=batch), combinations(range(size), batch)
    return Draws(*(np.array(list(way)) for way in ways))


@cache
def random_batches(size: int, batch: int) -> Draws:
    """Draw `DRAWS` batches from `size` samples, the same in every run."""
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.tile(np.arange(size), (DRAWS, 1)), axis=1)
    return Draws(rng.integers(size, size=(DRAWS, batch)), shuffled[:, :batch])


def samples(case: Case) -> np.ndarray:
    """Return a data set for `random_batches`: three times as many samples as in a batch."""
    return case.batches[:, :_LARGEST].reshape(-1, case.width + 1)


def share_left(size: int, batch: int) -> Draws:
    """Return Var[μ_k] in units of Var[x]/B: 1, and (N − B)/(N − 1) without replacement (P.8)."""
    return Draws(1.0, (size - batch) / (size - 1))


def within(simulated: Any, expected: Any, standard_error: Any) -> tuple[Any, Any, float]:
    """Return the pair that agrees where a simulation is within `LIMIT` standard errors."""
    distance = np.abs(simulated - expected) / standard_error
    return np.maximum(distance, LIMIT), np.full_like(distance, LIMIT), LIMIT


def variance_within(values: np.ndarray, expected: Any) -> tuple[Any, Any, float]:
    """Compare the variance of simulated values (draws, ...) with what it should be.

    The standard error of a variance follows from the fourth central moment: the values' own.
    """
    deviation = values - values.mean(0)
    variance = (deviation**2).mean(0)
    fourth = (deviation**4).mean(0)
    return within(variance, expected, np.sqrt((fourth - variance**2) / len(values)))


@quick()
def _averaged_variances(*drawn: Any) -> list[Array]:
    """Average the unbiased variances of each set of batches (B, N_B)."""
    found = []
    for batches in drawn:
        moments = norm.batch_norm(batches)[1]  # one batch is one channel
        found.append(population.average(jax.tree.map(lambda m: m[:, None], moments))[1][0])
    return found


@identity(
    "P.6",
    "What the unbiased variance estimates, over all mini-batches that can be drawn",
    "E[B/(B − 1) σ_k²] = Var[x] drawn with replacement,  "
    "E[B/(B − 1) σ_k²] = N/(N − 1) Var[x] drawn without replacement",
    "S3",
    scale="Var[x]",
)
def _expectation(case: Case) -> Sides:
    every = every_batch(len(case.population))
    with_replacement, without = _averaged_variances(*(case.population[way.T] for way in every))
    data = numeric.wide(case.population)
    return sides((with_replacement, data.var()), (without, data.var(ddof=1)))


@quick()
def _moments(batches: Any) -> tuple[Array, Array]:
    """Compute μ and σ² of batches (draws, B, n), each a batch of its own: (draws, n) each."""
    moments = norm.batch_norm(batches, axis=(0, 2))[1]
    return moments.mean, moments.var


class _Drawn(NamedTuple):
    """The batches' moments (draws, n), of both ways, and what they were drawn from (N, n)."""

    data: np.ndarray
    batch: int
    means: Draws
    variances: Draws


def _drawn(data: np.ndarray, draws: Draws) -> _Drawn:
    found = [_moments(data[indices]) for indices in draws]
    means, variances = (Draws(*map(numeric.wide, part)) for part in zip(*found, strict=True))
    return _Drawn(numeric.wide(data), draws.without.shape[1], means, variances)


def _exhausted(case: Case) -> _Drawn:
    data = case.population[:, None]
    return _drawn(data, every_batch(len(data)))


def _simulated(case: Case) -> _Drawn:
    data = samples(case)
    return _drawn(data, random_batches(len(data), len(data) // 3))


def variance_of_mean(data: np.ndarray, batch: int) -> Draws:
    """Compute Var[μ_k] of data (N, ...), both ways (P.8)."""
    return Draws(*(data.var(0) / batch * share for share in share_left(len(data), batch)))


def _independent(case: Case) -> Sides:
    found = _exhausted(case)
    with_replacement, _ = variance_of_mean(found.data, found.batch)
    return sides((with_replacement, found.means.without.var(0)))


@identity(
    "P.8",
    "The mean of a random mini-batch: right on average, and less scattered without replacement",
    "E[μ_k] = E[x],  Var[μ_k] = Var[x]/B drawn with replacement,  "
    "Var[μ_k] = Var[x]/B (N − B)/(N − 1) drawn without replacement",
    "S3; own derivation",
    scale="|x|, Var[x]/B; 6 standard errors of a simulation",
    refuted=_independent,
    margin=0.1,
    derivation="""
        μ_k = Σ_s x_s / B, each x_s with the mean E[x] and the variance Var[x]   (BN.2)
        ==> E[μ_k] = E[x]
        with replacement the x_s are independent
        ==> Var[μ_k] = B Var[x] / B² = Var[x]/B
        without replacement they are not, though S3 writes “IID”:
        all N deviations x − E[x] add up to zero
        ==> two different samples have the covariance −Var[x]/(N − 1)
        ==> Var[μ_k] = [B Var[x] − B (B − 1) Var[x]/(N − 1)] / B²
                     = Var[x]/B (N − B)/(N − 1)
    """,
)
def _mean(case: Case) -> Sides:
    every, some = _exhausted(case), _simulated(case)
    pairs: list[Any] = []
    variances = variance_of_mean(every.data, every.batch)
    for values, variance in zip(every.means, variances, strict=True):
        pairs += [(values.mean(0), every.data.mean(0), every.data), (values.var(0), variance)]
    variances = variance_of_mean(some.data, some.batch)
    for values, variance in zip(some.means, variances, strict=True):
        pairs += [within(values.mean(0), some.data.mean(0), np.sqrt(variance / DRAWS))]
        pairs += [variance_within(values, variance)]
    return sides(*pairs)


def mean_of_variance(data: np.ndarray, batch: int) -> Draws:
    """Compute E[σ_k²] of data (N, n), both ways (P.9)."""
    return Draws(*(data.var(0) - of_mean for of_mean in variance_of_mean(data, batch)))


def variance_of_variance(data: np.ndarray, batch: int) -> Draws:
    """Compute Var[σ_k²] of data (N, n), N > 3, both ways (P.9)."""
    N, B, second = len(data), batch, data.var(0)
    fourth = ((data - data.mean(0)) ** 4).mean(0)
    with_replacement = (fourth - (B - 3) / (B - 1) * second**2) / B
    from_fourth = (N * B - N - B - 1) * fourth
    from_second = (N**2 * (B - 3) + 6 * N - 3 * (B + 1)) / (N - 1) * second**2
    without = N * (N - B) / (B * (B - 1) * (N - 1) * (N - 2) * (N - 3))
    biased = ((B - 1) / B) ** 2
    return Draws(biased * with_replacement, biased * without * (from_fourth - from_second))


def _unbiased_as_it_is(case: Case) -> Sides:
    found = _exhausted(case)
    return sides(*((values.mean(0), found.data.var(0)) for values in found.variances))


@identity(
    "P.9",
    "The variance of a random mini-batch: too small on average, and how much it scatters",
    "E[σ_k²] = Var[x] − Var[μ_k],  E[σ_k²] = (B − 1)/B Var[x] drawn with replacement,  "
    "E[σ_k²] = (B − 1)/B N/(N − 1) Var[x] drawn without replacement,  "
    "Var[B/(B − 1) σ_k²] = (B/(B − 1))² Var[σ_k²],  "
    "Var[B/(B − 1) σ_k²] = (E[(x − E[x])⁴] − (B − 3)/(B − 1) Var[x]²)/B drawn with replacement,  "
    "Var[B/(B − 1) σ_k²] = N (N − B)/(B (B − 1) (N − 1) (N − 2) (N − 3)) "
    "[(N B − N − B − 1) E[(x − E[x])⁴] − (N² (B − 3) + 6 N − 3 (B + 1))/(N − 1) Var[x]²] "
    "drawn without replacement, N > 3",
    "S3; own derivation",
    scale="Var[x], Var[σ_k²]; 6 standard errors of a simulation",
    refuted=_unbiased_as_it_is,
    margin=0.1,
    derivation="""
        σ_k² = ⟨(x − E[x])²⟩ − (μ_k − E[x])²                                       (BN.2)
        ==> E[σ_k²] = Var[x] − Var[μ_k]
        ==> E[σ_k²] = (B − 1)/B Var[x], times N/(N − 1) without replacement        (P.8)
        B/(B − 1) σ_k² is the mean of (x_s − x_s')²/2 over all pairs s ≠ s'
        its square is the mean of all products of two such terms: a share 2/(B (B − 1)) of them
        has both samples in common, 4 (B − 2)/(B (B − 1)) one, the rest none
        with replacement they have the means (E[(x − E[x])⁴] + 3 Var[x]²)/2, half that, Var[x]²
        ==> Var[B/(B − 1) σ_k²] = (E[(x − E[x])⁴] − (B − 3)/(B − 1) Var[x]²)/B
        without replacement the means are over different samples, whose deviations add up to zero
        ==> the factor N (N − B)/(...) and what follows it; N → ∞ gives back the former
    """,
)
def _variance(case: Case) -> Sides:
    every, some = _exhausted(case), _simulated(case)
    pairs: list[Any] = []
    for values, mean, variance in _expected(every):
        pairs += [(values.mean(0), mean), (values.var(0), variance)]
    for values, mean, variance in _expected(some):
        pairs += [within(values.mean(0), mean, np.sqrt(variance / DRAWS))]
        pairs += [variance_within(values, variance)]
    return sides(*pairs)


def _expected(found: _Drawn) -> Any:
    """Return (values, mean, variance) of σ_k², for both ways."""
    data, batch = found.data, found.batch
    moments = mean_of_variance(data, batch), variance_of_variance(data, batch)
    return zip(found.variances, *moments, strict=True)
