"""How far off a result may be, and the row that says how far off it is.

An error is measured in units of eps times the largest number of the leaf or, where they are larger,
the terms that cancelled on the way to this number. A few rounding errors more or fewer than the
reference makes are accepted, in any dtype: one tolerance serves float16 to float64.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bnjax.audit.criteria import Criterion, describe_coarse
from bnjax.audit.diagnosis import diagnose
from bnjax.audit.report import Row
from bnjax.audit.transforms import ProgramName

NO_DERIVATIVE = "the one-sided derivatives differ here"


class LeafComparison(NamedTuple):
    """One leaf of one mode: the rule's numbers and the reference's, (trials, *shape).

    Attributes:
        got: The rule's numbers, in their dtype.
        wanted: The reference's.
        terms: The size of the terms that cancelled.
        slack: How far off the reference may be.
        size: The largest of the reference's numbers in the whole leaf.
    """

    got: np.ndarray
    wanted: np.ndarray
    terms: np.ndarray
    slack: np.ndarray
    size: float


def judge_leaf(name: ProgramName, leaf: str, compared: LeafComparison, criterion: Criterion) -> Row:
    """Return the row of one leaf of one mode under one transform."""
    dtype, tolerance = compared.got.dtype, criterion.tolerance
    got, wanted = (np.asarray(a, np.float64) for a in (compared.got, compared.wanted))
    scale = np.maximum(compared.terms, compared.size)
    with np.errstate(all="ignore"):
        error = np.abs(got - wanted)
        unknown = np.isinf(compared.slack)
        accepted = (got == wanted) | (np.isnan(got) & np.isnan(wanted)) | unknown
        accepted |= np.isinf(got) & (np.abs(wanted) > _largest_finite(dtype)) & (got * wanted > 0)
        excess = np.maximum(error - compared.slack, 0)
        underflow = excess <= tolerance * _underflow_threshold(dtype) * np.maximum(1, scale)
        scaled = np.where(accepted | underflow, 0, excess / (criterion.eps * scale))
    scaled = np.where(np.isnan(scaled), np.inf, scaled)
    row = Row(*name, leaf, str(dtype), cosine=_cosine(got, wanted, ~unknown))
    if not got.size:
        return row
    worst = np.unravel_index(int(np.argmax(scaled)), scaled.shape)
    if not scaled[worst] and np.any(np.isfinite(error)):
        # nothing exceeds the slack: report the largest difference all the same
        worst = np.unravel_index(int(np.nanargmax(np.where(accepted, 0, error))), error.shape)
    finite = np.where(unknown | (accepted & ~np.isfinite(error)), 0, error)
    row = row._replace(
        absolute=float(np.max(np.where(np.isnan(finite), np.inf, finite))),
        scaled=float(np.max(scaled)),
        relative=_relative(finite, wanted),
        at=tuple(int(i) for i in worst[1:]),
        got=float(got[worst]),
        wanted=float(wanted[worst]),
    )
    noise = criterion.eps * scale + np.where(unknown, 0, compared.slack)
    verdict, why = _leaf_verdict(row, compared, criterion, noise)
    return row._replace(verdict=verdict, why=why)


def _leaf_verdict(
    row: Row, compared: LeafComparison, criterion: Criterion, noise: np.ndarray
) -> tuple[str, str]:
    """Return the verdict and the reason for it, given the errors in `row`."""
    dtype = compared.got.dtype
    required = None if criterion.dtype is None else np.dtype(criterion.dtype)
    if required is not None and dtype != required:
        return "disagrees", f"wrong dtype: {dtype}, not {required}"
    unknown = np.isinf(compared.slack)
    if np.all(unknown):
        return "not judged", NO_DERIVATIVE
    if row.scaled <= criterion.tolerance:
        return "agrees", ""
    if criterion.is_coarse(row.scaled):
        return "coarse", describe_coarse(row.mode, criterion)
    got, wanted = (np.asarray(a, np.float64) for a in (compared.got, compared.wanted))
    return "disagrees", diagnose(np.where(unknown, wanted, got), wanted, noise)


def compare_transposes(
    pushed: list[Any], v: list[Any], pulled: list[Any], u: list[Any]
) -> LeafComparison:
    """Compare ⟨Jᵀv, u⟩ with ⟨v, J u⟩.

    Args:
        pushed: J u, as (numbers, size of the terms that cancelled) for each floating output.
        v: The cotangents.
        pulled: Jᵀv, in the same way for each argument leaf.
        u: The tangents.
    """
    got, terms = _inner_product(pulled, u)
    wanted, more = _inner_product(pushed, v)
    size = float(np.max(np.where(np.isfinite(terms + more), terms + more, 0), initial=0))
    return LeafComparison(got, wanted, terms + more, np.zeros_like(got), size)


def _inner_product(sides: list[Any], weights: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    total, terms = 0.0, 0.0
    for (numbers, of), weight in zip(sides, weights, strict=True):
        axes = tuple(range(1, numbers.ndim))
        wide, weight = np.asarray(numbers, np.float64), np.asarray(weight, np.float64)
        with np.errstate(all="ignore"):  # what is wrong may be infinite
            total = total + np.sum(np.where(weight == 0, 0, weight * wide), axis=axes)
            terms = terms + np.sum(np.abs(weight) * np.maximum(np.abs(wide), of), axis=axes)
    return np.asarray(total), np.asarray(terms)


def _largest_finite(dtype: Any) -> float:
    return float(jnp.finfo(dtype).max) if jnp.issubdtype(dtype, jnp.floating) else math.inf


def _underflow_threshold(dtype: Any) -> float:
    """Return the size below which numbers may be lost.

    XLA may flush subnormal numbers to zero, but computes float16 in a wider dtype.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        return 0.0
    limits = jnp.finfo(dtype)
    return float(limits.smallest_subnormal if dtype == jnp.float16 else limits.tiny)


def _relative(error: np.ndarray, wanted: np.ndarray) -> float:
    size = np.linalg.norm(np.where(np.isfinite(wanted), wanted, 0))
    return float(np.linalg.norm(error) / (size or 1.0))


def _cosine(a: np.ndarray, b: np.ndarray, known: np.ndarray) -> float:
    known = known & np.isfinite(a) & np.isfinite(b)
    a, b = np.where(known, a, 0), np.where(known, b, 0)
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.vdot(a, b) / lengths) if lengths > 0 else math.nan
