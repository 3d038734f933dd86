import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import quick_jit

from bnjax import costs

rng = np.random.default_rng(0)
Y, ONE_HOT = rng.normal(size=(5, 3)), np.eye(3)[[0, 2, 1, 1, 0]]
THEIRS = {
    "sigmoid_cross_entropy": lambda y, t: optax.losses.sigmoid_binary_cross_entropy(y, t).sum(-1),
    "softmax_cross_entropy": optax.losses.softmax_cross_entropy,
    "squared_error": lambda y, t: optax.losses.l2_loss(y, t).sum(-1),
}


@pytest.mark.parametrize("name", costs.COSTS)
def test_costs_agree_with_optax(name):
    ours, theirs = (quick_jit(f)(Y, ONE_HOT) for f in (costs.get(name).per_sample, THEIRS[name]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


WHERE = {"none": None, "mask": np.array([1, 0, 1, 1, 0]) > 0, "weights": rng.random(5)}


@quick_jit
def errors_and_gradients(y):
    """Of every cost under every kind of weights, in one program."""

    def both(name, where):
        def cost(y):
            return costs.mean(costs.get(name).per_sample(y, ONE_HOT), where)

        return costs.output_error(name, y, ONE_HOT, where), jax.grad(cost)(y)

    return {(name, kind): both(name, WHERE[kind]) for name in costs.COSTS for kind in WHERE}


@pytest.mark.parametrize("kind", WHERE)
@pytest.mark.parametrize("name", costs.COSTS)
def test_the_output_error_is_u_minus_phi(name, kind):
    where = WHERE[kind]
    error, gradient = errors_and_gradients(Y)[name, kind]
    np.testing.assert_allclose(error, gradient, rtol=1e-11, atol=1e-15)
    w = np.ones(5) if where is None else where.astype(float)
    wanted = (costs.get(name).link(Y) - ONE_HOT) * (w / w.sum())[:, None]  # BL.3
    np.testing.assert_allclose(error, wanted, rtol=1e-11, atol=1e-15)


def test_the_sigmoid_s_error_keeps_its_digits_where_the_prediction_is_good():
    y, targets = jnp.array([[12.0]], jnp.float32), jnp.ones((1, 1), jnp.float32)
    cost = costs.get("sigmoid_cross_entropy").per_sample
    error, gradient = jax.jit(
        lambda y: (
            costs.output_error("sigmoid_cross_entropy", y, targets),
            jax.grad(lambda y: cost(y, targets)[0])(y),
        )
    )(y)
    np.testing.assert_allclose(error, -1 / (1 + np.exp(12.0)), rtol=1e-6)
    np.testing.assert_allclose(gradient, error, rtol=1e-6)


def test_a_nan_under_zero_weight_does_not_count():
    values = jnp.array([1.0, jnp.nan])
    assert costs.mean(values, jnp.array([2.0, 0.0])) == 1.0
    assert costs.mean(values, jnp.zeros(2)) == 0.0


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="got 'square_error'; did you mean 'squared_error'?"):
        costs.get("square_error")
