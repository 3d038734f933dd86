"""The reference where there is none: finite differences of the function itself, in float64.

While the arguments are few the whole Jacobian is differenced, at every point; beyond, the slope
along each trial's direction, leaf by leaf, and of the pull-back only ⟨Jᵀv, u⟩ is known. The second
order is the slope of the rule's own gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from bnjax.audit import derivatives
from bnjax.audit.programs import options
from bnjax.audit.reference import Wanted
from bnjax.audit.richardson import Slopes, slopes, steps, walk
from bnjax.audit.trials import Layout, Trials, bind


class Differenced(NamedTuple):
    """What finite differences say.

    Attributes:
        wanted: The reference with its derivatives replaced.
        projected: Whether only ⟨Jᵀv, u⟩ is known of the pull-back, leaf by leaf.
        along: The slopes along the first trial's direction, per output, for the Taylor test.
        longest: What that direction was multiplied with.
    """

    wanted: Wanted
    projected: bool
    along: list[Slopes]
    longest: float


def compile_differences(
    f: Callable[..., Any],
    layout: Layout,
    wanted: Sequence[str],
    arguments: tuple[list[Any], Trials, list[Any]],
    *,
    few: int,
) -> Callable[..., Differenced]:
    """Compile the differences once.

    Args:
        f: The function.
        layout: The layout of its arguments.
        wanted: The modes.
        arguments: (constants, trials, size), for their shapes.
        few: Up to so many numbers the whole Jacobian is differenced.

    Returns:
        run(constants, trials, size, reference, eps) -> the reference with its derivatives
        replaced; `eps` is what f computes with.
    """
    second = [mode for mode in derivatives.SECOND if mode in wanted]
    whole = sum(leaf[0].size for leaf in arguments[1].points) <= few

    def first(constants: list[Any], points: Any, at: Any, u: Any, h: Any, count: int) -> Any:
        bound = bind(f, layout, constants)

        def one(row: Any) -> Any:
            i, u = row
            return walk(lambda x: bound(x)[:count], [leaf[i] for leaf in points], u, h)

        return lax.map(one, (at, u))

    def curved(constants: list[Any], trials: Trials, size: list[Any], h: Any) -> Any:
        points, at, v, u = trials
        bound = bind(f, layout, constants)

        def one(row: Any) -> Any:
            i, v, u = row
            x = [leaf[i] for leaf in points]
            return walk(lambda x: derivatives.gradient(bound, x, v, size), x, u, h)

        return lax.map(one, (at, v, u))

    first = jax.jit(first, static_argnums=5, compiler_options=options())
    curved = jax.jit(curved, compiler_options=options())

    def run(
        constants: list[Any], trials: Trials, size: list[Any], reference: Wanted, eps: float
    ) -> Differenced:
        values, slack = dict(reference.values), dict(reference.slack)
        lengths = [_length(leaf[0]) for leaf in trials.points]
        count, h = len(trials.v), steps()

        def along(at: np.ndarray, u: list[np.ndarray]) -> list[Slopes]:
            walks = jax.tree.map(np.asarray, first(constants, trials.points, at, u, h, count))
            return [slopes(x, a, b, h, eps) for x, a, b in zip(*walks, strict=True)]

        longest = max(lengths)
        together = along(trials.at, [a * longest for a in trials.u])
        values["jvp"] = [one.values / longest for one in together]
        slack["jvp"] = [one.slack / longest for one in together]
        if whole:
            points, axes = len(trials.points[0]), _axes(trials.points, lengths)
            at = np.repeat(np.arange(points, dtype=np.int32), len(axes[0]))
            jacobian = along(at, [np.tile(a, (points, *[1] * (a.ndim - 1))) for a in axes])
            values["vjp"], slack["vjp"] = _pulled(jacobian, trials, lengths)
        else:
            values["vjp"], slack["vjp"] = [], []
            for i, length in enumerate(lengths):
                alone = [a * length * (i == j) for j, a in enumerate(trials.u)]
                value, off = _paired(along(trials.at, alone), trials.v, len(trials.at))
                values["vjp"].append(value / length)
                slack["vjp"].append(off / length)
        for mode in second:
            scaled = trials._replace(u=[a * longest for a in trials.u])
            walks = jax.tree.map(np.asarray, curved(constants, scaled, size, h))
            found = [slopes(x, a, b, h, eps) for x, a, b in zip(*walks, strict=True)]
            values[mode] = [one.values / longest for one in found]
            slack[mode] = [one.slack / longest for one in found]
        first_of = [
            Slopes(one.values[0], one.slack[0], one.steps, one.rises[0]) for one in together
        ]
        return Differenced(
            reference._replace(values=values, slack=slack), not whole, first_of, longest
        )

    return run


def _length(leaf: np.ndarray) -> float:
    """Tell how long a step is to be for numbers of this size."""
    finite = leaf[np.isfinite(leaf)]
    return float(np.sqrt(np.mean(finite**2))) or 1.0 if finite.size else 1.0


def _axes(points: list[np.ndarray], lengths: list[float]) -> list[np.ndarray]:
    """List the directions along every axis, per leaf (n, *shape)."""
    sizes = [leaf[0].size for leaf in points]
    scales = np.repeat(lengths, sizes)
    parts = np.split(np.diag(scales), np.cumsum(sizes)[:-1], axis=1)
    return [part.reshape(-1, *leaf.shape[1:]) for part, leaf in zip(parts, points, strict=True)]


def _pulled(
    jacobian: list[Slopes], trials: Trials, lengths: list[float]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Form Jᵀv of every trial from the Jacobians at all points."""
    shapes = [leaf.shape[1:] for leaf in trials.points]
    sizes = [int(np.prod(shape)) for shape in shapes]
    scales = np.repeat(lengths, sizes)
    rows = [np.arange(sum(sizes)) + i * sum(sizes) for i in trials.at]
    values, slacks = [], []
    for t, rows_of in enumerate(rows):
        at = [
            one._replace(values=one.values[rows_of], slack=one.slack[rows_of]) for one in jacobian
        ]
        value, slack = _paired(at, [a[t : t + 1] for a in trials.v], len(rows_of))
        values.append(value / scales)
        slacks.append(slack / scales)
    ends = np.cumsum(sizes)[:-1]

    def part(rows: list[np.ndarray]) -> list[np.ndarray]:
        pieces = np.split(np.stack(rows), ends, axis=1)
        return [piece.reshape(-1, *s) for piece, s in zip(pieces, shapes, strict=True)]

    return part(values), part(slacks)


def _paired(found: list[Slopes], v: list[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ⟨v, slope⟩ over all outputs, and how far it may be off; 0 · anything is 0."""
    value, slack = np.zeros(count), np.zeros(count)
    for one, weight in zip(found, v, strict=True):
        axes = tuple(range(1, one.values.ndim))
        with np.errstate(all="ignore"):
            value += np.sum(np.where(weight == 0, 0, weight * one.values), axis=axes)
            slack += np.sum(np.where(weight == 0, 0, np.abs(weight) * one.slack), axis=axes)
    return value, slack
