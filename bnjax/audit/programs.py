"""Evaluate a function's modes under all transforms, in one program that is compiled once.

A mode that raises under a transform is recorded with its error, and the others go on.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax._xla import options_for_few_runs
from bnjax.audit import derivatives
from bnjax.audit.arguments import ArgumentLayout, bind
from bnjax.audit.precision import Precision, coarsest_epsilon, value_epsilon
from bnjax.audit.transforms import ProgramName, evaluate_under, trial_indices
from bnjax.audit.trials import Trials

_FORWARD_MODES = ("jvp", "fwd-over-rev")


class ProgramResults(NamedTuple):
    """What the programs of one function returned.

    Attributes:
        results: For each (mode, transform), one array per leaf.
        errors: For each (mode, transform) that raised, the exception.
        precision: The precision that the function computes with.
    """

    results: dict[ProgramName, list[Any]]
    errors: dict[ProgramName, Exception]
    precision: Precision = Precision()


def run_uncompiled(
    f: derivatives.FlatFunction, names: Sequence[ProgramName], trials: Trials, scales: list[Any]
) -> ProgramResults:
    """Evaluate the modes of the transform "plain", at the given point.

    The vjp runs for every cotangent, the other modes for one trial.
    """
    results: dict[ProgramName, list[Any]] = {}
    errors: dict[ProgramName, Exception] = {}
    for name in names:
        if name[1] == "plain":
            try:
                rows = _evaluate_plain(name, f, trials, scales)
                results[name] = [np.stack(leaf) for leaf in zip(*rows, strict=True)]
            except Exception as error:  # whatever a rule raises belongs in the report
                errors[name] = error
    return ProgramResults(results, errors)


def _evaluate_plain(
    name: ProgramName, f: derivatives.FlatFunction, trials: Trials, scales: list[Any]
) -> list[list[Array]]:
    """Return one list of leaves per trial."""
    mode, _ = name
    x = [jnp.asarray(leaf[0]) for leaf in trials.points]
    if mode != "vjp":
        v, u = ([jnp.asarray(a[0]) for a in side] for side in (trials.v, trials.u))
        return [derivatives.evaluate_mode(mode, f, x, v, u, scales)]
    y, pull_back = jax.vjp(lambda x: f(x)[: len(trials.v)], x)  # once for all cotangents
    cotangents = ([jnp.asarray(a[t]) for a in trials.v] for t in trial_indices(name, trials.at))
    return [pull_back(derivatives.match_dtypes(v, y))[0] for v in cotangents]


def compile_program(
    f: Callable[..., Any], layout: ArgumentLayout, names: Sequence[ProgramName], arguments: Any
) -> Callable[..., ProgramResults]:
    """Compile all modes and transforms but "plain" together, or one by one if that fails.

    Args:
        f: The function with the rule.
        layout: The layout of its arguments.
        names: The modes and transforms.
        arguments: (constants, trials, scales), for their shapes and dtypes.

    Returns:
        run(constants, trials, scales) -> `ProgramResults`.
    """
    compiled = [name for name in names if name[1] != "plain"]
    missing = missing_forward_modes(f, layout, [mode for mode, _ in compiled], arguments)
    errors = {name: missing[name[0]] for name in compiled if name[0] in missing}
    compiled = [name for name in compiled if name not in errors]
    if not compiled:
        precision = _precision(f, layout, names, arguments)
        return lambda *_: ProgramResults({}, errors, precision)
    try:
        traced = _trace(f, layout, compiled, arguments, errors)
        inside = coarsest_epsilon(traced.jaxpr)
        precision = Precision(inside, value_epsilon(f, layout, arguments))
        run = traced.lower().compile(options_for_few_runs())
        run(*arguments)  # a leaked tracer may fail only here
    except Exception as error:
        if len(compiled) == 1:
            errors[compiled[0]] = error
            return lambda *_: ProgramResults({}, errors)
        separate = [compile_program(f, layout, [name], arguments) for name in compiled]
        return lambda *arguments: _merge(
            [ProgramResults({}, errors), *(one(*arguments) for one in separate)]
        )
    return lambda *arguments: ProgramResults(
        jax.tree.map(np.asarray, run(*arguments)), errors, precision
    )


def _precision(
    f: Callable[..., Any], layout: ArgumentLayout, names: Sequence[ProgramName], arguments: Any
) -> Precision:
    """Return the precision of modes that are run uncompiled only."""
    try:
        traced = _trace(f, layout, [(mode, "jit") for mode, _ in names], arguments, {})
        return Precision(coarsest_epsilon(traced.jaxpr), value_epsilon(f, layout, arguments))
    except Exception:  # what f raises has rows of its own
        return Precision()


def missing_forward_modes(
    f: Callable[..., Any], layout: ArgumentLayout, modes: Iterable[str], arguments: Any
) -> dict[str, Exception]:
    """Return the forward modes that `f` does not have, each with the exception that it raises.

    A custom_vjp refuses tangents only when the whole program is lowered, so that one forward mode
    would fail every mode beside it. Each is therefore lowered alone first.
    """
    errors: dict[str, Exception] = {}
    for mode in _FORWARD_MODES:
        if mode in modes:
            failed: dict[ProgramName, Exception] = {}
            try:
                _trace(f, layout, [(mode, "jit")], arguments, failed).lower()
            except Exception as error:
                errors[mode] = error
            else:
                errors |= {name: error for (name, _), error in failed.items()}
    return errors


def _trace(
    f: Callable[..., Any],
    layout: ArgumentLayout,
    names: Sequence[ProgramName],
    arguments: Any,
    errors: dict[ProgramName, Exception],
) -> Any:
    """Trace one program."""

    def run(constants: list[Any], trials: Trials, scales: list[Any]) -> dict:
        bound = bind(f, layout, constants)
        results: dict[ProgramName, list[Array]] = {}
        for name in names:
            try:
                results[name] = evaluate_under(name, bound, trials, scales)
            except Exception as error:  # whatever a rule raises belongs in the report
                errors[name] = error
        return results

    return jax.jit(run).trace(*arguments)


def _merge(parts: Sequence[ProgramResults]) -> ProgramResults:
    results = {name: result for one in parts for name, result in one.results.items()}
    errors = {name: error for one in parts for name, error in one.errors.items()}
    inside, of_value = (max(eps) for eps in zip(*(one.precision for one in parts), strict=True))
    return ProgramResults(results, errors, Precision(inside, of_value))
