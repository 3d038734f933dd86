import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import relative

from bnjax import layout, moments
from bnjax.norm import batch_norm


@jax.jit
def measure(x, weights=None):
    """The moments of (B, n), and x − μ in their unit."""
    columns = layout.of(x, (1,))
    view = columns.view(x)
    split = moments.split_moments(view, columns, 0.0, weights)
    deviations = moments.deviation(view, split, columns).reshape(x.shape)
    return split, deviations - (split.remainder * split.unit)[None]


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("outlier", [None, 0, 100, -1])
def test_deviations_and_variance_are_exact_for_any_mean_and_any_outlier(offset, outlier):
    x = (np.random.default_rng(0).normal(size=(257, 5)) + offset).astype(np.float32)
    if outlier is not None:
        x[outlier] = 0 if offset else 1e4
    centre, deviations = measure(x)
    wide = x.astype(np.float64)
    assert relative(centre.natural()[1], wide.var(0)) < 5e-7
    assert relative(deviations / centre.unit[None], wide - wide.mean(0)) < 5e-7


def test_weighted_moments_match_repeated_samples():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
    repeated = jnp.repeat(x, jnp.array([1, 3, 0, 2]), axis=0)
    _, weighted = batch_norm(x, where=jnp.array([1.0, 3.0, 0.0, 2.0])[:, None])
    _, plain = batch_norm(repeated)
    for ours, theirs in zip(weighted[:3], plain[:3], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)
    # but three samples that are one repeated are fewer than three
    np.testing.assert_allclose(weighted.effective_count, 36 / 14, rtol=1e-13)
    np.testing.assert_array_equal(plain.effective_count, 6)


def test_a_channel_without_weight_is_empty_not_nan():
    centre, _ = measure(jnp.ones((3, 2)), jnp.array([[1.0, 0.0]] * 3))
    assert centre.count.tolist() == [3.0, 0.0]
    assert jnp.all(jnp.isfinite(jnp.concatenate(centre)))


def test_half_precision_is_summed_in_single():
    x = jnp.full((4096, 1), 1.0, jnp.bfloat16).at[0].set(3)
    centre, _ = measure(x)
    assert centre.var.dtype == jnp.float32
    assert relative(centre.shift + centre.remainder, 1 + 2 / 4096) < 1e-6


def test_an_empty_batch_has_count_zero_and_finite_moments():
    centre, _ = measure(jnp.ones((0, 2)))
    zero, one = [0.0, 0.0], [1.0, 1.0]
    assert [part.tolist() for part in centre] == [zero, zero, one, zero, zero, zero]


def test_the_variance_is_never_negative_and_exactly_zero_for_a_constant():
    x = jnp.full((100, 1), 3.3, jnp.float32)
    w = jnp.asarray(np.random.default_rng(0).random((100, 1)), jnp.float32)
    for centre, deviations in (measure(x), measure(x, w)):
        assert centre.var.item() == 0.0 and not jnp.any(deviations)


@pytest.mark.parametrize("rule", ["vjp", "jvp", "autodiff"])
def test_the_mean_of_a_constant_has_its_derivative(rule):
    x = jnp.full((6, 2), -300.0, jnp.bfloat16)
    _, pull_back = jax.vjp(lambda x: batch_norm(x, eps=0.0, rule=rule)[1].mean, x)
    (x_bar,) = pull_back(jnp.ones(2, jnp.float32))
    np.testing.assert_allclose(x_bar.astype(jnp.float32), 1 / 6, rtol=4e-3)
