"""Cases on ordinary numbers: shapes, feature axes, masks and weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnjax import batch_norm, ghost_batch_norm, normalize, renorm
from bnjax.accumulation import accumulate_gradient
from bnjax.activations import ACTIVATIONS, Activation
from bnjax.own_rules.case import Arguments, Case, cast
from bnjax.own_rules.plain import BOUNDS, plain_normalize, plain_renorm

_BATCHES = (  # shape, feature axes, where
    ((5, 3), -1, "none"),
    ((2, 3), -1, "none"),  # two samples: all terms cancel
    ((2, 3, 4), 1, "mask"),
    ((2, 2, 3, 2), (1, -1), "weights"),
)


def ordinary_cases(rng: np.random.Generator) -> list[Case]:
    """List the cases on ordinary numbers."""
    cases = [_batch("vjp", *batch, rng) for batch in _BATCHES]
    cases += [_batch("jvp", *batch, rng) for batch in _BATCHES[::3]]
    cases += [_ghost_batches(rng), _given_statistics(rng), _renormalization("vjp", rng)]
    cases.append(_accumulation(rng))
    y = rng.normal(size=7)
    cases.append(Case("g'", _by_g_prime, _by_autodiff, {"all activations": partial(cast, (y,))}))
    return cases


def _batch(rule: str, shape: tuple[int, ...], axis: Any, where: str, rng: Any) -> Case:
    features = [a % len(shape) for a in np.atleast_1d(axis)]
    gamma, beta = rng.normal(size=(2, *(shape[a] for a in features)))
    weights = rng.uniform(0.2, 2, [1 if a in features else n for a, n in enumerate(shape)])
    weights.flat[0] = 0
    chosen = {"none": None, "mask": weights > 0, "weights": weights}[where]

    def run(x: Any, gamma: Any, beta: Any, *, rule: str) -> Any:
        y, moments = batch_norm(x, gamma, beta, axis=axis, where=chosen, rule=rule, eps=0.01)
        return y, moments.mean, moments.var

    what = f"{shape}, axis {axis}" + ("" if where == "none" else f", {where}")
    args = rng.normal(size=shape) * 2 + 1, gamma, beta
    f, g = partial(run, rule=rule), partial(run, rule="autodiff")
    return Case(f"batch_norm {rule}", f, g, {what: partial(cast, args)})


def _ghost_batches(rng: Any) -> Case:
    weights = rng.uniform(0.2, 2, (5, 2, 1))
    weights[1, 0] = 0

    def f(*args: Any) -> Any:
        y, moments = ghost_batch_norm(*args, size=2, where=weights, eps=0.01)
        return y, moments.mean, moments.var

    def g(x: Any, *vectors: Any) -> Any:
        ys, means, variances = [], [], []
        for start in (0, 2, 4):  # two groups of two, and one sample
            group = slice(start, start + 2)
            options = {"where": weights[group], "eps": 0.01, "rule": "autodiff"}
            y, moments = batch_norm(x[group], *vectors, **options)
            for found, one in zip((ys, means, variances), (y, *moments[:2]), strict=True):
                found.append(one)
        return jnp.concatenate(ys), jnp.stack(means), jnp.stack(variances)

    args = rng.normal(size=(5, 2, 3)) * 2 + 1, *rng.normal(size=(2, 3))
    what = "(5, 2, 3), groups of 2, weights"
    return Case("ghost_batch_norm vjp", f, g, {what: partial(cast, args)})


def _accumulation(rng: np.random.Generator) -> Case:
    u, w = rng.normal(size=(2, 3, 2)), rng.uniform(0.2, 2, (2, 3))  # two micro-batches of three
    w[1, 2] = 0

    def accumulated(W: Any, gamma: Any, beta: Any, V: Any) -> Any:
        segments = (
            lambda W, u: (u @ W, ()),
            lambda V, carry, t: jnp.sum(jnp.tanh(carry[0]) @ V, -1),
        )
        params = (W, gamma, beta), V
        inputs, weights = jnp.asarray(u, W.dtype), jnp.asarray(w, W.dtype)
        (cost, _), grads = accumulate_gradient(segments, params, inputs, inputs, weights, eps=0.1)
        return cost, (*grads[0], grads[1])

    @jax.custom_vjp
    def f(W: Any, gamma: Any, beta: Any, V: Any) -> Any:
        return accumulated(W, gamma, beta, V)[0]

    f.defvjp(
        accumulated, lambda grads, bar: jax.tree.map(lambda g: (bar * g).astype(g.dtype), grads)
    )

    def g(W: Any, gamma: Any, beta: Any, V: Any) -> Any:
        x, weights = (
            jnp.asarray(u.reshape(6, 2), W.dtype) @ W,
            jnp.asarray(w.reshape(6, 1), W.dtype),
        )
        y, _ = batch_norm(x, gamma, beta, where=weights, eps=0.1, rule="autodiff")
        return jnp.sum(weights * (jnp.tanh(y) @ V)) / jnp.sum(weights)

    args = rng.normal(size=(2, 3)), *rng.normal(size=(2, 3)), rng.normal(size=(3, 1))
    inputs = {"2 micro-batches of (3, 3), weights": partial(cast, args)}
    return Case("accumulate_gradient", f, g, inputs, ("value", "vjp"))


def _given_statistics(rng: np.random.Generator) -> Case:
    mean, gamma, beta = rng.normal(size=(3, 3))
    args = rng.normal(size=(4, 3)), mean, rng.uniform(0.5, 2, 3), gamma, beta
    f, g = partial(normalize, eps=0.1), partial(plain_normalize, eps=0.1)
    return Case("normalize", f, g, {"(4, 3)": partial(cast, args)})


def renormalization_arguments(rng: np.random.Generator) -> Arguments:
    """Draw x, γ, β and statistics of which a part meets the bounds."""
    x, (mean, gamma, beta) = 2 * rng.normal(size=(5, 3)), rng.normal(size=(3, 3))
    return x, gamma, beta, mean, rng.uniform(1, 9, 3)


def _renormalization(rule: str, rng: np.random.Generator) -> Case:
    where = np.array([[True], [False], [True], [True], [True]])

    def f(x: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Any:
        options = {"where": where, "eps": 0.1, "rule": rule, **BOUNDS}
        return renorm(x, (mean, var), gamma, beta, **options)[0]

    g = partial(plain_renorm, where=where, eps=0.1)
    inputs = {"(5, 3), mask": partial(cast, renormalization_arguments(rng))}
    return Case(f"renorm {rule}", f, g, inputs, argnums=(0, 1, 2))


def _written(activation: Activation) -> Callable[[Any], Any]:
    @jax.custom_jvp
    def g(y: Any) -> Any:
        return activation.g(y)

    g.defjvps(lambda y_dot, _, y: activation.g_prime(y) * y_dot)
    return g


def _by_g_prime(y: Any) -> dict[str, Any]:
    return {name: _written(activation)(y) for name, activation in ACTIVATIONS.items()}


def _by_autodiff(y: Any) -> dict[str, Any]:
    return {name: activation.g(y) for name, activation in ACTIVATIONS.items()}
