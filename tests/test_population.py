import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnjax import population
from bnjax.moments import Moments

rng = np.random.default_rng(0)


def batches(k, B=4, n=2):
    x = rng.normal(size=(k, B, n)) + 3
    return x, [Moments(jnp.asarray(b.mean(0)), jnp.asarray(b.var(0)), jnp.full(n, B)) for b in x]


def fed(moments, decay):
    state = population.init(2, jnp.float64)
    for one in moments:
        state = population.update(state, one, decay=decay)
    return state


def test_the_cumulative_average_is_p1_and_p2():
    x, moments = batches(7)
    mean, var = population.statistics(fed(moments, None))
    np.testing.assert_allclose(mean, x.mean(1).mean(0), rtol=1e-13)
    np.testing.assert_allclose(var, 4 / 3 * x.var(1).mean(0), rtol=1e-13)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_the_moving_average_is_p7_for_mean_and_variance_from_the_first_batch_on(decay):
    x, moments = batches(5)
    for k in range(1, 6):
        weights = (1 - decay) * decay ** np.arange(k - 1, -1, -1) / (1 - decay**k)  # P.7
        mean, var = population.statistics(fed(moments[:k], decay))
        np.testing.assert_allclose(mean, weights @ x[:k].mean(1), rtol=1e-11)
        np.testing.assert_allclose(var, weights @ x[:k].var(1) * 4 / 3, rtol=1e-11)


def test_a_batch_with_nan_is_skipped_and_counted():
    _, moments = batches(2)
    broken = moments[1]._replace(mean=jnp.array([jnp.nan, 1.0]))
    state = fed([moments[0], broken], 0.9)
    assert state.skipped.tolist() == [1, 0] and state.batches.tolist() == [1, 2]
    np.testing.assert_array_equal(state.mean[0], moments[0].mean[0])


@pytest.mark.parametrize("count", [0.0, 1.0])
def test_a_count_of_zero_or_one_changes_nothing(count):
    _, moments = batches(1)
    before = fed(moments, 0.9)
    after = population.update(
        before, moments[0]._replace(mean=jnp.ones(2), count=jnp.full(2, count))
    )
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_updates_run_in_a_scan():
    _, moments = batches(6)
    stacked = jax.tree.map(lambda *m: jnp.stack(m), *moments)
    state, _ = jax.lax.scan(
        lambda s, m: (population.update(s, m), None), population.init(2, jnp.float64), stacked
    )
    for a, b in zip(state, fed(moments, 0.9), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"`decay`, the weight on the old value.*got"):
        population.update(population.init(1), Moments(*jnp.ones((3, 1))), decay=decay)
