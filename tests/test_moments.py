import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import relative

from bnjax.moments import centred, measure

measure_jit = jax.jit(measure, static_argnums=1)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("outlier", [None, 0, 100, -1])
def test_deviations_and_variance_are_exact_for_any_mean_and_any_outlier(offset, outlier):
    x = (np.random.default_rng(0).normal(size=(257, 5)) + offset).astype(np.float32)
    if outlier is not None:
        x[outlier] = 0 if offset else 1e4
    centre = measure_jit(jnp.asarray(x), (0,))
    wide = x.astype(np.float64)
    assert relative(centre.var, wide.var(0, keepdims=True)) < 5e-7
    assert relative(centred(jnp.asarray(x), centre), wide - wide.mean(0)) < 5e-7


def test_weighted_moments_match_repeated_samples():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
    repeated = jnp.repeat(x, jnp.array([1, 3, 0, 2]), axis=0)
    weighted = measure(x, (0,), jnp.array([1.0, 3.0, 0.0, 2.0])[:, None]).moments()
    plain = measure(repeated, (0,)).moments()
    for ours, theirs in zip(weighted, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)


def test_a_channel_without_weight_is_empty_not_nan():
    centre = measure(jnp.ones((3, 2)), (0,), jnp.array([[1.0, 0.0]] * 3))
    assert centre.count.tolist() == [[3.0, 0.0]]
    assert jnp.all(jnp.isfinite(jnp.concatenate(centre)))


def test_half_precision_is_summed_in_single():
    x = jnp.full((4096, 1), 1.0, jnp.bfloat16).at[0].set(3)
    centre = measure(x, (0,))
    assert centre.var.dtype == jnp.float32
    assert relative(centre.moments().mean, 1 + 2 / 4096) < 1e-6


def test_an_empty_batch_has_count_zero_and_finite_moments():
    moments = measure(jnp.ones((0, 2)), (0,)).moments()
    assert [part.tolist() for part in moments] == [[[0.0, 0.0]]] * 3


def test_the_variance_is_never_negative_and_exactly_zero_for_a_constant():
    assert measure(jnp.full((100, 1), 3.3, jnp.float32), (0,)).var.item() == 0.0
