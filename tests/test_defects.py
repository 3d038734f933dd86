"""Defects found in other libraries, each shown to be absent here."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit
from reference import relative

from bnjax import batch_norm, normalize

RULES = ("vjp", "jvp", "autodiff")
HAND = ("vjp", "jvp")


def along(x, u, v, gamma, s, t):
    """A cost at x + s u + t v, in NumPy float64."""
    y = reference.batch_norm(x + s * u + t * v, gamma)[0]
    return np.sum(np.sin(y) * u)


@pytest.mark.parametrize("modes", ["forward, forward", "forward, reverse", "reverse, forward"])
def test_the_second_derivative_is_that_of_finite_differences(modes, rng):
    x, u, v = rng.normal(size=(3, 5, 2))
    gamma, h = np.array([1.5, -0.5]), 1e-3
    # O(h⁴): 16 products of the four-point first difference
    points = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
    wanted = sum(
        p * q * along(x, u, v, gamma, i * h, j * h) for i, p in points for j, q in points
    ) / (h * h)

    def f(x):
        return jnp.sum(jnp.sin(batch_norm(x, gamma, rule="jvp")[0]) * u)

    def derive(f, direction, mode):
        if mode == "forward":
            return lambda x: jax.jvp(f, (x,), (direction,))[1]
        return lambda x: jnp.vdot(jax.grad(f)(x), direction)

    outer, inner = modes.split(", ")
    got = quick_jit(derive(derive(f, u, inner), v, outer))(x)
    np.testing.assert_allclose(got, wanted, rtol=1e-7)


@pytest.mark.parametrize("rule", RULES)
def test_unequal_counts_across_an_axis_give_the_mean_of_the_samples(rule, rng):
    x = rng.normal(size=(2, 4, 3)) + 3
    mask = np.array([[True] * 4, [True, False, False, False]])[..., None]
    run = jax.vmap(partial(batch_norm, axis_name="shards", rule=rule), axis_name="shards")
    y, moments = quick_jit(lambda x, mask: run(x, where=mask))(x, mask)
    valid = x[mask[..., 0]]
    np.testing.assert_allclose(moments.mean, [valid.mean(0)] * 2, rtol=1e-12)
    np.testing.assert_allclose(moments.var, [valid.var(0)] * 2, rtol=1e-12)
    assert moments.count.tolist() == [[5.0] * 3] * 2
    whole = reference.batch_norm(x.reshape(8, 3), weights=mask.reshape(8, 1))[0]
    np.testing.assert_allclose(np.reshape(y, (8, 3)), whole, rtol=1e-11, atol=1e-12)


def both(rule, where, jit=quick_jit):
    """Return (x, γ, β, ȳ) -> y, moments and all gradients, of a cost with the moments in it."""

    @jit
    def run(x, gamma, beta, y_bar):
        def f(*args):
            y, moments = batch_norm(*args, where=where, rule=rule)
            return jnp.sum(y * y_bar) + jnp.sum(moments.mean + moments.var), (y, moments)

        return jax.grad(f, (0, 1, 2), has_aux=True)(x, gamma, beta)

    return run


@pytest.mark.parametrize("rule", RULES)
def test_an_all_masked_batch_has_count_zero_and_nothing_that_is_not_finite(rule, rng):
    x, y_bar = rng.normal(size=(2, 4, 2))
    gamma, beta = rng.normal(size=(2, 2))
    grads, (y, moments) = both(rule, np.zeros((4, 1), bool))(x, gamma, beta, y_bar)
    np.testing.assert_array_equal(y, np.broadcast_to(beta, y.shape))
    # the count lets whoever gathers statistics leave them as they are
    assert not np.any(np.stack(moments)) and not np.any(grads[0]) and not np.any(grads[1])
    np.testing.assert_allclose(grads[2], y_bar.sum(0), rtol=1e-12)


@pytest.mark.parametrize("hidden", [np.nan, np.inf])
@pytest.mark.parametrize("rule", HAND)
def test_what_is_masked_reaches_no_gradient_at_valid_places(rule, hidden, rng):
    x, y_bar = rng.normal(size=(2, 6, 3))
    gamma, beta = rng.normal(size=(2, 3))
    mask = np.array([1, 0, 1, 1, 0, 1])[:, None] > 0
    grads, _ = both(rule, mask)(np.where(mask, x, hidden), gamma, beta, y_bar)
    wanted = reference.pull_back(x, y_bar, gamma, weights=mask, mean_bar=1.0, var_bar=1.0)
    for a, b in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(a, b.reshape(a.shape), rtol=1e-11, atol=1e-12)
    assert not np.any(np.asarray(grads[0])[[1, 4]])


def test_bfloat16_input_keeps_a_large_given_mean_exact():
    mean = 1000.3  # not a bfloat16
    x = jnp.arange(1000.0, 1008.0)[:, None].astype(jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    y = normalize(x, jnp.full(1, mean, jnp.float32), jnp.ones(1, jnp.float32), eps=0.0)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), wide - mean, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_has_moments_in_single(dtype, rng):
    x = jnp.asarray(rng.normal(size=(4096, 2)) + 3, dtype)
    wide = np.asarray(x, np.float64)
    _, moments = jax.jit(batch_norm)(x)
    assert moments.mean.dtype == moments.var.dtype == jnp.float32
    assert relative(moments.mean, wide.mean(0)) < 5e-7
    assert relative(moments.var, wide.var(0)) < 5e-7


@pytest.mark.parametrize("rule", RULES)
def test_an_empty_batch_has_finite_moments_and_gradients(rule):
    x, channels = jnp.ones((0, 3)), jnp.ones(3)
    grads, (y, moments) = both(rule, None)(x, channels, channels, x)
    assert y.shape == grads[0].shape == (0, 3)
    assert moments.count.tolist() == [0.0] * 3 and not np.any(np.stack(moments))
    assert not np.any(grads[1]) and not np.any(grads[2])


@pytest.mark.parametrize(
    "rule", ["vjp", *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("jvp", "autodiff"))]
)
def test_a_constant_channel_has_the_gradient_of_the_equations(rule, rng):
    x = np.full((64, 2), 3.3, np.float32)
    x[:, 1] = rng.normal(size=64)
    y_bar = rng.normal(size=(64, 2)).astype(np.float32)
    gamma, beta = np.array([[0.7, 1.3], [0.1, 0.2]], np.float32)
    grads, _ = both(rule, None, jax.jit)(x, gamma, beta, y_bar)
    x_bar, gamma_bar, _ = reference.pull_back(x, y_bar, gamma, mean_bar=1.0, var_bar=1.0)
    for channel in (0, 1):
        assert relative(grads[0][:, channel], x_bar[:, channel]) < 5e-7
    assert grads[1][0] == gamma_bar[0, 0] == 0
