"""How far a result may be off, and the row that says how far it is.

An error is measured in units of eps · (the largest number of the leaf or, where they are larger,
the terms that cancelled on the way to this one). A few roundings more or less than the reference
makes are no error, whatever the dtype: one tolerance serves float16 to float64.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bnjax.audit.diagnosis import diagnose
from bnjax.audit.programs import Name
from bnjax.audit.report import Row


class Sides(NamedTuple):
    """One leaf of one mode: what a rule gave and what it is held to, (trials, *shape).

    Attributes:
        got: The rule's numbers, in their dtype.
        wanted: The reference's.
        terms: The size of the terms that cancelled.
        slack: How far the reference may be off.
        size: The largest wanted number of the whole leaf.
    """

    got: np.ndarray
    wanted: np.ndarray
    terms: np.ndarray
    slack: np.ndarray
    size: float


class Measure(NamedTuple):
    """What a result is measured with: the epsilon, how many of them agree, and the dtype due."""

    eps: float
    tolerance: float
    dtype: Any = None


def judge(name: Name, leaf: str, sides: Sides, measure: Measure) -> Row:
    """Judge one leaf of one mode under one transform."""
    due = None if measure.dtype is None else np.dtype(measure.dtype)
    got, wanted = (np.asarray(a, np.float64) for a in (sides.got, sides.wanted))
    scale = np.maximum(sides.terms, sides.size)
    with np.errstate(all="ignore"):
        error = np.abs(got - wanted)
        unknown = np.isinf(sides.slack)
        kept = (got == wanted) | (np.isnan(got) & np.isnan(wanted)) | unknown
        kept |= np.isinf(got) & (np.abs(wanted) > _largest(sides.got.dtype)) & (got * wanted > 0)
        beyond = np.maximum(error - sides.slack, 0)
        small = beyond <= measure.tolerance * _least(sides.got.dtype) * np.maximum(1, scale)
        scaled = np.where(kept | small, 0, beyond / (measure.eps * scale))
    scaled = np.where(np.isnan(scaled), np.inf, scaled)
    row = Row(*name, leaf, str(sides.got.dtype), cosine=_cosine(got, wanted, ~unknown))
    if not got.size:
        return row
    worst = np.unravel_index(int(np.argmax(scaled)), scaled.shape)
    if not scaled[worst] and np.any(np.isfinite(error)):
        # agreed to the last place: the largest difference is still of interest
        worst = np.unravel_index(int(np.nanargmax(np.where(kept, 0, error))), error.shape)
    finite = np.where(unknown | (kept & ~np.isfinite(error)), 0, error)
    row = row._replace(
        absolute=float(np.max(np.where(np.isnan(finite), np.inf, finite))),
        scaled=float(np.max(scaled)),
        relative=_relative(finite, wanted),
        at=tuple(int(i) for i in worst[1:]),
        got=float(got[worst]),
        wanted=float(wanted[worst]),
    )
    if due is not None and sides.got.dtype != due:
        return row._replace(verdict="disagrees", why=f"wrong dtype: {sides.got.dtype}, not {due}")
    if np.all(unknown):
        return row._replace(verdict="not judged", why="the slopes from both sides differ here")
    if row.scaled <= measure.tolerance:
        return row
    noise = measure.eps * scale + np.where(unknown, 0, sides.slack)
    why = diagnose(np.where(unknown, wanted, got), wanted, noise)
    return row._replace(verdict="disagrees", why=why)


def transposed(pushed: list[Any], v: list[Any], pulled: list[Any], u: list[Any]) -> Sides:
    """Hold ⟨Jᵀv, u⟩ to ⟨v, J u⟩; J u and Jᵀv come as (numbers, terms) for each leaf."""
    ours, terms = _pairing(pulled, u)
    theirs, more = _pairing(pushed, v)
    size = float(np.max(np.where(np.isfinite(terms + more), terms + more, 0), initial=0))
    return Sides(ours, theirs, terms + more, np.zeros_like(ours), size)


def _pairing(sides: list[Any], weights: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    total, terms = 0.0, 0.0
    for (numbers, of), weight in zip(sides, weights, strict=True):
        axes = tuple(range(1, numbers.ndim))
        wide, weight = np.asarray(numbers, np.float64), np.asarray(weight, np.float64)
        total = total + np.sum(np.where(weight == 0, 0, weight * wide), axis=axes)
        terms = terms + np.sum(np.abs(weight) * np.maximum(np.abs(wide), of), axis=axes)
    return np.asarray(total), np.asarray(terms)


def _largest(dtype: Any) -> float:
    return float(jnp.finfo(dtype).max) if jnp.issubdtype(dtype, jnp.floating) else math.inf


def _least(dtype: Any) -> float:
    """Tell what underflows: XLA may flush what is subnormal, float16 is computed wider."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return 0.0
    of = jnp.finfo(dtype)
    return float(of.smallest_subnormal if dtype == jnp.float16 else of.tiny)


def _relative(error: np.ndarray, wanted: np.ndarray) -> float:
    size = np.linalg.norm(np.where(np.isfinite(wanted), wanted, 0))
    return float(np.linalg.norm(error) / (size or 1.0))


def _cosine(a: np.ndarray, b: np.ndarray, known: np.ndarray) -> float:
    known = known & np.isfinite(a) & np.isfinite(b)
    a, b = np.where(known, a, 0), np.where(known, b, 0)
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.vdot(a, b) / lengths) if lengths > 0 else math.nan
