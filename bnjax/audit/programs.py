"""The same quantities under JAX's transforms, gathered in one program to be compiled once.

plain   as the function stands, operation by operation
jit     every trial, compiled (all that is compiled is so without the backend's optimizations)
vmap    over stacked points and directions; and the pull-back alone over stacked cotangents
scan    the gradient of a scan over the points
remat   the pull-back through `jax.checkpoint`

A mode that raises under a transform is noted with its error, and the others go on.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from bnjax.audit import derivatives
from bnjax.audit.rounding import narrowest
from bnjax.audit.trials import Layout, Trials, bind

ALL = ("plain", "jit", "vmap", "scan", "remat")
# what each one is asked for; "jit" and "plain" everything
_ASKED = {"vmap": ("value", "vjp", "jvp"), "scan": ("vjp",), "remat": ("vjp",)}

Name = tuple[str, str]  # mode, transform


class Found(NamedTuple):
    """Results by (mode, transform), errors by the same, and the epsilon f computes with."""

    results: dict[Name, list[Any]]
    errors: dict[Name, Exception]
    eps: float


def asked(wanted: Iterable[str], transforms: Sequence[str]) -> tuple[Name, ...]:
    """List which modes are run under which transforms.

    The second order and both halves of the transposition run once: compiled, else plainly.
    """
    once = next((t for t in ("jit", "plain") if t in transforms), None)
    names = []
    for mode in wanted:
        if mode in ("transposition", *derivatives.SECOND):
            halves = ("vjp", "jvp") if mode == "transposition" else (mode,)
            names += [(half, once) for half in halves if once is not None]
        else:
            names += [(mode, t) for t in transforms if mode in _ASKED.get(t, derivatives.ALL)]
    return tuple(dict.fromkeys(names))


def tried(name: Name, at: np.ndarray) -> np.ndarray:
    """Tell which trials a mode runs under a transform, in the order of its results."""
    mode, transform = name
    points, here = np.arange(np.unique(at).size), np.flatnonzero(at == 0)
    if transform == "jit":
        return np.arange(at.size)
    if transform == "plain":
        return here if mode == "vjp" else here[:1]
    if transform == "vmap" and mode != "value":
        return np.concatenate([points, here])
    return points


def plainly(
    f: derivatives.Function, names: Sequence[Name], trials: Trials, size: list[Any]
) -> Found:
    """Evaluate without compiling, at the given point; forward modes along one direction."""
    results: dict[Name, list[Any]] = {}
    errors: dict[Name, Exception] = {}
    x = [jnp.asarray(leaf[0]) for leaf in trials.points]

    def trial(t: int) -> tuple[list[Array], list[Array]]:
        return [jnp.asarray(a[t]) for a in trials.v], [jnp.asarray(a[t]) for a in trials.u]

    for mode, transform in names:
        if transform != "plain":
            continue
        try:
            if mode == "vjp":
                y, pull = jax.vjp(lambda x: f(x)[: len(trials.v)], x)
                bars = (trial(t)[0] for t in tried((mode, transform), trials.at))
                rows = [
                    pull([bar.astype(a.dtype) for a, bar in zip(y, v, strict=True)])[0]
                    for v in bars
                ]
            else:
                rows = [derivatives.evaluate(mode, f, x, *trial(0), size)]
            results[mode, transform] = [np.stack(leaf) for leaf in zip(*rows, strict=True)]
        except Exception as error:  # whatever a rule raises is what is to be reported
            errors[mode, transform] = error
    return Found(results, errors, 0.0)


def program(
    f: Callable[..., Any], layout: Layout, names: Sequence[Name], errors: dict[Name, Exception]
) -> Callable[..., dict[Name, list[Array]]]:
    """Make the function that evaluates all that is compiled: to be traced once."""

    def run(constants: list[Any], trials: Trials, size: list[Any]) -> dict[Name, list[Array]]:
        points, at, v, u = trials
        bound = bind(f, layout, constants)
        count = points[0].shape[0]
        here = np.flatnonzero(np.arange(at.shape[0]) >= count)
        dense = (points, [a[:count] for a in v], [a[:count] for a in u])
        results: dict[Name, list[Array]] = {}

        def under(name: Name, compute: Callable[[], list[Array]]) -> None:
            try:
                results[name] = compute()
            except Exception as error:  # whatever a rule raises is what is to be reported
                errors[name] = error

        def mapped(mode: str) -> list[Array]:
            def one(trial: Any) -> list[Array]:
                i, v, u = trial
                return derivatives.evaluate(mode, bound, [leaf[i] for leaf in points], v, u, size)

            return lax.map(one, (at, v, u))

        def vmapped(mode: str) -> list[Array]:
            def one(x: Any, v: Any, u: Any) -> list[Array]:
                return derivatives.evaluate(mode, bound, x, v, u, size)

            first = jax.vmap(one)(*dense)
            x, rest = [leaf[0] for leaf in points], np.array([0, *here])
            if mode == "vjp":  # as jacrev does
                more = jax.vmap(lambda v: derivatives.pull_back(bound, x, v))([a[rest] for a in v])
            elif mode == "jvp":  # as jacfwd does
                more = jax.vmap(lambda u: one(x, [a[0] for a in v], u))([a[rest] for a in u])
            else:
                return first
            return [jnp.concatenate(pair) for pair in zip(first, more, strict=True)]

        def scanned() -> list[Array]:
            def total(points: list[Array]) -> Array:
                def step(sum_: Array, row: Any) -> tuple[Array, None]:
                    return sum_ + derivatives.dot(row[1], bound(row[0])[: len(v)]), None

                start = jnp.zeros_like(derivatives.dot(v, v))
                return lax.scan(step, start, (points, dense[1]))[0]

            return jax.grad(total)(points)

        def rematerialized() -> list[Array]:
            again = jax.checkpoint(bound)
            return lax.map(lambda row: derivatives.pull_back(again, *row), dense[:2])

        ways = {
            "jit": mapped,
            "vmap": vmapped,
            "scan": lambda _: scanned(),
            "remat": lambda _: rematerialized(),
        }
        for mode, transform in names:
            if transform != "plain":
                under((mode, transform), lambda: ways[transform](mode))  # noqa: B023
        return results

    return run


def compile_all(
    f: Callable[..., Any], layout: Layout, names: Sequence[Name], arguments: Any
) -> Callable[..., Found]:
    """Trace and compile everything at once, or each by itself where one spoils the rest.

    Args:
        f: The function with the rule.
        layout: The layout of its arguments.
        names: What to evaluate.
        arguments: (constants, trials, size), for their shapes and dtypes.

    Returns:
        run(constants, trials, size) -> `Found`.
    """
    compiled = [name for name in names if name[1] != "plain"]
    errors: dict[Name, Exception] = {}
    stopped = without_forward(f, layout, [mode for mode, _ in compiled], *arguments)
    errors |= {name: stopped[name[0]] for name in compiled if name[0] in stopped}
    compiled = [name for name in compiled if name not in errors]
    if not compiled:
        return lambda *_: Found({}, errors, 0.0)
    try:
        lowered, eps = _lower(f, layout, compiled, arguments, errors)
        run = lowered.compile(options())
        run(*arguments)  # what a leaked tracer spoils may fail only here
    except Exception as error:
        if len(compiled) == 1:
            errors[compiled[0]] = error
            return lambda *_: Found({}, errors, 0.0)
        alone = [compile_all(f, layout, [name], arguments) for name in compiled]
        return lambda *arguments: _merge(
            [Found({}, errors, 0.0), *(one(*arguments) for one in alone)]
        )
    return lambda *arguments: Found(jax.tree.map(np.asarray, run(*arguments)), errors, eps)


_FORWARD = ("jvp", "fwd-over-rev")


def without_forward(
    f: Callable[..., Any],
    layout: Layout,
    wanted: Iterable[str],
    constants: list[Any],
    trials: Trials,
    size: list[Any],
) -> dict[str, Exception]:
    """Find the forward modes that f has not, and what it raises.

    A custom_vjp refuses tangents only when the program is lowered, and all else with them.
    """
    errors: dict[str, Exception] = {}
    for mode in _FORWARD:
        if mode in wanted:
            failed: dict[Name, Exception] = {}
            try:
                _lower(f, layout, [(mode, "jit")], (constants, trials, size), failed)
            except Exception as error:
                errors[mode] = error
            else:
                errors |= {name: error for (name, _), error in failed.items()}
    return errors


def _lower(
    f: Callable[..., Any],
    layout: Layout,
    names: Sequence[Name],
    arguments: Any,
    errors: dict[Name, Exception],
) -> tuple[Any, float]:
    traced = jax.jit(program(f, layout, names, errors)).trace(*arguments)
    return traced.lower(), narrowest(traced.jaxpr)


def options() -> dict[str, Any] | None:
    """Choose the compiler's options: what runs once need not be fast, and compiles in half."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None


def _merge(all_of: Sequence[Found]) -> Found:
    results = {name: found for one in all_of for name, found in one.results.items()}
    errors = {name: error for one in all_of for name, error in one.errors.items()}
    return Found(results, errors, max(one.eps for one in all_of))
