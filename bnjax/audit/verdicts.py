"""From results to rows: which number is compared with which, and what an error means."""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bnjax.audit.arguments import ArgumentLayout, OutputLayout
from bnjax.audit.criteria import (
    Criteria,
    Criterion,
    choose_criteria,
    describe_coarse,
    describe_epsilon,
)
from bnjax.audit.derivatives import MODES
from bnjax.audit.differences import FiniteDifferences
from bnjax.audit.judge import (
    NO_DERIVATIVE,
    LeafComparison,
    compare_transposes,
    judge_leaf,
)
from bnjax.audit.precision import dtype_epsilon
from bnjax.audit.programs import ProgramResults
from bnjax.audit.reference import ReferenceValues
from bnjax.audit.report import Row
from bnjax.audit.richardson import taylor_order
from bnjax.audit.transforms import ProgramName, trial_indices
from bnjax.audit.trials import Trials

_ORDER = (*MODES, "taylor")
_FLOAT64_EPSILON = float(np.finfo(np.float64).eps)


class Evaluations(NamedTuple):
    """Everything that was computed for one comparison.

    Attributes:
        layout: The layout of the arguments.
        outputs: The layout of what f returns.
        names: The modes and transforms that were run.
        trials: The trials, in the arguments' dtypes.
        reference: The reference.
        own: f in the arguments' dtypes.
        wide: f in float64, where that differs.
        differences: The finite differences, where there is no reference.
        value_eps: The epsilon with which the value of f agrees, however coarse f is inside.
    """

    layout: ArgumentLayout
    outputs: OutputLayout
    names: tuple[ProgramName, ...]
    trials: Trials
    reference: ReferenceValues
    own: ProgramResults
    wide: ProgramResults | None
    differences: FiniteDifferences | None
    value_eps: float = 0.0

    @property
    def float64_refusal(self) -> str:
        """What f raised in float64, if it runs in its own dtype only; else ""."""
        if self.wide is None or self.wide.results:
            return ""
        errors = self.wide.errors.items()
        raised = [error for name, error in errors if name not in self.own.errors]
        return _summarize(raised[0]) if raised else ""

    @property
    def projected(self) -> bool:
        """Whether only ⟨Jᵀv, u⟩ is known of the vjp, leaf by leaf."""
        return self.differences is not None and self.differences.projected


def judge_all(
    found: Evaluations, modes: tuple[str, ...], tolerance: float, allow_coarse: bool
) -> tuple[list[Row], list[str]]:
    """Judge all results; return the rows, and notes about what could not be done.

    Args:
        found: What was computed.
        modes: The modes to judge.
        tolerance: How many epsilons are accepted.
        allow_coarse: Whether derivatives may be coarser than the value.

    Raises:
        ValueError: The reference has no vjp.
    """
    reference, own = found.reference, found.own
    if "vjp" in reference.errors and found.differences is None:
        error = reference.errors["vjp"]
        raise ValueError(
            "audit.compare: `g` must be differentiable at `args` in float64; it raised "
            f"{_summarize(error)}; pass a function of plain JAX operations."
        ) from error
    notes: list[str] = []
    if found.float64_refusal:
        notes.append(f"f was not compared in float64, where it raised {found.float64_refusal}")
    notes += _dtype_notes(found.outputs)
    judged = _choose_criteria(found, tolerance, allow_coarse)
    results, criteria, expected = judged[-1]
    if criteria.derivative.coarse > expected:
        notes.append(describe_epsilon(criteria.derivative))
    worst: dict[tuple[str, str, str], Row] = {}
    for one in judged:
        for row in _judge_results(found, *one[:2], modes, is_own=one[0] is own):
            at = row.mode, row.transform, row.leaf
            if at not in worst or _is_worse(row, worst[at]):
                worst[at] = row
    rows = sorted(worst.values(), key=lambda row: _ORDER.index(row.mode))
    if found.differences is not None and "vjp" in modes:
        rows += _taylor_rows(found, found.differences, results, criteria.derivative)
    return rows, notes


def _choose_criteria(
    found: Evaluations, tolerance: float, allow_coarse: bool
) -> list[tuple[ProgramResults, Criteria, float]]:
    """Pair the results in the arguments' dtypes, and in float64 if f accepts it, with criteria.

    Each pair goes with the epsilon of its dtype.
    """
    own_eps = dtype_epsilon(found.trials)
    excused = math.inf if allow_coarse else max(found.value_eps, own_eps)
    both = [(found.own, own_eps)]
    if found.wide is not None and not found.float64_refusal:
        both.append((found.wide, _FLOAT64_EPSILON))
    coarsest = found.reference.eps
    return [
        (one, choose_criteria(one.precision, max(eps, coarsest), excused, tolerance), eps)
        for one, eps in both
    ]


def _dtype_notes(outputs: OutputLayout) -> list[str]:
    """Name the outputs whose dtype differs: which of the two is wrong only the user knows."""
    dtypes = zip(outputs.labels, outputs.dtypes, outputs.reference_dtypes, strict=True)
    return [
        f"{label} is {ours} from f and {theirs} from g"
        for label, ours, theirs in dtypes
        if theirs not in (None, ours)
    ]


def _is_worse(row: Row, other: Row) -> bool:
    return (row.failed, row.scaled) > (other.failed, other.scaled)


def _judge_results(
    found: Evaluations,
    results: ProgramResults,
    criteria: Criteria,
    modes: tuple[str, ...],
    is_own: bool,
) -> list[Row]:
    """Judge what f returned in the arguments' dtypes (`is_own`) or in float64."""
    rows = []
    for name in found.names:
        mode, _ = name
        if mode not in modes:  # needed for the transposition alone
            continue
        if name in results.errors:
            dtype = found.trials.points[0].dtype if is_own else np.dtype(np.float64)
            rows.append(_error_row(name, results.errors[name], str(dtype)))
        elif name in results.results and mode not in found.reference.values:
            why = f"the reference raised {_summarize(found.reference.errors[mode])}"
            rows.append(Row(*name, "all", "", verdict="not judged", why=why))
        elif name in results.results:
            compared = _compare_leaves(found, name, results.results[name])
            for one, (label, dtype) in zip(compared, _leaves(found, mode, is_own), strict=True):
                criterion = criteria.value if mode == "value" else criteria.derivative
                rows.append(judge_leaf(name, label, one, criterion._replace(dtype=dtype)))
    if "transposition" in modes:
        rows += _transposition_rows(found, results, criteria.derivative)
    return rows


def _error_row(name: ProgramName, error: Exception, dtype: str) -> Row:
    why = _summarize(error)
    if isinstance(error, TypeError) and "forward-mode" in why and "custom_vjp" in why:
        return Row(*name, "all", dtype, verdict="no forward mode", why="")
    return Row(*name, "all", dtype, verdict="raises", why=why)


def _summarize(error: Exception) -> str:
    first = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first[0][:300]}"


def _leaves(found: Evaluations, mode: str, is_own: bool) -> list[tuple[str, Any]]:
    """Return the label of each leaf of a mode's result, and the dtype that it must have."""
    outputs, points = found.outputs, found.trials.points
    if mode in ("value", "jvp"):
        count = len(outputs.labels) if mode == "value" else outputs.floating
        return [(label, None) for label in outputs.labels[:count]]
    dtypes = [leaf.dtype if is_own else np.dtype(np.float64) for leaf in points]
    return list(zip(found.layout.labels, dtypes, strict=True))


def _compare_leaves(
    found: Evaluations, name: ProgramName, results: list[Any]
) -> list[LeafComparison]:
    """Pair the numbers of a result with those of the reference, leaf by leaf."""
    mode, _ = name
    reference, trials = found.reference, trial_indices(name, found.trials.at)
    compared = []
    for i, got in enumerate(results):
        value, terms, slack = (
            of[mode][i] for of in (reference.values, reference.terms, reference.slack)
        )
        if mode == "vjp" and found.projected:
            tangents = np.asarray(found.trials.u[i], np.float64)[trials]
            got, terms_here = _project(got, tangents)
            terms = np.zeros(value.shape)
            terms[trials] = terms_here
        finite = np.abs(np.where(np.isfinite(value), value, 0).astype(np.float64))
        size = float(np.max(finite, initial=0))
        compared.append(LeafComparison(got, value[trials], terms[trials], slack[trials], size))
    return compared


def _project(got: Any, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ⟨Jᵀv, u⟩ in the result's dtype, and the size of its terms."""
    axes = tuple(range(1, got.ndim))
    products = np.where(u == 0, 0, u * np.asarray(got, np.float64))
    return np.sum(products, axis=axes).astype(got.dtype), np.sum(np.abs(products), axis=axes)


def _transposition_rows(
    found: Evaluations, results: ProgramResults, criterion: Criterion
) -> list[Row]:
    """Compare Jᵀ with J, both as the rule computes them."""
    trials = found.trials
    for transform in ("jit", "plain"):
        pushed, pulled = ("jvp", transform), ("vjp", transform)
        if pushed in results.errors:
            return []  # its own row, or the missing forward mode, says why
        if pushed not in results.results or pulled not in results.results:
            continue
        common = np.intersect1d(trial_indices(pushed, trials.at), trial_indices(pulled, trials.at))
        u, v = ([a[common] for a in side] for side in (trials.u, trials.v))
        j_u, jt_v = (_with_terms(found, results, name, common) for name in (pushed, pulled))
        compared = compare_transposes(j_u, v, jt_v, u)
        compared = compared._replace(got=compared.got.astype(np.float64))
        row = judge_leaf(("transposition", transform), "all", compared, criterion)
        dtype = str(results.results[pulled][0].dtype)
        return [row._replace(dtype=dtype, at=())]
    return []


def _with_terms(
    found: Evaluations, results: ProgramResults, name: ProgramName, common: np.ndarray
) -> list[tuple[Any, Any]]:
    """Return (numbers, size of the terms that cancelled) per leaf, of the common trials."""
    trials = trial_indices(name, found.trials.at)
    keep = np.isin(trials, common)
    terms = found.reference.terms.get(name[0])
    return [
        (leaf[keep], terms[i][trials][keep] if terms and not found.projected else 0.0)
        for i, leaf in enumerate(results.results[name])
    ]


def _taylor_rows(
    found: Evaluations,
    differences: FiniteDifferences,
    results: ProgramResults,
    criterion: Criterion,
) -> list[Row]:
    """Test that, along the first trial's tangent, the remainder after the vjp decreases as h²."""
    name = next((("vjp", t) for t in ("jit", "plain") if ("vjp", t) in results.results), None)
    if name is None:
        return []
    trials, along = found.trials, differences.along
    increments, size, smooth = 0.0, 0.0, True
    for v, one, y in zip(trials.v, along, found.reference.values["value"], strict=False):
        wide = np.asarray(v[0], np.float64)
        axes = tuple(range(1, one.increments.ndim))
        increments = increments + np.sum(wide * one.increments, axis=axes)
        size += float(np.sum(np.abs(wide * y[0])))
        smooth &= bool(np.all(np.isfinite(one.slack[wide != 0])))
    pairs = zip(results.results[name], trials.u, strict=True)
    slope = differences.length * sum(
        float(np.sum(np.asarray(a[0], np.float64) * np.asarray(u[0], np.float64))) for a, u in pairs
    )
    taylor = partial(taylor_order, np.asarray(increments), np.asarray(slope), along[0].steps)
    order = taylor(criterion.eps * size)
    row = Row("taylor", name[1], "all", str(results.results[name][0].dtype), wanted=2.0)
    if not smooth:
        return [row._replace(verdict="not judged", why=NO_DERIVATIVE)]
    if order is None:
        return [row._replace(got=2.0, why="the remainder is below the rounding errors")]
    row = row._replace(got=order)
    if order > 1.5:
        return [row]
    if (taylor(criterion.coarse * size) or 2.0) > 1.5:
        return [row._replace(verdict="coarse", why=describe_coarse("taylor", criterion))]
    return [row._replace(verdict="disagrees", why="the remainder decreases as h, not as h²")]
