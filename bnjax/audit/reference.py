"""The derivatives of the reference in float64, and the size of the terms that cancel in each.

To find those terms (see `rounding`), the reference is run again at arguments that are off by a
relative 2⁻³⁶, with every result rounded to 36 binary digits. How far that moves a number, divided
by 2⁻³⁶, is the size of the terms that cancelled on the way to it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend import core

from bnjax._xla import options_for_few_runs
from bnjax.audit.arguments import ArgumentLayout, bind
from bnjax.audit.derivatives import SECOND_ORDER, FlatFunction, evaluate_mode
from bnjax.audit.precision import coarsest_epsilon
from bnjax.audit.programs import missing_forward_modes
from bnjax.audit.rounding import UNIT, with_rounding
from bnjax.audit.trials import Trials

SAMPLES = 4  # random roundings of the arguments; the largest effect counts


class ReferenceValues(NamedTuple):
    """The correct values of each mode, one array (T, *shape) per leaf, and their uncertainty.

    Attributes:
        values: The values.
        terms: The size of the terms that cancelled, in the same units.
        slack: How far off the values themselves may be; infinite where they cannot be known.
        errors: For each mode that the reference does not have, the exception it raised.
        eps: The coarsest machine epsilon that the reference computes with.
    """

    values: dict[str, list[Any]]
    terms: dict[str, list[Any]]
    slack: dict[str, list[Any]]
    errors: dict[str, Exception]
    eps: float


def draw_signs(trials: Trials, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw the directions in which `SAMPLES` roundings move the arguments: ±1."""
    shapes = ((SAMPLES, *leaf.shape) for leaf in trials.points)
    return [np.where(rng.random(shape) < 0.5, -1.0, 1.0) for shape in shapes]


def compile_reference(
    g: Callable[..., Any],
    layout: ArgumentLayout,
    modes: Sequence[str],
    arguments: Any,
    *,
    terms: bool,
) -> Callable[..., tuple[ReferenceValues, list[Any]]]:
    """Compile the reference.

    Args:
        g: The reference.
        layout: The layout of its arguments.
        modes: The modes.
        arguments: (constants, trials, scales), for their shapes and dtypes.
        terms: Whether to find the terms that cancel as well.

    Returns:
        run(constants, trials, signs) -> (`ReferenceValues`, the size of each floating output),
        where `signs` has one array (SAMPLES, POINTS, *shape) of ±1 per differentiated leaf.
    """
    errors = missing_forward_modes(g, layout, modes, arguments)
    modes = [mode for mode in modes if mode not in errors]

    def run(constants: list[Any], trials: Trials, signs: list[Any]) -> Any:
        bound = bind(g, layout, constants)
        scales = [jnp.ones((), a.dtype) for a in trials.v]
        if set(modes) & set(SECOND_ORDER):
            outputs = bound([leaf[0] for leaf in trials.points])[: len(trials.v)]
            scales = [_output_scale(y) for y in outputs]
        traced, tree = _trace_modes(bound, modes, trials, scales, errors)
        exact = _at_every_trial(core.jaxpr_as_fun(traced), trials, trials.points)
        if not terms:
            return jax.tree.unflatten(tree, exact), None, scales
        cancelled = _cancelled_terms(traced, exact, trials, signs)
        return jax.tree.unflatten(tree, exact), jax.tree.unflatten(tree, cancelled), scales

    signs = [np.ones((SAMPLES, *leaf.shape), leaf.dtype) for leaf in arguments[1].points]
    traced = jax.jit(run).trace(*arguments[:2], signs)
    compiled, eps = traced.lower().compile(options_for_few_runs()), coarsest_epsilon(traced.jaxpr)

    def call(
        constants: list[Any], trials: Trials, signs: list[Any]
    ) -> tuple[ReferenceValues, list[Any]]:
        signs = [sign.astype(leaf.dtype) for sign, leaf in zip(signs, trials.points, strict=True)]
        values, found, scales = jax.tree.map(np.asarray, compiled(constants, trials, signs))
        zeros = jax.tree.map(lambda a: np.zeros(a.shape), values)
        return ReferenceValues(values, found or zeros, zeros, errors, eps), scales

    return call


def _trace_modes(
    g: FlatFunction,
    modes: Sequence[str],
    trials: Trials,
    scales: list[Array],
    errors: dict[str, Exception],
) -> tuple[Any, Any]:
    """Trace all modes at one trial; return the program and the structure of its results."""

    def trial(x: Any, v: Any, u: Any) -> dict[str, list[Array]]:
        results = {}
        for mode in modes:
            try:
                results[mode] = evaluate_mode(mode, g, x, v, u, scales)
            except Exception as error:  # the reference may not have this mode
                errors[mode] = error
        return results

    first = jax.tree.map(lambda a: a[0], (trials.points, trials.v, trials.u))
    traced, shape = jax.make_jaxpr(trial, return_shape=True)(*first)
    return traced, jax.tree.structure(shape)


def _at_every_trial(
    program: Callable[..., list[Array]], trials: Trials, points: list[Array]
) -> list[Array]:
    """Run a flat program at every trial, one after the other; `points` replaces the trials'."""

    def one(row: Any) -> list[Array]:
        i, v, u = row
        return program(*jax.tree.leaves(([leaf[i] for leaf in points], v, u)))

    return lax.map(one, (trials.at, trials.v, trials.u))


def _cancelled_terms(
    traced: Any, exact: list[Array], trials: Trials, signs: list[Any]
) -> list[Array]:
    """Return the largest distance, over all samples, between the exact and the rounded program."""

    def sample(worst: list[Array], signs: list[Array]) -> tuple[list[Array], None]:
        pairs = zip(trials.points, signs, strict=True)
        near = [leaf * (1 + UNIT * sign) for leaf, sign in pairs]
        moved = _at_every_trial(with_rounding(traced), trials, near)
        triples = zip(worst, moved, exact, strict=True)
        return [jnp.maximum(w, _distance(a, b)) for w, a, b in triples], None

    return lax.scan(sample, [jnp.zeros(a.shape, jnp.float64) for a in exact], signs)[0]


def _output_scale(y: Array) -> Array:
    finite = jnp.where(jnp.isfinite(y), jnp.abs(y), 0)
    return jnp.maximum(1, jnp.max(finite, initial=0)).astype(y.dtype)


def _distance(a: Array, b: Array) -> Array:
    """Return |a − b| in units of the rounding, and 0 where that is not finite."""
    distance = jnp.abs(a.astype(jnp.float64) - b.astype(jnp.float64)) / UNIT
    return jnp.where(jnp.isfinite(distance), distance, 0)
