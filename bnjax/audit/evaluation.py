"""Compile all that one comparison computes, and run it."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import numpy as np

from bnjax.audit.arguments import (
    ArgumentLayout,
    OutputLayout,
    bind,
    cast_floating,
)
from bnjax.audit.differences import compile_differences
from bnjax.audit.precision import dtype_epsilon, prepare_agreement
from bnjax.audit.programs import ProgramResults, compile_program, run_uncompiled
from bnjax.audit.reference import ReferenceValues, compile_reference
from bnjax.audit.report import Saved
from bnjax.audit.transforms import ProgramName
from bnjax.audit.trials import Trials
from bnjax.audit.verdicts import Evaluations

Function = Callable[..., Any]


class ComparisonConfig(NamedTuple):
    """What a comparison computes.

    Attributes:
        layout: The layout of the arguments.
        outputs: The layout of what f returns.
        names: The modes and transforms to run.
        few: Up to this many elements, the whole Jacobian is differenced.
        in_float64: Whether the reference is evaluated in float64, not in the arguments' dtypes.
    """

    layout: ArgumentLayout
    outputs: OutputLayout
    names: tuple[ProgramName, ...]
    few: int
    in_float64: bool


class ReferencePrograms(NamedTuple):
    """What is compiled in the reference's dtype; in float64 it serves arguments of every dtype.

    Attributes:
        reference: The reference.
        rule: f in the same dtype; None unless that is float64.
        differences: The finite differences of f; None where there is a reference.
        agreement: The comparison of the values of f and g alone.
    """

    reference: Callable[..., tuple[ReferenceValues, list[Any]]]
    rule: Callable[..., ProgramResults] | None
    differences: Callable[..., Any] | None
    agreement: Callable[..., float]


class ComparisonPrograms(NamedTuple):
    """Everything that is compiled for arguments of one kind.

    Attributes:
        config: What is computed.
        wide: The programs in the reference's dtype.
        own: f in the arguments' dtypes; None where those are the reference's.
        saved: What f and g save for the backward pass.
    """

    config: ComparisonConfig
    wide: ReferencePrograms
    own: Callable[..., ProgramResults] | None
    saved: dict[str, Saved]


def run_comparison(
    f: Function,
    programs: ComparisonPrograms,
    constants: list[Any],
    trials: Trials,
    signs: list[np.ndarray],
    tolerance: float,
) -> Evaluations:
    """Run the compiled programs, and f uncompiled.

    Args:
        f: The function with the rule.
        programs: The compiled programs.
        constants: The arguments that are not differentiated.
        trials: The trials.
        signs: ±1 for each rounding of the reference's arguments, (SAMPLES, POINTS, *shape) per
            leaf.
        tolerance: How many epsilons the values of f and g may differ by.
    """
    config, compiled, own_program, _ = programs
    layout, outputs, names, _, in_float64 = config
    wide_constants, wide_trials = _in_reference_dtype((constants, trials), config)
    wide = differences = None
    with _float64(in_float64):
        reference, wide_scales = compiled.reference(wide_constants, wide_trials, signs)
        if compiled.rule is not None:
            wide = compiled.rule(wide_constants, wide_trials, wide_scales)
    scales = [np.asarray(a, dtype) for a, dtype in zip(wide_scales, outputs.dtypes, strict=False)]
    plain = run_uncompiled(bind(f, layout, constants), names, trials, scales)
    own = wide if own_program is None else own_program(constants, trials, scales)
    assert own is not None
    own = ProgramResults(own.results | plain.results, own.errors | plain.errors, own.precision)
    if compiled.differences is not None:
        precision = (wide or own).precision.no_finer_than(dtype_epsilon(wide_trials))
        reference = reference._replace(eps=precision.of_value)
        with _float64(in_float64):
            differences = compiled.differences(
                wide_constants, wide_trials, wide_scales, reference, precision
            )
        reference = differences.reference
    wide = None if own_program is None else wide
    found = Evaluations(layout, outputs, names, trials, reference, own, wide, differences)
    return found._replace(value_eps=_agreed_epsilon(found, programs, constants, tolerance))


def _agreed_epsilon(
    found: Evaluations, programs: ComparisonPrograms, constants: list[Any], tolerance: float
) -> float:
    """Return the epsilon with which f's value agrees, if f computes with a coarser one inside."""
    results, in_float64 = found.own, programs.config.in_float64
    if found.wide is not None and not found.float64_refusal:
        results = found.wide
    elif programs.own is not None:
        in_float64 = False
    inside, of_value = results.precision
    finest = max(dtype_epsilon(found.trials), found.reference.eps)
    if min(inside, of_value) <= finest:
        return of_value
    epsilons = (max(finest, float(np.finfo(dtype).eps)) for dtype in (np.float64, np.float32))
    leaves = [leaf[0] for leaf in found.trials.points]
    if in_float64:
        constants, leaves = cast_floating((constants, leaves), np.float64)
    with _float64(in_float64):
        candidates = {of_value, *(eps for eps in epsilons if eps < of_value)}
        return programs.wide.agreement(constants, leaves, sorted(candidates), tolerance)


def compile_wide(
    f: Function,
    g: Function | None,
    config: ComparisonConfig,
    constants: list[Any],
    trials: Trials,
) -> ReferencePrograms:
    """Compile the reference, f in the same dtype, and the differences."""
    layout, _, names, few, in_float64 = config
    modes = [mode for mode, _ in names]
    needed = tuple(dict.fromkeys(modes if g else ["value", *modes]))
    example = (constants, trials, _unit_scales(config.outputs))
    arguments = _in_reference_dtype(example, config)
    rule = differences = None
    with _float64(in_float64):
        reference = compile_reference(g or f, layout, needed, arguments, terms=in_float64)
        if in_float64:
            rule = compile_program(f, layout, names, arguments)
        if g is None:
            differences = compile_differences(f, layout, needed, few=few)
    return ReferencePrograms(reference, rule, differences, prepare_agreement(f, g, layout))


def compile_own(
    f: Function,
    g: Function | None,
    config: ComparisonConfig,
    wide: ReferencePrograms,
    constants: list[Any],
    trials: Trials,
) -> ComparisonPrograms:
    """Compile f in the arguments' dtypes, unless they are the reference's; count what is saved."""
    own = None
    if wide.rule is None or any(a.dtype != np.float64 for a in (*trials.points, *trials.v)):
        arguments = (constants, trials, _unit_scales(config.outputs))
        own = compile_program(f, config.layout, config.names, arguments)
    counted = {
        name: _count_saved(function, config.layout, trials, constants)
        for name, function in {"f": f, "g": g}.items()
        if function
    }
    saved = {name: count for name, count in counted.items() if count is not None}
    return ComparisonPrograms(config, wide, own, saved)


def _unit_scales(outputs: OutputLayout) -> list[np.ndarray]:
    return [np.ones((), dtype) for dtype in outputs.dtypes[: outputs.floating]]


def _in_reference_dtype(tree: Any, config: ComparisonConfig) -> Any:
    return cast_floating(tree, np.float64) if config.in_float64 else tree


def _float64(allowed: bool) -> ExitStack:
    """Allow float64 for the reference, whatever JAX is set to."""
    stack = ExitStack()
    if allowed:
        stack.enter_context(jax.enable_x64(True))
        if jax.default_backend() == "tpu":  # TPUs have no float64
            stack.enter_context(jax.default_device(jax.devices("cpu")[0]))
    return stack


def _count_saved(
    f: Function, layout: ArgumentLayout, trials: Trials, constants: list[Any]
) -> Saved | None:
    """Count what f saves for its pull-back, without computing it."""
    saved: dict[int, Any] = {}
    leaves = [leaf[0] for leaf in trials.points]

    def run(leaves: list[Any], constants: list[Any]) -> None:
        bound = bind(f, layout, constants)
        pull_back = jax.vjp(lambda x: bound(x)[: len(trials.v)], leaves)[1]
        arrays = (leaf for leaf in jax.tree.leaves(pull_back) if hasattr(leaf, "dtype"))
        saved.update((id(array), array) for array in arrays)

    try:
        jax.eval_shape(run, leaves, constants)
    except Exception:  # the rows report it
        return None
    size = sum(array.size * array.dtype.itemsize for array in saved.values())
    given = sum(leaf.nbytes for leaf in (*leaves, *constants) if hasattr(leaf, "nbytes"))
    return Saved(len(saved), size, size / max(given, 1))
