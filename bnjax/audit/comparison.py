"""Compare a function that has a hand-written derivative rule with a plain reference."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnjax._checks import unknown_name
from bnjax.audit.arguments import OutputLayout, flatten_arguments
from bnjax.audit.cache import ProgramCache, argument_kind
from bnjax.audit.derivatives import MODES
from bnjax.audit.evaluation import Function, run_comparison
from bnjax.audit.reference import draw_signs
from bnjax.audit.report import Report
from bnjax.audit.transforms import TRANSFORMS, select_programs
from bnjax.audit.trials import POINTS, Trials, draw_trials
from bnjax.audit.verdicts import judge_all

DEFAULT_RTOL = 16.0  # correct rules that order their operations differently stay below 3

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
    allow_coarse_derivatives: bool = False,
    key: Key = None,
    few: int = 32,
    directions: int = 8,
) -> Report:
    """Compare the value and every derivative of `f` with those of `g`, under every transform.

    The reference is evaluated in float64 whatever the dtype of the arguments. `f` is evaluated in
    their dtype and, if it accepts float64, in float64 as well, where no error can hide behind the
    rounding of half precision. Random numbers in `f` must therefore be drawn in a fixed dtype, or
    come in as an argument. To compare two functions often, use `make_compare`.

    `f` and `g` are traced with `jax.default_matmul_precision("highest")`: the faster products that
    are the default on accelerators (TF32, bfloat16) are no error of a rule. A `precision=` that f
    sets itself stands, and so do its errors.

    Args:
        f: The function whose derivative rule is tested; takes and returns arrays or pytrees.
        g: The same function without a rule, in plain JAX operations. None: `f` is compared with
            high-order finite differences of itself in float64, and put through a Taylor test.
        args: A tuple of f's arguments. Leaves that are not floating are constants.
        argnums: The positions of the arguments to differentiate with respect to; by default, of
            all that hold floating arrays.
        rtol: The largest error that agrees, in units of eps times the size of the result or, if
            larger, of the terms that cancel; 16 by default.
        modes: "all" or some of "value", "vjp", "jvp", "transposition", "rev-over-rev",
            "fwd-over-rev".
        transforms: "all" or some of "plain", "jit", "vmap", "scan", "remat". vmap runs value, vjp
            and jvp, scan and remat run vjp; the second order runs once, under jit if that is among
            them.
        dtype_reference: "float64"; None for the arguments' own dtype, which is faster, and
            measures errors by the size of the result alone.
        allow_coarse_derivatives: Whether derivatives may be computed in a coarser dtype than the
            value. A function that computes with bfloat16 inside is judged by the epsilon of
            bfloat16, its derivatives by default only if its value is no more exact than that.
        key: The key that random directions are drawn from: a key of `jax.random` or an integer;
            0 by default.
        few: Up to this many output elements, the vjp is compared along every axis, and up to this
            many argument elements the jvp.
        directions: The number of random directions where there are more elements.

    Returns:
        The `Report`.

    Raises:
        TypeError: `args` is not a tuple or list, or a leaf to be differentiated is complex.
        ValueError: A name is unknown, there is nothing to differentiate or to return, or nothing
            but empty arrays, `f` and `g` return different structures or shapes, or `g` cannot be
            differentiated.

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
        allow_coarse_derivatives=allow_coarse_derivatives,
        few=few,
        directions=directions,
    )
    return run(args, key=key)


def assert_gradients_match(
    f: Function, g: Function | None, args: Sequence[Any], **options: Any
) -> Report:
    """Compare `f` with `g`, and raise an error if the derivatives of `f` are wrong: for tests.

    Args:
        f: The function whose derivative rule is tested.
        g: The reference, or None.
        args: A tuple of f's arguments.
        options: As for `compare`.

    Returns:
        The `Report`.

    Raises:
        AssertionError: A comparison failed. The message holds the worst leaf, both numbers, the
            likely mistake and the key that reproduces it.

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
    allow_coarse_derivatives: bool = False,
    few: int = 32,
    directions: int = 8,
) -> Callable[..., Report]:
    """Build a function that compares `f` with `g` for any arguments, and compiles only once.

    Args:
        f: The function whose derivative rule is tested.
        g: The reference, or None.
        argnums: As for `compare`, like all that follow.
        rtol: The largest error that agrees.
        modes: The modes.
        transforms: The transforms.
        dtype_reference: The dtype of the reference, or None.
        allow_coarse_derivatives: Whether derivatives may be coarser than the value.
        few: Up to this many elements, every axis is tried.
        directions: The number of random directions where there are more elements.

    Returns:
        run(args, *, key=None) -> `Report`. It keeps what it compiles for arguments of the same
        structure, shapes and dtypes, and the float64 part for all dtypes. What `f` and `g` close
        over must not change between calls.

    Raises:
        ValueError: A name is unknown, or `rtol` is not positive.

    Example:
        >>> run = make_compare(jnp.tanh, lambda x: 2 / (1 + jnp.exp(-2 * x)) - 1, modes="jvp")
        >>> print([run((jnp.array([x]),)).ok for x in (0.5, -1.0)])
        [True, True]
    """
    modes = _choose("modes", modes, MODES)
    transforms = _choose("transforms", transforms, TRANSFORMS)
    if dtype_reference not in ("float64", None):
        raise ValueError(
            "audit.compare: `dtype_reference` must be 'float64', or None for the dtype of the "
            f"arguments; got {dtype_reference!r}."
        )
    tolerance = DEFAULT_RTOL if rtol is None else rtol
    if not tolerance > 0:
        raise ValueError(f"audit.compare: `rtol` must be positive, in units of eps; got {rtol!r}.")
    names = select_programs(modes, transforms)
    cache = ProgramCache(f, g, names, few=few, in_float64=dtype_reference is not None)
    points = POINTS if {"vmap", "scan", "remat"} & set(transforms) else 1

    def run(args: Sequence[Any], *, key: Key = None) -> Report:
        layout, leaves, constants = flatten_arguments("audit.compare", f, args, argnums)
        rng, key_text = _generator(key)
        kind = argument_kind(layout, leaves, constants)
        # by default an accelerator rounds the factors of products: that is no error of a rule;
        # and what is compiled ahead cannot run while JAX is told not to compile
        with jax.default_matmul_precision("highest"), jax.disable_jit(False):
            outputs = cache.outputs(kind, leaves, constants)
            trials = draw_trials(
                leaves, outputs, few=few, random=directions, points=points, rng=rng
            )
            signs = draw_signs(trials, rng)
            programs = cache.programs(kind, constants, trials)
            found = run_comparison(f, programs, constants, trials, signs, tolerance)
        rows, notes = judge_all(found, modes, tolerance, allow_coarse_derivatives)
        tried = _describe_directions(leaves, outputs, trials, few)
        name = getattr(f, "__name__", None) or type(f).__name__
        return Report(tuple(rows), programs.saved, tolerance, tried, key_text, tuple(notes), name)

    return run


def _choose(argument: str, names: str | Sequence[str], valid: tuple[str, ...]) -> tuple[str, ...]:
    """Check names; return them in the order of `valid`."""
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
    """Return NumPy's generator for a key, and the argument that reproduces it, in words."""
    if key is None or isinstance(key, (int, np.integer)):
        return np.random.default_rng([0, int(key or 0)]), f"key={int(key or 0)}"
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    data = np.asarray(jax.random.key_data(key) if typed else key).ravel().tolist()
    text = f"jax.random.key({data[1]})" if len(data) == 2 and not data[0] else f"<key {data}>"
    return np.random.default_rng(data), f"key={text}"


def _describe_directions(leaves: list[Any], outputs: OutputLayout, trials: Trials, few: int) -> str:
    sizes = {
        "cotangents": sum(int(np.prod(s)) for s in outputs.shapes[: outputs.floating]),
        "tangents": sum(leaf.size for leaf in leaves),
    }
    return ", ".join(
        f"all {size} {name}" if size <= few else f"{trials.at.size} random of {size} {name}"
        for name, size in sizes.items()
    )
