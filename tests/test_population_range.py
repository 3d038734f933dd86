"""Statistics that lose nothing: any scale, whatever came before, after any number of batches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import quick_jit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnjax import Moments, Network, init, population
from bnjax.training import measure_population

N = 10  # samples in a batch: the factor of P.2 is 10/9
MILLION = 1_000_000
ULPS = 8 * 2.0**-24  # a few units in the last place
MOST = np.iinfo(np.int32).max
EXAMPLES = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)


def moments(mean, var, n=N):
    mean, var, n = np.broadcast_arrays(np.float32(mean), np.float32(var), np.float32(n))
    return Moments(*map(jnp.asarray, (mean, var, n)))


@partial(jax.jit, static_argnames="decay")
def run(state, batches, *, decay):
    """The state after batches, stacked along a leading axis."""
    return jax.lax.scan(
        lambda s, one: (population.update(s, one, decay=decay), None), state, batches
    )[0]


@quick_jit
def pooled(batches):
    empty = population.empty(batches.mean.shape[1:])
    return jax.lax.scan(lambda p, one: (population.add(p, one), None), empty, batches)[0]


def p7(decay, k):
    """The weights of k batches, in float64 (P.1, P.7)."""
    weights = np.ones(k) if decay is None else decay ** np.arange(k - 1.0, -1, -1)
    return weights / weights.sum()


def wide(a):
    return np.asarray(a, np.float64)


def both(state):
    """Mean and variance with their remainders."""
    mean = wide(state.mean) + wide(state.remainder)
    return mean, wide(state.var) * (1 + wide(state.var_remainder))


def close(got, wanted, bound=ULPS):
    np.testing.assert_allclose(wide(got), wanted, rtol=bound, atol=0)


@pytest.mark.parametrize("decay", [0.9, None])
@pytest.mark.parametrize("var", [1e-30, 1e-8, 1e-6, 1e30])
def test_the_first_batches_are_not_lost_beside_the_one_of_a_fresh_state(decay, var):
    batches = moments(np.zeros((20, 1)), var)
    first = jax.tree.map(lambda a: a[:1], batches)
    close(run(population.init(1), first, decay=decay).var, np.float32(var) / (1 - 1 / N))
    close(run(population.init(1), batches, decay=decay).var, np.float32(var) / (1 - 1 / N))
    close(population.average(batches)[1], np.float32(var) / (1 - 1 / N))


@pytest.mark.parametrize("gather", ["average", "pool"])
def test_small_variances_are_measured(gather, rng):
    net = Network((2, 2), norm_output=True)
    params, _ = init(net, jax.random.key(0))
    params = (params[0]._replace(W=jnp.eye(2)),)
    x = rng.normal(size=(N, 2)) * [1e-4, 1e-15]
    (state,) = measure_population(net, params, x, gather=gather)
    np.testing.assert_allclose(state.var, x.var(0, ddof=gather == "average"), rtol=1e-12)


def test_a_decay_of_zero_keeps_the_last_batch_alone():
    batches = moments([[1e30], [1e-30]], [[1e30], [1e-30]], 2)
    state = run(population.init(1), batches, decay=0.0)
    assert state.mean == np.float32(1e-30) and state.var == 2 * np.float32(1e-30)


def test_the_first_batch_is_taken_as_it_is_whatever_the_decay():
    for decay in (0.0, 1e-30, 0.3, 0.9, 1 - 1e-9, None):
        state = run(population.init(1), moments([[7e20]], [[3e-30]], 2), decay=decay)
        assert state.mean == np.float32(7e20) and state.var == np.float32(6e-30)


numbers = st.floats(-30, 30).map(lambda e: 10.0**e)


@st.composite
def many(draw, k=6, channels=3):
    """k batches, each mean and variance of a scale of its own."""
    rows = [[draw(numbers) for _ in range(channels)] for _ in range(2 * k)]
    signs = np.random.default_rng(draw(st.integers(0, 99))).choice([-1, 1], (k, channels))
    var = np.float32(rows[k:])
    mean = np.float32(signs * rows[:k])
    return mean, var


@EXAMPLES
@given(many(), st.sampled_from([0.0, 0.1, 0.9, 0.999999, None]))
@pytest.mark.slow
def test_running_statistics_are_right_over_sixty_decades(data, decay):
    mean, var = data
    state = run(population.init(mean.shape[1]), moments(mean, var), decay=decay)
    weights = p7(decay, len(mean))
    close(state.var, weights @ (wide(var) / (1 - 1 / N)), 2 * ULPS)
    error = np.abs(both(state)[0] - weights @ wide(mean))
    assert np.all(error <= 2 * ULPS * (weights @ np.abs(wide(mean))))
    if decay is None:
        found = population.average(moments(mean, var))
        np.testing.assert_array_equal(found[1], state.var)


# a share of the samples that is no normal number counts as none: counts are of thirty decades
@EXAMPLES
@given(many(), st.lists(st.floats(-15, 15).map(lambda e: 10.0**e), min_size=6, max_size=6))
def test_pools_are_right_over_sixty_decades(data, counts):
    mean, var = data
    mean = np.sign(mean) * np.minimum(np.abs(mean), np.float32(1e15))  # whose squares are floats
    n = np.float32(counts)[:, None] * np.ones_like(mean)
    p = wide(n) / wide(n).sum(0)
    centre = (p * wide(mean)).sum(0)
    spread = (p * (wide(var) + (wide(mean) - centre) ** 2)).sum(0)
    size = (p * np.abs(wide(mean))).sum(0)
    batches = moments(mean, var, n)
    pool = pooled(batches)
    halves = [pooled(jax.tree.map(lambda a, s=s: a[s], batches)) for s in (slice(3), slice(3, 6))]
    for found in (pool, population.merge(*halves), population.merge(*halves[::-1])):
        assert np.all(np.abs(both(found)[0] - centre) <= 4 * ULPS * size)
        close(found.count, wide(n).sum(0))
        # μ_2 − μ_1 is a difference: its square errs by the means' own roundings
        means = (p * (wide(mean) - centre) ** 2).sum(0) ** 0.5
        limit = 4 * ULPS * (spread + means * size)
        assert np.all(np.abs(wide(found.var) - spread) <= limit)
    np.testing.assert_array_equal(population.statistics(population.to_state(pool))[1], pool.var)
    np.testing.assert_array_equal(population.pool(batches)[1], pool.var)


@pytest.mark.parametrize(
    "decay", [None, *(pytest.param(d, marks=pytest.mark.slow) for d in (0.9999, 0.999999))]
)
def test_a_million_batches_lose_nothing(decay, rng):
    var = np.ones((MILLION, 4), np.float32)
    var[:, 0] += 0.3 * rng.normal(size=MILLION).clip(-3, 3)
    var[MILLION // 2 :, 1] = 1.05  # steps of less than the rounding of one float
    var[:, 2] = var[:, 0] * np.float32(1e-30)
    var[:, 3] = var[:, 0] * np.float32(1e30)
    mean = var * np.float32([1e4, 1, 1e15, 1e-2])
    state = run(population.init(4), moments(mean, var, 2), decay=decay)
    weights = p7(decay, MILLION)
    found = both(state)
    np.testing.assert_allclose(found[0], weights @ wide(mean), rtol=1e-8)
    np.testing.assert_allclose(found[1], 2 * weights @ wide(var), rtol=1e-8)


def test_what_came_before_is_forgotten_at_the_rate_of_d():
    # d itself and 1 − d are not floats: over k steps one float of them would be off by k roundings
    k = 1200
    var = np.full((k, 1), 1e-30, np.float32)
    var[0] = 1e30
    state = run(population.init(1), moments(0 * var, var), decay=0.9)
    wanted = p7(0.9, k) @ wide(var) / (1 - 1 / N)
    assert wanted > 1e-27  # what is left of the first one
    close(state.var, wanted, 2 * ULPS)


@pytest.mark.slow
def test_a_pool_of_a_million_batches_counts_and_weighs_them_all(rng):
    n = np.full((MILLION, 3), 1001, np.float32)  # sums to no float that holds every unit
    n[:, 1] = rng.uniform(0.5, 2, MILLION)
    n[:, 2] = n[:, 1] * np.float32(1e-30)
    var = np.ones((MILLION, 3), np.float32)
    var[MILLION // 2 :] = 1.05
    var[:, 2] *= np.float32(1e-30)
    mean = (0.1 * rng.normal(size=(MILLION, 3)) * [1, 1, 1e-15]).astype(np.float32)
    pool = pooled(moments(mean, var, n))
    p = wide(n) / wide(n).sum(0)
    centre = (p * wide(mean)).sum(0)
    np.testing.assert_allclose(wide(pool.count) + pool.count_remainder, wide(n).sum(0), rtol=1e-9)
    close(pool.var, (p * (wide(var) + (wide(mean) - centre) ** 2)).sum(0))
    assert np.all(np.abs(both(pool)[0] - centre) <= 1e-9 * np.abs(wide(mean)).max(0))


@pytest.mark.parametrize("decay", [0.999999, None])
def test_counters_stay_at_the_largest_number(decay):
    full = jnp.array([MOST - 1, MOST], jnp.int32)
    state = population.init(2)._replace(mean=jnp.ones(2, jnp.float32), batches=full)
    state = state._replace(skipped=full)
    means = np.array([2.0, np.nan, 2.0, np.nan])[:, None] * np.ones(2)
    state = run(state, moments(means, 2.0), decay=decay)
    assert state.batches.tolist() == state.skipped.tolist() == [MOST, MOST]
    assert np.all(np.abs(both(state)[0] - 1) < 3e-6)  # each of them weighs next to nothing
    pool = pooled(moments([[2.0, 2.0]], 2.0))._replace(batches=full, skipped=full)
    both_pools = quick_jit(population.merge)(pool, pool)
    assert both_pools.batches.tolist() == both_pools.skipped.tolist() == [MOST, MOST]


def test_pools_far_apart_neither_overflow_nor_underflow():
    # p d (1 − p) d with a d whose square is no float, and p that makes one of it
    cases = [(1e25, 1e-14, 1e-20), (1e-15, 1e-2, 1e-30), (1e19, 1e-1, 1e-30), (1e-25, 1.0, 1e-30)]
    for d, n, var in cases:
        found = jax.jit(population.merge)(
            pooled(moments([[0.0]], [[var]], 1.0)), pooled(moments([[d]], [[var]], n))
        )
        p = wide(np.float32(n)) / (1 + wide(np.float32(n)))
        between = p * (1 - p) * wide(np.float32(d)) ** 2
        close(found.var, [wide(np.float32(var)) + between])
    # constants, whose products XLA would form in another order
    stacked = moments([[1e-25], [0.0]], [[1e-37], [1e-37]])
    assert np.isfinite(jax.jit(lambda: population.pool(stacked)[1])()).all()
    close(jax.jit(lambda: population.average(stacked)[1])(), np.float32(1e-37) / 0.9, 2 * ULPS)


def test_statistics_have_derivatives_that_are_finite(rng):
    x = jnp.asarray(rng.normal(size=(3, 2)))

    def total(x, k):
        one = Moments(x.mean(0), x.var(0), jnp.array([3.0, 0.0]))
        state = population.init(2, jnp.float64)
        pool = population.empty(2, jnp.float64)
        for _ in range(k):
            state, pool = population.update(state, one), population.add(pool, one)
        return jnp.sum(state.var + state.mean + pool.var)

    for k in (1, 2):
        wanted = np.zeros((3, 2))
        wanted[:, 0] = 1 / 3 + (3 / 2 + 1) * 2 / 3 * (x[:, 0] - x[:, 0].mean())
        gradient = quick_jit(jax.grad(total), static_argnums=1)(x, k)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-12, atol=1e-15)
