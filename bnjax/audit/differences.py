"""Finite differences of the function itself, in float64, where there is no reference.

While the arguments have few elements, the whole Jacobian is differenced at every point. Beyond
that, only the derivative along each trial's tangent u is known, leaf by leaf, and of the vjp only
⟨Jᵀv, u⟩. The second order is the directional derivative of the rule's own gradient.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array, lax

from bnjax._xla import options_for_few_runs
from bnjax.audit.arguments import ArgumentLayout, bind
from bnjax.audit.derivatives import SECOND_ORDER, scalar_gradient
from bnjax.audit.precision import Precision
from bnjax.audit.reference import ReferenceValues
from bnjax.audit.richardson import (
    DirectionalDerivatives,
    evaluate_stencil,
    extrapolate,
    step_sizes,
)
from bnjax.audit.trials import Trials

# (the index of each direction's point, the directions per leaf) -> derivatives per output
Differentiate = Callable[[np.ndarray, list[np.ndarray]], list[DirectionalDerivatives]]
ValuesAndSlack = tuple[list[np.ndarray], list[np.ndarray]]  # per leaf


class FiniteDifferences(NamedTuple):
    """The reference as finite differences have it.

    Attributes:
        reference: The reference, its derivatives replaced by differences.
        projected: Whether only ⟨Jᵀv, u⟩ is known of the vjp, leaf by leaf.
        along: The derivatives of each output along the first trial's tangent, for the Taylor test.
        length: What that tangent was multiplied by.
    """

    reference: ReferenceValues
    projected: bool
    along: list[DirectionalDerivatives]
    length: float


class _Stencils(NamedTuple):
    """The compiled programs that evaluate stencils, for the first and the second order."""

    outputs: Callable[..., Any]
    gradient: Callable[..., Any]


def compile_differences(
    f: Callable[..., Any], layout: ArgumentLayout, modes: Sequence[str], *, few: int
) -> Callable[..., FiniteDifferences]:
    """Prepare the finite differences of `f`; they are compiled when first run.

    Args:
        f: The function.
        layout: The layout of its arguments.
        modes: The modes.
        few: Up to this many elements, the whole Jacobian is differenced.

    Returns:
        run(constants, trials, scales, reference, precision) -> `FiniteDifferences`, where
        `precision` is that of f.
    """
    options = options_for_few_runs()
    stencils = _Stencils(
        jax.jit(
            partial(_output_stencils, f, layout), static_argnames="count", compiler_options=options
        ),
        jax.jit(partial(_gradient_stencils, f, layout), compiler_options=options),
    )
    return partial(_difference, stencils, [mode for mode in SECOND_ORDER if mode in modes], few)


def _output_stencils(
    f: Callable[..., Any],
    layout: ArgumentLayout,
    constants: list[Any],
    points: list[Array],
    at: Array,
    u: list[Array],
    h: Array,
    *,
    count: int,
) -> Any:
    """Evaluate the first `count` outputs of f on the stencil of every direction u."""
    bound = bind(f, layout, constants)

    def one(row: Any) -> Any:
        i, u = row
        return evaluate_stencil(lambda x: bound(x)[:count], [leaf[i] for leaf in points], u, h)

    return lax.map(one, (at, u))


def _gradient_stencils(
    f: Callable[..., Any],
    layout: ArgumentLayout,
    constants: list[Any],
    trials: Trials,
    scales: list[Array],
    h: Array,
) -> Any:
    """Evaluate the gradient that the second order differentiates on every trial's stencil."""
    points, at, v, u = trials
    bound = bind(f, layout, constants)

    def one(row: Any) -> Any:
        i, v, u = row
        x = [leaf[i] for leaf in points]
        return evaluate_stencil(lambda x: scalar_gradient(bound, x, v, scales), x, u, h)

    return lax.map(one, (at, v, u))


def _difference(
    stencils: _Stencils,
    second_order: list[str],
    few: int,
    constants: list[Any],
    trials: Trials,
    scales: list[Any],
    reference: ReferenceValues,
    precision: Precision,
) -> FiniteDifferences:
    """Replace the reference's derivatives."""
    values, slack = dict(reference.values), dict(reference.slack)
    h = step_sizes()

    def along(at: np.ndarray, u: list[np.ndarray]) -> list[DirectionalDerivatives]:
        found = stencils.outputs(constants, trials.points, at, u, h, count=len(trials.v))
        return _extrapolate_leaves(found, h, precision.of_value)

    lengths = [_step_length(leaf[0]) for leaf in trials.points]
    longest = max(lengths)
    scaled = trials._replace(u=[a * longest for a in trials.u])
    of_outputs = along(trials.at, scaled.u)
    values["jvp"], slack["jvp"] = _per_unit(of_outputs, longest)
    whole = sum(leaf[0].size for leaf in trials.points) <= few
    vjp = _vjp_from_jacobian if whole else _vjp_along_tangents
    values["vjp"], slack["vjp"] = vjp(along, trials, lengths)
    for mode in second_order:
        gradient = stencils.gradient(constants, scaled, scales, h)
        found = _extrapolate_leaves(gradient, h, precision.inside)
        values[mode], slack[mode] = _per_unit(found, longest)
    first = [
        DirectionalDerivatives(one.values[0], one.slack[0], one.steps, one.increments[0])
        for one in of_outputs
    ]
    replaced = reference._replace(values=values, slack=slack)
    return FiniteDifferences(replaced, not whole, first, longest)


def _extrapolate_leaves(found: Any, h: np.ndarray, eps: float) -> list[DirectionalDerivatives]:
    stencils = jax.tree.map(np.asarray, found)
    return [extrapolate(x, a, b, h, eps) for x, a, b in zip(*stencils, strict=True)]


def _per_unit(found: list[DirectionalDerivatives], length: float) -> ValuesAndSlack:
    """Divide by the length of the direction."""
    return [one.values / length for one in found], [one.slack / length for one in found]


def _step_length(leaf: np.ndarray) -> float:
    """Return the length of a step for numbers of this size: their root mean square."""
    finite = leaf[np.isfinite(leaf)]
    return float(np.sqrt(np.mean(finite**2))) or 1.0 if finite.size else 1.0


def _vjp_along_tangents(
    along: Differentiate, trials: Trials, lengths: list[float]
) -> ValuesAndSlack:
    """Return ⟨Jᵀv, u⟩ of every trial, leaf by leaf: each leaf's tangent alone."""
    values, slacks = [], []
    for i, length in enumerate(lengths):
        alone = [a * length * (i == j) for j, a in enumerate(trials.u)]
        value, slack = _pair_with_cotangents(along(trials.at, alone), trials.v, len(trials.at))
        values.append(value / length)
        slacks.append(slack / length)
    return values, slacks


def _vjp_from_jacobian(
    along: Differentiate, trials: Trials, lengths: list[float]
) -> ValuesAndSlack:
    """Return Jᵀv of every trial, from the Jacobians at all points."""
    shapes = [leaf.shape[1:] for leaf in trials.points]
    sizes = [int(np.prod(shape)) for shape in shapes]
    points, size, scales = len(trials.points[0]), sum(sizes), np.repeat(lengths, sizes)
    axes = _split_rows(list(np.diag(scales)), sizes, shapes)
    jacobians = along(
        np.repeat(np.arange(points, dtype=np.int32), size),
        [np.tile(a, (points, *[1] * (a.ndim - 1))) for a in axes],
    )
    values, slacks = [], []
    for t, point in enumerate(trials.at):
        rows = slice(point * size, (point + 1) * size)
        at = [one._replace(values=one.values[rows], slack=one.slack[rows]) for one in jacobians]
        value, slack = _pair_with_cotangents(at, [a[t : t + 1] for a in trials.v], size)
        values.append(value / scales)
        slacks.append(slack / scales)
    return _split_rows(values, sizes, shapes), _split_rows(slacks, sizes, shapes)


def _split_rows(
    rows: list[np.ndarray], sizes: list[int], shapes: list[tuple[int, ...]]
) -> list[np.ndarray]:
    """Split flat rows into one array (rows, *shape) per leaf."""
    pieces = np.split(np.stack(rows), np.cumsum(sizes)[:-1], axis=1)
    return [piece.reshape(len(rows), *shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _pair_with_cotangents(
    found: list[DirectionalDerivatives], v: list[np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return ⟨v, derivative⟩ over all outputs, and how far off it may be; 0 · anything is 0."""
    value, slack = np.zeros(count), np.zeros(count)
    for one, weight in zip(found, v, strict=True):
        axes = tuple(range(1, one.values.ndim))
        with np.errstate(all="ignore"):
            value += np.sum(np.where(weight == 0, 0, weight * one.values), axis=axes)
            slack += np.sum(np.where(weight == 0, 0, np.abs(weight) * one.slack), axis=axes)
    return value, slack
