"""Compile what an audit computes once, then evaluate it at any arguments of the same kind."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import numpy as np

from bnjax.audit import programs
from bnjax.audit.differences import compile_differences
from bnjax.audit.programs import Found, Name
from bnjax.audit.reference import Wanted, compile_reference
from bnjax.audit.report import Saved
from bnjax.audit.trials import Layout, Outputs, Trials, bind, lift, outputs
from bnjax.audit.verdicts import Evidence

Function = Callable[..., Any]


class Setting(NamedTuple):
    """What is known before anything is computed."""

    layout: Layout
    returned: Outputs
    names: tuple[Name, ...]
    few: int
    lifted: bool  # whether the reference is evaluated in float64


class Wide(NamedTuple):
    """What has been compiled in the reference's dtype: the same for arguments of every dtype."""

    reference: Callable[..., tuple[Wanted, list[Any]]]
    rule: Callable[..., Found] | None
    differences: Callable[..., Any] | None


class Prepared(NamedTuple):
    """What has been compiled for arguments of one kind."""

    setting: Setting
    wide: Wide
    own: Callable[..., Found] | None  # None where the reference's dtype is the arguments' own
    saved: dict[str, Saved]


def prepare_wide(
    f: Function, g: Function | None, setting: Setting, constants: list[Any], trials: Trials
) -> Wide:
    """Compile the reference, the rule in the same dtype, and the differences."""
    layout, returned, names, few, lifted = setting
    modes = [mode for mode, _ in names]
    needed = tuple(dict.fromkeys(modes if g else ["value", *modes]))
    size = [np.ones((), dtype) for dtype in returned.dtypes[: returned.inexact]]
    arguments = _lift((constants, trials, size), setting)
    rule = differences = None
    with _settings(lifted):
        reference = compile_reference(g or f, layout, needed, arguments, terms=lifted)
        if lifted:
            rule = programs.compile_all(f, layout, names, arguments)
        if g is None:
            differences = compile_differences(f, layout, needed, arguments, few=few)
    return Wide(reference, rule, differences)


def prepare(
    f: Function,
    g: Function | None,
    setting: Setting,
    wide: Wide,
    constants: list[Any],
    trials: Trials,
) -> Prepared:
    """Compile the rule in the arguments' dtypes, too, and count what is saved."""
    returned, own = setting.returned, None
    if wide.rule is None or any(a.dtype != np.float64 for a in (*trials.points, *trials.v)):
        size = [np.ones((), dtype) for dtype in returned.dtypes[: returned.inexact]]
        arguments = (constants, trials, size)
        with _settings(False):
            own = programs.compile_all(f, setting.layout, setting.names, arguments)
    saved = {
        name: kept
        for name, side in {"f": f, "g": g}.items()
        if side and (kept := _saved(side, setting.layout, trials, constants)) is not None
    }
    return Prepared(setting, wide, own, saved)


def evaluate(
    f: Function, ready: Prepared, constants: list[Any], trials: Trials, signs: list[np.ndarray]
) -> Evidence:
    """Run all that has been compiled, and f itself."""
    setting, wide, compiled, _ = ready
    layout, returned, names, _, lifted = setting
    wide_constants, wide_trials = _lift((constants, trials), setting)
    found = None
    with _settings(lifted):
        wanted, wide_size = wide.reference(wide_constants, wide_trials, signs)
        if wide.rule is not None:
            found = wide.rule(wide_constants, wide_trials, wide_size)
    size = [np.asarray(a, dtype) for a, dtype in zip(wide_size, returned.dtypes, strict=False)]
    with _settings(False):
        plain = programs.plainly(bind(f, layout, constants), names, trials, size)
        own = found if compiled is None else compiled(constants, trials, size)
    assert own is not None
    own = Found(own.results | plain.results, own.errors | plain.errors, own.eps)
    differenced = None
    if wide.differences is not None:
        exact = max((found or own).eps, wanted.eps)
        with _settings(lifted):
            differenced = wide.differences(wide_constants, wide_trials, wide_size, wanted, exact)
        wanted = differenced.wanted
    found = None if compiled is None else found
    return Evidence(layout, returned, names, trials, wanted, own, found, differenced)


def _lift(tree: Any, setting: Setting) -> Any:
    return lift(tree, np.float64) if setting.lifted else tree


def _settings(wide: bool) -> ExitStack:
    """Let products be exact and, for the reference, float64 be float64."""
    stack = ExitStack()
    stack.enter_context(jax.default_matmul_precision("highest"))
    if wide:
        stack.enter_context(jax.enable_x64(True))
        if jax.default_backend() == "tpu":  # which has no float64 of its own
            stack.enter_context(jax.default_device(jax.devices("cpu")[0]))
    return stack


def returned_by(
    f: Function, g: Function | None, layout: Layout, leaves: list[Any], constants: list[Any]
) -> Outputs:
    """Find out what f and g return, and refuse what cannot be compared."""
    ours = outputs(f, layout, leaves, constants)
    if not ours.inexact:
        raise ValueError("audit.compare: `f` must return a floating array; got none.")
    if g is None:
        return ours
    theirs = outputs(g, layout, leaves, constants)
    if (ours.labels, ours.shapes, ours.inexact) != (theirs.labels, theirs.shapes, theirs.inexact):
        said = [f"{one.shapes} in {one.tree}" for one in (ours, theirs)]
        raise ValueError(
            "audit.compare: `f` and `g` must return the same structure and shapes; got "
            f"{said[0]} from f and {said[1]} from g."
        )
    return ours._replace(due=theirs.dtypes)


def _saved(f: Function, layout: Layout, trials: Trials, constants: list[Any]) -> Saved | None:
    """Count what the pull-back of f keeps, without computing it."""
    kept: dict[int, Any] = {}
    leaves = [leaf[0] for leaf in trials.points]

    def run(leaves: list[Any], constants: list[Any]) -> None:
        bound = bind(f, layout, constants)
        pull = jax.vjp(lambda x: bound(x)[: len(trials.v)], leaves)[1]
        kept.update((id(one), one) for one in jax.tree.leaves(pull) if hasattr(one, "dtype"))

    try:
        jax.eval_shape(run, leaves, constants)
    except Exception:  # the rows say what is wrong with it
        return None
    count = sum(one.size * one.dtype.itemsize for one in kept.values())
    given = sum(leaf.nbytes for leaf in (*leaves, *constants) if hasattr(leaf, "nbytes"))
    return Saved(len(kept), count, count / max(given, 1))
