"""What the rule is held to: a plain function's derivatives in float64, and how exact they can be.

Beside each number stands the size of the terms that cancelled on the way to it (see `rounding`):
the reference is run again at arguments that are off by a relative 2⁻³⁶, every result rounded to as
many digits, and what that moves a number by is divided by 2⁻³⁶.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend import core

from bnjax.audit import derivatives
from bnjax.audit.programs import options, without_forward
from bnjax.audit.rounding import UNIT, narrowest, rounded
from bnjax.audit.trials import Layout, Trials, bind

SAMPLES = 4


class Wanted(NamedTuple):
    """The right numbers of each mode, per leaf (T, *shape), and the terms behind them.

    Attributes:
        values: The numbers themselves.
        terms: The size of the terms that cancelled, in the same units.
        slack: How far off the numbers themselves may be; infinite where they cannot be known.
        errors: What the reference raised.
        eps: The coarsest epsilon that it computes with.
    """

    values: dict[str, list[Any]]
    terms: dict[str, list[Any]]
    slack: dict[str, list[Any]]
    errors: dict[str, Exception]
    eps: float


def compile_reference(
    g: Callable[..., Any], layout: Layout, wanted: Sequence[str], arguments: Any, *, terms: bool
) -> Callable[..., tuple[Wanted, list[Any]]]:
    """Compile the reference once.

    Args:
        g: The reference.
        layout: The layout of its arguments.
        wanted: The modes.
        arguments: (constants, trials, size), for their shapes and dtypes.
        terms: Whether to find the terms that cancel, too.

    Returns:
        run(constants, trials, signs) -> what is wanted, and the size of each output. `signs`
        has one array (SAMPLES, POINTS, *shape) of ±1 for each differentiated leaf.
    """
    errors = without_forward(g, layout, wanted, *arguments)
    wanted = [mode for mode in wanted if mode not in errors]
    signs = [np.ones((SAMPLES, *leaf.shape), leaf.dtype) for leaf in arguments[1].points]

    def run(constants: list[Any], trials: Trials, signs: list[Any]) -> Any:
        points, at, v, u = trials
        bound = bind(g, layout, constants)
        size = [jnp.ones((), a.dtype) for a in v]
        if set(wanted) & set(derivatives.SECOND):
            size = [_size(y) for y in bound([leaf[0] for leaf in points])[: len(v)]]

        def trial(x: Any, v: Any, u: Any) -> dict[str, list[Array]]:
            found = {}
            for mode in wanted:
                try:
                    found[mode] = derivatives.evaluate(mode, bound, x, v, u, size)
                except Exception as error:  # it may have no such mode
                    errors[mode] = error
            return found

        first = jax.tree.map(lambda a: a[0], (points, v, u))
        traced, shape = jax.make_jaxpr(trial, return_shape=True)(*first)
        tree = jax.tree.structure(shape)

        def everywhere(compute: Callable[..., list[Array]], points: list[Array]) -> list[Array]:
            def one(row: Any) -> list[Array]:
                i, v, u = row
                return compute(*jax.tree.leaves(([leaf[i] for leaf in points], v, u)))

            return lax.map(one, (at, v, u))

        exact = everywhere(core.jaxpr_as_fun(traced), points)
        if not terms:
            return jax.tree.unflatten(tree, exact), None, size

        def sample(worst: list[Array], signs: list[Array]) -> tuple[list[Array], None]:
            near = [leaf * (1 + UNIT * sign) for leaf, sign in zip(points, signs, strict=True)]
            moved = everywhere(rounded(traced), near)
            return [
                jnp.maximum(w, _distance(a, b)) for w, a, b in zip(worst, moved, exact, strict=True)
            ], None

        worst, _ = lax.scan(sample, [jnp.zeros(a.shape, jnp.float64) for a in exact], signs)
        return jax.tree.unflatten(tree, exact), jax.tree.unflatten(tree, worst), size

    traced = jax.jit(run).trace(*arguments[:2], signs)
    compiled, eps = traced.lower().compile(options()), narrowest(traced.jaxpr)

    def call(constants: list[Any], trials: Trials, signs: list[Any]) -> tuple[Wanted, list[Any]]:
        signs = [sign.astype(leaf.dtype) for sign, leaf in zip(signs, trials.points, strict=True)]
        values, found, size = jax.tree.map(np.asarray, compiled(constants, trials, signs))
        if found is None:
            found = jax.tree.map(lambda a: np.zeros(a.shape), values)
        none = jax.tree.map(lambda a: np.zeros(a.shape), found)
        return Wanted(values, found, none, errors, eps), size

    return call


def _size(y: Array) -> Array:
    finite = jnp.where(jnp.isfinite(y), jnp.abs(y), 0)
    return jnp.maximum(1, jnp.max(finite, initial=0)).astype(y.dtype)


def _distance(a: Array, b: Array) -> Array:
    """Return |a − b| in units of the rounding; nothing where that is no number."""
    far = jnp.abs(a.astype(jnp.float64) - b.astype(jnp.float64)) / UNIT
    return jnp.where(jnp.isfinite(far), far, 0)
