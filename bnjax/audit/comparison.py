"""Hold a function with a hand-written derivative rule to a plain reference."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import numpy as np

from bnjax._errors import unknown_name
from bnjax.audit import derivatives, programs, verdicts
from bnjax.audit.differences import compile_differences
from bnjax.audit.programs import Found, Name
from bnjax.audit.reference import SAMPLES, Wanted, compile_reference
from bnjax.audit.report import Report, Saved
from bnjax.audit.trials import (
    POINTS,
    Layout,
    Outputs,
    Trials,
    bind,
    draw,
    lift,
    outputs,
    read,
)

TOLERANCE = 16.0  # right rules in another order of operations were seen to stay below 3

Function = Callable[..., Any]
Key = Any


def compare(
    f: Function,
    g: Function | None,
    args: Sequence[Any],
    *,
    argnums: int | Sequence[int] | None = None,
    rtol: float | None = None,
    modes: str | Sequence[str] = "all",
    transforms: str | Sequence[str] = "all",
    dtype_reference: str | None = "float64",
    key: Key = None,
    few: int = 32,
    directions: int = 8,
) -> Report:
    """Hold every derivative of `f` to those of `g`, under every transform.

    The reference is evaluated in float64 whatever the arguments' dtype; `f` is evaluated in
    their dtype and, where it takes it, in float64 as well, where an error that half precision
    hides cannot hide. See `make_compare` to compare often.

    Args:
        f: The function with the rule under test: arrays or pytrees in and out.
        g: The same function, plainly written. None: `f` is held to high-order finite differences
            of itself in float64, and to a Taylor test.
        args: A tuple of f's arguments. What is not floating is a constant.
        argnums: The arguments to differentiate by; all floating ones by default.
        rtol: The largest error that agrees, in units of eps · (the size of the result and of the
            terms that cancel); 16 by default.
        modes: "all" or some of "value", "vjp", "jvp", "transposition", "rev-over-rev",
            "fwd-over-rev".
        transforms: "all" or some of "plain", "jit", "vmap", "scan", "remat". The last three are
            asked for value, vjp and jvp, or for vjp alone; the second order runs under jit.
        dtype_reference: "float64"; None for the arguments' own dtype, which is faster and
            measures errors by the result alone.
        key: What directions are drawn from: a key of `jax.random`, or a number; 0 by default.
        few: Up to so many output numbers the pull-back is compared along every axis, and up to
            so many argument numbers the push-forward.
        directions: How many random directions are tried where there are more.

    Returns:
        The `Report`.

    Raises:
        TypeError: `args` is no tuple, or a leaf to be differentiated is complex.
        ValueError: A name is unknown, nothing can be differentiated, `f` and `g` return different
            structures, or `g` cannot be differentiated.

    Example:
        >>> @jax.custom_vjp
        ... def square(x):
        ...     return x**2
        >>> square.defvjp(lambda x: (x**2, x), lambda x, y_bar: (1.999 * x * y_bar,))
        >>> report = compare(square, lambda x: x**2, (jnp.array([1.0, 3.0], jnp.bfloat16),))
        >>> print(report.ok, report.worst.why)
        False off by a factor of 0.9995
    """
    run = make_compare(
        f,
        g,
        argnums=argnums,
        rtol=rtol,
        modes=modes,
        transforms=transforms,
        dtype_reference=dtype_reference,
        few=few,
        directions=directions,
    )
    return run(args, key=key)


def assert_gradients_match(
    f: Function, g: Function | None, args: Sequence[Any], **options: Any
) -> Report:
    """Compare, and raise where the rule is wrong: for tests.

    Args:
        f: The function with the rule under test.
        g: The reference, or None.
        args: A tuple of f's arguments.
        options: As for `compare`.

    Returns:
        The `Report`.

    Raises:
        AssertionError: A comparison failed: the worst leaf, both values, the likely kind of
            error, and the key that repeats it.

    Example:
        >>> report = assert_gradients_match(jax.nn.relu, None, (jnp.array([-1.0, 2.0]),))
        >>> print(report.ok)
        True
    """
    report = compare(f, g, args, **options)
    report.raise_if_failed()
    return report


def make_compare(
    f: Function,
    g: Function | None = None,
    *,
    argnums: int | Sequence[int] | None = None,
    rtol: float | None = None,
    modes: str | Sequence[str] = "all",
    transforms: str | Sequence[str] = "all",
    dtype_reference: str | None = "float64",
    few: int = 32,
    directions: int = 8,
) -> Callable[..., Report]:
    """Make the comparison of two functions, to be run on many arguments.

    Args:
        f: The function with the rule under test.
        g: The reference, or None.
        argnums: As for `compare`, and so are all the others.
        rtol: The largest error that agrees.
        modes: The modes.
        transforms: The transforms.
        dtype_reference: The reference's dtype, or None.
        few: How many axes are tried at most.
        directions: How many random directions are tried where there are more.

    Returns:
        run(args, *, key=None) -> `Report`. What it compiles it keeps for arguments of the same
        structure, shapes and dtypes: what `f` and `g` close over must not change.

    Raises:
        ValueError: A name is unknown.

    Example:
        >>> run = make_compare(jnp.tanh, lambda x: 2 / (1 + jnp.exp(-2 * x)) - 1)
        >>> print([run((jnp.array([x]),)).ok for x in (0.5, -1.0)])
        [True, True]
    """
    chosen = _choose("modes", modes, derivatives.ALL)
    under = _choose("transforms", transforms, programs.ALL)
    if dtype_reference not in ("float64", None):
        raise ValueError(
            "audit.compare: `dtype_reference` must be 'float64' or None, which stands for the "
            f"arguments' own; got {dtype_reference!r}."
        )
    points = POINTS if {"vmap", "scan", "remat"} & set(under) else 1
    prepared: dict[Any, _Prepared] = {}

    def run(args: Sequence[Any], *, key: Key = None) -> Report:
        layout, leaves, constants = read("audit.compare", f, args, argnums)
        rng, repeat = _generator(key)
        signature = (layout, *_signature(leaves), *_signature(constants), jax.config.jax_enable_x64)
        returned = prepared[signature].returned if signature in prepared else None
        returned = returned or _returned(f, g, layout, leaves, constants)
        trials = draw(leaves, returned, few=few, random=directions, points=points, rng=rng)
        if signature not in prepared:
            names = programs.asked(chosen, under)
            setting = _Setting(layout, returned, names, few, dtype_reference is not None)
            prepared[signature] = _prepare(f, g, setting, constants, trials)
        signs = [
            np.where(rng.random((SAMPLES, *leaf.shape)) < 0.5, -1.0, 1.0) for leaf in trials.points
        ]
        ready = prepared[signature]
        rows, notes = verdicts.rows(
            _evaluate(f, ready, constants, trials, signs),
            chosen,
            TOLERANCE if rtol is None else rtol,
        )
        return Report(
            tuple(rows),
            ready.saved,
            TOLERANCE if rtol is None else rtol,
            _tried(leaves, returned, trials, few),
            repeat,
            tuple(notes),
            _name(f),
        )

    return run


class _Setting(NamedTuple):
    """What is known before anything is computed."""

    layout: Layout
    returned: Outputs
    names: tuple[Name, ...]
    few: int
    lifted: bool  # whether the reference is evaluated in float64


class _Prepared(NamedTuple):
    """What has been compiled for arguments of one kind."""

    setting: _Setting
    returned: Outputs
    reference: Callable[..., tuple[Wanted, list[Any]]]
    own: Callable[..., Found]
    wide: Callable[..., Found] | None
    differences: Callable[..., Any] | None
    saved: dict[str, Saved]


def _prepare(
    f: Function, g: Function | None, setting: _Setting, constants: list[Any], trials: Trials
) -> _Prepared:
    """Compile the reference, the rule in its own dtype and in float64, and the differences."""
    layout, returned, names, few, lifted = setting
    needed = tuple(dict.fromkeys(("value", *(mode for mode, _ in names))))
    size = [np.ones((), dtype) for dtype in returned.dtypes[: returned.inexact]]
    own_arguments = (constants, trials, size)
    wide_arguments = lift(own_arguments, np.float64) if lifted else own_arguments
    with _settings(lifted):
        reference = compile_reference(g or f, layout, needed, wide_arguments, terms=lifted)
        differences = None
        if g is None:
            differences = compile_differences(f, layout, needed, wide_arguments, few=few)
    same = not lifted or all(a.dtype == np.float64 for a in (*trials.points, *trials.v))
    with _settings(False):
        own = programs.compile_all(f, layout, names, own_arguments, quick=False)
    wide = None
    if not same:
        with _settings(True):
            wide = programs.compile_all(f, layout, names, wide_arguments, quick=True)
    sides = {"f": f, "g": g}
    saved = {
        name: kept
        for name, side in sides.items()
        if side and (kept := _saved(side, layout, trials, constants)) is not None
    }
    return _Prepared(setting, returned, reference, own, wide, differences, saved)


def _evaluate(
    f: Function, ready: _Prepared, constants: list[Any], trials: Trials, signs: list[np.ndarray]
) -> verdicts.Evidence:
    """Run all that has been compiled, and f itself."""
    setting = ready.setting
    wide_trials = lift(trials, np.float64) if setting.lifted else trials
    wide_constants = lift(constants, np.float64) if setting.lifted else constants
    with _settings(setting.lifted):
        wanted, wide_size = ready.reference(wide_constants, wide_trials, signs)
    size = [
        np.asarray(a, dtype) for a, dtype in zip(wide_size, ready.returned.dtypes, strict=False)
    ]
    with _settings(False):
        own = ready.own(constants, trials, size)
        plain = programs.plainly(bind(f, setting.layout, constants), setting.names, trials, size)
    own = Found(own.results | plain.results, own.errors | plain.errors, own.eps)
    wide = None
    if ready.wide is not None:
        with _settings(True):
            wide = ready.wide(wide_constants, wide_trials, wide_size)
    differenced = None
    if ready.differences is not None:
        exact = max((wide or own).eps, wanted.eps)
        with _settings(setting.lifted):
            differenced = ready.differences(wide_constants, wide_trials, wide_size, wanted, exact)
        wanted = differenced.wanted
    return verdicts.Evidence(
        setting.layout, ready.returned, setting.names, trials, wanted, own, wide, differenced
    )


def _settings(wide: bool) -> ExitStack:
    """Let products be exact and, for the reference, float64 be float64."""
    stack = ExitStack()
    stack.enter_context(jax.default_matmul_precision("highest"))
    if wide:
        stack.enter_context(jax.enable_x64(True))
        if jax.default_backend() == "tpu":  # which has no float64 of its own
            stack.enter_context(jax.default_device(jax.devices("cpu")[0]))
    return stack


def _choose(argument: str, names: str | Sequence[str], valid: tuple[str, ...]) -> tuple[str, ...]:
    if names == "all":
        return valid
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in valid:
            raise ValueError(unknown_name("audit.compare", argument, name, ("all", *valid)))
    if not names:
        raise ValueError(f"audit.compare: `{argument}` must name at least one; got none.")
    return tuple(name for name in valid if name in names)


def _returned(
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


def _signature(leaves: Sequence[Any]) -> list[Any]:
    return [(leaf.shape, str(leaf.dtype)) for leaf in leaves]


def _generator(key: Key) -> tuple[np.random.Generator, str]:
    """Make NumPy's generator of a key, and the words that repeat it."""
    if key is None or isinstance(key, (int, np.integer)):
        return np.random.default_rng([0, int(key or 0)]), f"key={int(key or 0)}"
    typed = jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    data = np.asarray(jax.random.key_data(key) if typed else key).ravel().tolist()
    said = f"jax.random.key({data[1]})" if len(data) == 2 and not data[0] else f"<key {data}>"
    return np.random.default_rng(data), f"key={said}"


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


def _tried(leaves: list[Any], returned: Outputs, trials: Trials, few: int) -> str:
    sizes = {
        "cotangents": sum(int(np.prod(s)) for s in returned.shapes[: returned.inexact]),
        "tangents": sum(leaf.size for leaf in leaves),
    }
    return ", ".join(
        f"all {size} {name}" if size <= few else f"{trials.at.size} random of {size} {name}"
        for name, size in sizes.items()
    )


def _name(f: Function) -> str:
    return getattr(f, "__name__", None) or type(f).__name__
