"""From results to rows: which number is held to which, and what an error means."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bnjax.audit import derivatives
from bnjax.audit.differences import Differenced
from bnjax.audit.judge import Measure, Sides, judge, transposed
from bnjax.audit.programs import Found, Name, tried
from bnjax.audit.reference import Wanted
from bnjax.audit.report import Row
from bnjax.audit.richardson import taylor_order
from bnjax.audit.trials import Layout, Outputs, Trials


class Evidence(NamedTuple):
    """All that was computed.

    Attributes:
        layout: Of the arguments.
        returned: What f returns.
        names: The modes and transforms that were asked for.
        trials: The trials, in the arguments' dtypes.
        wanted: The reference.
        own: f in the arguments' dtypes.
        wide: f in float64, where that is another.
        differenced: The finite differences, where there is no reference.
    """

    layout: Layout
    returned: Outputs
    names: tuple[Name, ...]
    trials: Trials
    wanted: Wanted
    own: Found
    wide: Found | None
    differenced: Differenced | None


def rows(
    evidence: Evidence, chosen: tuple[str, ...], tolerance: float
) -> tuple[list[Row], list[str]]:
    """Judge everything; return the rows and what could not be done.

    Raises:
        ValueError: The reference cannot be pulled back.
    """
    wanted, own, wide = evidence.wanted, evidence.own, evidence.wide
    if "vjp" in wanted.errors and evidence.differenced is None:
        error = wanted.errors["vjp"]
        raise ValueError(
            f"audit.compare: `g` must be differentiable at `args` in float64; got {_said(error)}; "
            "pass a plain function."
        ) from error
    notes: list[str] = []
    if wide is not None and (stopped := _refused(own, wide)):
        notes.append(f"not compared in float64, which f does not take: {stopped}")
        wide = None
    returned = evidence.returned
    for label, dtype, theirs in zip(returned.labels, returned.dtypes, returned.due, strict=True):
        if theirs not in (None, dtype):  # which of the two is wrong only the user knows
            notes.append(f"{label} is {dtype} from f and {theirs} from g")
    dtypes = [a.dtype for a in (*evidence.trials.points, *evidence.trials.v)]
    coarsest = max(float(jnp.finfo(dtype).eps) for dtype in dtypes)
    inside = (own.eps, coarsest) if wide is None else (wide.eps, float(jnp.finfo(jnp.float64).eps))
    if inside[0] > inside[1]:
        notes.append(f"judged by the coarsest epsilon that f computes with inside: {inside[0]:.2g}")
    found: dict[tuple[str, str, str], Row] = {}
    for of, eps, due in ((own, max(coarsest, own.eps), True), (wide, wanted.eps, False)):
        if of is not None:
            measure = Measure(max(eps, of.eps, wanted.eps), tolerance)
            for row in _rows(evidence, of, measure, chosen, due):
                at = row.mode, row.transform, row.leaf
                if at not in found or _worse(row, found[at]):
                    found[at] = row
    ordered = sorted(found.values(), key=lambda row: _MODES.index(row.mode))
    if evidence.differenced is not None and "vjp" in chosen:
        ordered += _taylor(evidence, wide or own)
    return ordered, notes


_MODES = (*derivatives.ALL, "taylor")


def _worse(row: Row, other: Row) -> bool:
    return (row.failed, row.scaled) > (other.failed, other.scaled)


def _rows(
    evidence: Evidence, found: Found, measure: Measure, chosen: tuple[str, ...], own: bool
) -> list[Row]:
    judged = []
    for name in evidence.names:
        mode, transform = name
        if mode not in chosen:  # needed for the transposition alone
            continue
        if name in found.errors:
            judged.append(_raised(name, found.errors[name], str(_dtype(evidence, own))))
        elif name in found.results and mode not in evidence.wanted.values:
            why = _said(evidence.wanted.errors[mode])
            judged.append(Row(*name, "all", "", verdict="not judged", why=f"the reference: {why}"))
        elif name in found.results:
            sides = _sides(evidence, name, found.results[name])
            for i, (label, due) in enumerate(_leaves(evidence, mode, own)):
                judged.append(judge(name, label, sides[i], measure._replace(dtype=due)))
    if "transposition" in chosen:
        judged += _transposition(evidence, found, measure)
    return judged


def _dtype(evidence: Evidence, own: bool) -> Any:
    return evidence.trials.points[0].dtype if own else np.dtype(np.float64)


def _leaves(evidence: Evidence, mode: str, own: bool) -> list[tuple[str, Any]]:
    """List the labels of a mode's leaves, and the dtype that is due."""
    returned, points = evidence.returned, evidence.trials.points
    if mode in ("value", "jvp"):
        count = len(returned.labels) if mode == "value" else returned.inexact
        return [(label, None) for label in returned.labels[:count]]
    dtypes = [leaf.dtype if own else _dtype(evidence, own) for leaf in points]
    return list(zip(evidence.layout.labels, dtypes, strict=True))


def _sides(evidence: Evidence, name: Name, results: list[Any]) -> list[Sides]:
    """Put the numbers of a result beside those of the reference, leaf by leaf."""
    mode, _ = name
    wanted, at = evidence.wanted, tried(name, evidence.trials.at)
    sides = []
    for i, got in enumerate(results):
        value, terms, slack = (of[mode][i] for of in (wanted.values, wanted.terms, wanted.slack))
        if mode == "vjp" and evidence.differenced and evidence.differenced.projected:
            along = np.asarray(evidence.trials.u[i], np.float64)
            got, more = _projected(got, along[at])
            terms = np.zeros(value.shape)
            terms[at] = more
        finite = np.abs(np.where(np.isfinite(value), value, 0).astype(np.float64))
        size = float(np.max(finite, initial=0))
        sides.append(Sides(got, value[at], terms[at], slack[at], size))
    return sides


def _projected(got: Any, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ⟨Jᵀv, u⟩ in the result's dtype, and the size of its terms."""
    axes = tuple(range(1, got.ndim))
    products = np.where(u == 0, 0, u * np.asarray(got, np.float64))
    return np.sum(products, axis=axes).astype(got.dtype), np.sum(np.abs(products), axis=axes)


def _transposition(evidence: Evidence, found: Found, measure: Measure) -> list[Row]:
    """Hold Jᵀ to J, both as the rule gives them."""
    trials, wanted = evidence.trials, evidence.wanted
    for transform in ("jit", "plain"):
        pushed, pulled = ("jvp", transform), ("vjp", transform)
        if pushed in found.errors:
            return []  # its own row, or the missing forward mode, says why
        if pushed not in found.results or pulled not in found.results:
            continue
        common = np.intersect1d(tried(pushed, trials.at), tried(pulled, trials.at))

        def half(name: Name) -> list[Any]:
            mode, at = name[0], tried(name, trials.at)  # noqa: B023
            keep = np.isin(at, common)  # noqa: B023
            terms = wanted.terms.get(mode)
            return [
                (leaf[keep], terms[i][at][keep] if terms and not _is_projected(evidence) else 0.0)
                for i, leaf in enumerate(found.results[name])
            ]

        u, v = ([a[common] for a in side] for side in (trials.u, trials.v))
        sides = transposed(half(pushed), v, half(pulled), u)
        sides = sides._replace(got=sides.got.astype(np.float64))
        row = judge(("transposition", transform), "all", sides, measure)
        dtype = str(found.results[pulled][0].dtype)
        return [row._replace(dtype=dtype, at=())]
    return []


def _is_projected(evidence: Evidence) -> bool:
    return evidence.differenced is not None and evidence.differenced.projected


def _taylor(evidence: Evidence, found: Found) -> list[Row]:
    """Let the remainder after one step of the pull-back fall with h² along the first trial."""
    assert evidence.differenced is not None
    name = next((("vjp", t) for t in ("jit", "plain") if ("vjp", t) in found.results), None)
    if name is None:
        return []
    trials, along = evidence.trials, evidence.differenced.along
    longest = evidence.differenced.longest
    rises, size, smooth = 0.0, 0.0, True
    for v, one, y in zip(trials.v, along, evidence.wanted.values["value"], strict=False):
        wide = np.asarray(v[0], np.float64)
        rises = rises + np.sum(wide * one.rises, axis=tuple(range(1, one.rises.ndim)))
        size += float(np.sum(np.abs(wide * y[0])))
        smooth &= bool(np.all(np.isfinite(one.slack[wide != 0])))
    pairs = zip(found.results[name], trials.u, strict=True)
    slope = sum(
        float(np.sum(np.asarray(a[0], np.float64) * np.asarray(u[0], np.float64))) for a, u in pairs
    )
    eps = max(found.eps, evidence.wanted.eps)
    order = taylor_order(np.asarray(rises), np.asarray(slope * longest), along[0].steps, eps * size)
    row = Row("taylor", name[1], "all", str(found.results[name][0].dtype), wanted=2.0)
    if not smooth:
        return [row._replace(verdict="not judged", why="the slopes from both sides differ here")]
    if order is None:
        return [row._replace(got=2.0, why="the remainder is all rounding")]
    row = row._replace(got=order)
    if order > 1.5:
        return [row]
    return [row._replace(verdict="disagrees", why="the remainder falls with h alone")]


def _raised(name: Name, error: Exception, dtype: str) -> Row:
    said = _said(error)
    if isinstance(error, TypeError) and "forward-mode" in said and "custom_vjp" in said:
        return Row(*name, "all", dtype, verdict="no forward mode", why="")
    return Row(*name, "all", dtype, verdict="raises", why=said)


def _refused(own: Found, wide: Found) -> str:
    """Tell why f cannot be evaluated in float64 though it can in its own dtype."""
    stopped = [error for name, error in wide.errors.items() if name not in own.errors]
    return _said(stopped[0]) if stopped and not wide.results else ""


def _said(error: Exception) -> str:
    first = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first[0][:300]}"
