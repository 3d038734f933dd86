"""How each mode is evaluated under each of JAX's transforms.

plain   as the function stands, operation by operation
jit     every trial, compiled
vmap    over stacked points and directions; and the vjp over cotangents or the jvp over tangents
        at one point, as `jax.jacrev` and `jax.jacfwd` do
scan    the gradient of a scan over the points
remat   the vjp through `jax.checkpoint`
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from bnjax.audit.derivatives import (
    MODES,
    SECOND_ORDER,
    FlatFunction,
    dot,
    evaluate_mode,
    evaluate_vjp,
)
from bnjax.audit.trials import Trials

TRANSFORMS = ("plain", "jit", "vmap", "scan", "remat")
# "plain" and "jit" run every mode, the others these
_MODES_UNDER = {"vmap": ("value", "vjp", "jvp"), "scan": ("vjp",), "remat": ("vjp",)}

ProgramName = tuple[str, str]  # mode, transform


def select_programs(modes: Iterable[str], transforms: Sequence[str]) -> tuple[ProgramName, ...]:
    """List which mode has to be run under which transform.

    The second order, and the vjp and jvp that the transposition needs, run once: under jit, or
    plain without it.
    """
    once = next((t for t in ("jit", "plain") if t in transforms), None)
    names = []
    for mode in modes:
        if mode in ("transposition", *SECOND_ORDER):
            needed = ("vjp", "jvp") if mode == "transposition" else (mode,)
            names += [(one, once) for one in needed if once is not None]
        else:
            names += [(mode, t) for t in transforms if mode in _MODES_UNDER.get(t, MODES)]
    return tuple(dict.fromkeys(names))


def trial_indices(name: ProgramName, at: np.ndarray) -> np.ndarray:
    """Return the trials that a program evaluates, in the order of its results.

    Args:
        name: Mode and transform.
        at: The index of each trial's point, (T,).
    """
    mode, transform = name
    points, given = np.arange(np.unique(at).size), np.flatnonzero(at == 0)
    if transform == "jit":
        return np.arange(at.size)
    if transform == "plain":
        return given if mode == "vjp" else given[:1]
    if transform == "vmap" and mode != "value":
        return np.concatenate([points, given])
    return points


def evaluate_under(
    name: ProgramName, f: FlatFunction, trials: Trials, scales: list[Array]
) -> list[Array]:
    """Evaluate one mode under one transform other than "plain"; traceable.

    Args:
        name: Mode and transform.
        f: The function of the differentiated leaves.
        trials: The trials, traced.
        scales: The size of each floating output.

    Returns:
        One array per leaf, (`trial_indices`, *shape).
    """
    mode, transform = name
    if transform == "jit":
        return _under_jit(mode, f, trials, scales)
    if transform == "vmap":
        return _under_vmap(mode, f, trials, scales)
    if transform == "scan":
        return _under_scan(f, trials)
    return _under_remat(f, trials)


def _under_jit(mode: str, f: FlatFunction, trials: Trials, scales: list[Array]) -> list[Array]:
    points, at, v, u = trials

    def one(trial: Any) -> list[Array]:
        i, v, u = trial
        return evaluate_mode(mode, f, [leaf[i] for leaf in points], v, u, scales)

    return lax.map(one, (at, v, u))


def _under_vmap(mode: str, f: FlatFunction, trials: Trials, scales: list[Array]) -> list[Array]:
    points, at, v, u = trials
    count = points[0].shape[0]

    def one(x: Any, v: Any, u: Any) -> list[Array]:
        return evaluate_mode(mode, f, x, v, u, scales)

    at_points = jax.vmap(one)(*_at_own_points(trials))
    if mode == "value":
        return at_points
    x = [leaf[0] for leaf in points]
    given = np.array([0, *np.flatnonzero(np.arange(at.shape[0]) >= count)])
    if mode == "vjp":
        at_given = jax.vmap(lambda v: evaluate_vjp(f, x, v))([a[given] for a in v])
    else:
        at_given = jax.vmap(lambda u: one(x, [a[0] for a in v], u))([a[given] for a in u])
    return [jnp.concatenate(pair) for pair in zip(at_points, at_given, strict=True)]


def _under_scan(f: FlatFunction, trials: Trials) -> list[Array]:
    points, v, _ = _at_own_points(trials)

    def step(total: Array, row: Any) -> tuple[Array, None]:
        x, v = row
        return total + dot(v, f(x)[: len(v)]), None

    def summed(points: list[Array]) -> Array:
        return lax.scan(step, jnp.zeros_like(dot(v, v)), (points, v))[0]

    return jax.grad(summed)(points)


def _under_remat(f: FlatFunction, trials: Trials) -> list[Array]:
    points, v, _ = _at_own_points(trials)
    recomputed = jax.checkpoint(f)
    return lax.map(lambda row: evaluate_vjp(recomputed, *row), (points, v))


def _at_own_points(trials: Trials) -> tuple[list[Array], list[Array], list[Array]]:
    """Return (points, v, u) of the first trials, each of which is at a point of its own."""
    points, _, v, u = trials
    count = points[0].shape[0]
    return points, [a[:count] for a in v], [a[:count] for a in u]
