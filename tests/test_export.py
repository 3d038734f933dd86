"""Programs for elsewhere: sizes that are symbols, and what exporters and `jet` can read."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax import export
from jax.experimental import jet
from reference import relative

from bnjax import batch_norm, normalize
from bnjax.rules import RuleConfig, normalize_with

RULES = ("vjp", "jvp", "autodiff")


def shapes(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


@pytest.mark.parametrize(
    "rule", ["vjp", *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("jvp", "autodiff"))]
)
def test_one_program_serves_every_batch_size(rule, rng):
    def both(x, y_bar, gamma, w):
        results = []
        for where in (None, w):
            (y, moments), pull = jax.vjp(partial(batch_norm, where=where, rule=rule), x, gamma)
            results.append((y, *pull((y_bar, jax.tree.map(jnp.zeros_like, moments)))))
        return results

    (batch,) = export.symbolic_shape("batch")
    x = shapes(batch, 3)
    exported = export.export(jax.jit(both))(x, x, shapes(3), shapes(batch, 1))
    for n in (2, 301):
        x, y_bar = rng.normal(size=(2, n, 3)).astype("float32")
        x += np.float32([0, 10, 1e4])
        gamma, w = rng.normal(size=3).astype("float32"), np.ones((n, 1), "float32")
        w[n // 2 + 1 :] = 0
        for got, weights in zip(exported.call(x, y_bar, gamma, w), (None, w), strict=True):
            y = reference.batch_norm(x, gamma, weights=weights)[0]
            x_bar, gamma_bar, _ = reference.pull_back(x, y_bar, gamma, weights=weights)
            assert relative(got[0], y) < 5e-7
            # with two samples x̄ is next to nothing: a rounding of the terms that cancel
            size = np.linalg.norm(y_bar) / np.std(x, 0).min()
            assert np.linalg.norm(got[1] - x_bar) < 1e-6 * size
            assert np.linalg.norm(got[2] - gamma_bar[0]) < 1e-6 * np.linalg.norm(y_bar)


@pytest.mark.parametrize(
    "rule", ["vjp", *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("jvp", "autodiff"))]
)
@pytest.mark.parametrize(
    ("sizes", "axis"),
    [
        ("batch, height, 4", -1),
        ("batch, 4, height", 1),
        ("9, width", -1),
        ("batch, 4, width", (1, 2)),
    ],
)
def test_any_size_may_be_a_symbol(sizes, axis, rule):
    shape = export.symbolic_shape(sizes)
    axes = axis if isinstance(axis, tuple) else (axis,)
    gamma = shapes(*(shape[a] for a in axes))
    row = shapes(shape[0], *(1 for _ in shape[1:]))

    def cost(x, gamma, w):
        every = [batch_norm(x, gamma, where=w, axis=axis, rule=rule)[0] for w in (None, w)]
        return sum(jnp.sum(y**2) for y in every)

    export.export(jax.jit(jax.grad(cost, (0, 1))))(shapes(*shape), gamma, row)


def test_normalize_takes_any_batch_size(rng):
    row = shapes(3)
    x = shapes(*export.symbolic_shape("batch, 3"))
    exported = export.export(jax.jit(normalize))(x, row, row, row, row)
    rows = *rng.normal(size=(1, 3)), *rng.random((3, 3))
    rows = [v.astype("float32") for v in rows]
    for n in (1, 37):
        x = rng.normal(size=(n, 3)).astype("float32")
        np.testing.assert_array_equal(exported.call(x, *rows), jax.jit(normalize)(x, *rows))


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                yield from primitives(inner.jaxpr)


def test_normalize_asks_for_no_platform():
    row = jnp.ones(3)
    found = set(primitives(jax.make_jaxpr(normalize)(jnp.ones((5, 3)), row, row, row, row).jaxpr))
    assert "custom_jvp_call" in found and "mul" in found  # those inside of calls are seen
    assert not found & {"cond", "optimization_barrier", "platform_index"}


def test_jet_takes_what_normalize_computes(rng):
    x, x_1 = rng.normal(size=(2, 5, 3))
    mean, var, gamma, beta = rng.random((4, 3))
    # jet itself refuses every custom_jvp, that of jax.nn.relu too (JAX 0.10 to 0.12)
    forward = normalize_with.__wrapped__
    config = RuleConfig((1,), 1e-5)

    def f(x):
        return forward(config, jnp.sin(x), mean, var, gamma, beta)

    _, (first, second) = jet.jet(f, (x,), ((x_1, jnp.zeros_like(x)),))
    slope = gamma / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(first, slope * np.cos(x) * x_1, rtol=1e-12)
    np.testing.assert_allclose(second, -slope * np.sin(x) * x_1**2, rtol=1e-12)
