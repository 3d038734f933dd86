"""Hold a function with a hand-written derivative rule to a plain reference."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnjax._checks import unknown_name
from bnjax.audit import derivatives, programs, verdicts
from bnjax.audit.evaluation import (
    Function,
    Prepared,
    Setting,
    Wide,
    evaluate,
    prepare,
    prepare_wide,
    returned_by,
)
from bnjax.audit.reference import SAMPLES
from bnjax.audit.report import Report
from bnjax.audit.trials import POINTS, Outputs, Trials, draw, read

TOLERANCE = 16.0  # right rules in another order of operations were seen to stay below 3

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
    hides cannot hide. So what is random in `f` must be drawn in a dtype of its own, or come as an
    argument. See `make_compare` to compare often.

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
        >>> x = jnp.array([1.0, 3.0], jnp.bfloat16)
        >>> report = compare(square, lambda x: x**2, (x,), modes=("value", "vjp"))
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
        >>> x = (jnp.array([-1.0, 2.0]),)
        >>> report = assert_gradients_match(jax.nn.relu, None, x, modes="vjp", transforms="jit")
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
        structure, shapes and dtypes; the float64 part for all dtypes. What `f` and `g` close over
        must not change.

    Raises:
        ValueError: A name is unknown, or `rtol` not positive.

    Example:
        >>> run = make_compare(jnp.tanh, lambda x: 2 / (1 + jnp.exp(-2 * x)) - 1, modes="jvp")
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
    tolerance = TOLERANCE if rtol is None else rtol
    if not tolerance > 0:
        raise ValueError(f"audit.compare: `rtol` must be positive, in units of eps; got {rtol!r}.")
    points = POINTS if {"vmap", "scan", "remat"} & set(under) else 1
    prepared: dict[Any, Prepared] = {}
    wides: dict[Any, Wide] = {}

    def run(args: Sequence[Any], *, key: Key = None) -> Report:
        layout, leaves, constants = read("audit.compare", f, args, argnums)
        rng, repeat = _generator(key)
        shapes = layout, *(np.shape(leaf) for leaf in (*leaves, *constants))
        dtypes = tuple(leaf.dtype for leaf in (*leaves, *constants))
        signature = shapes, dtypes, jnp.result_type(float)
        returned = prepared[signature].setting.returned if signature in prepared else None
        returned = returned or returned_by(f, g, layout, leaves, constants)
        trials = draw(leaves, returned, few=few, random=directions, points=points, rng=rng)
        if signature not in prepared:
            names = programs.asked(chosen, under)
            setting = Setting(layout, returned, names, few, dtype_reference is not None)
            exact = [dtype for dtype in dtypes if not jnp.issubdtype(dtype, jnp.floating)]
            alike = (shapes, *exact) if setting.lifted else signature
            if alike not in wides:
                wides[alike] = prepare_wide(f, g, setting, constants, trials)
            prepared[signature] = prepare(f, g, setting, wides[alike], constants, trials)
        signs = [
            np.where(rng.random((SAMPLES, *leaf.shape)) < 0.5, -1.0, 1.0) for leaf in trials.points
        ]
        ready = prepared[signature]
        rows, notes = verdicts.rows(evaluate(f, ready, constants, trials, signs), chosen, tolerance)
        return Report(
            tuple(rows),
            ready.saved,
            tolerance,
            _tried(leaves, returned, trials, few),
            repeat,
            tuple(notes),
            _name(f),
        )

    return run


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


def _generator(key: Key) -> tuple[np.random.Generator, str]:
    """Make NumPy's generator of a key, and the words that repeat it."""
    if key is None or isinstance(key, (int, np.integer)):
        return np.random.default_rng([0, int(key or 0)]), f"key={int(key or 0)}"
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    data = np.asarray(jax.random.key_data(key) if typed else key).ravel().tolist()
    said = f"jax.random.key({data[1]})" if len(data) == 2 and not data[0] else f"<key {data}>"
    return np.random.default_rng(data), f"key={said}"


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
