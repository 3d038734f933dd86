from functools import reduce
from itertools import permutations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import quick_jit

from bnjax import batch_norm, population
from bnjax.moments import Moments


def batches(rng, k, B=4, n=2):
    x = rng.normal(size=(k, B, n)) + 3
    return x, [Moments(jnp.asarray(b.mean(0)), jnp.asarray(b.var(0)), jnp.full(n, B)) for b in x]


update = quick_jit(population.update, static_argnames="decay")


def fed(moments, decay):
    state = population.init(2, jnp.float64)
    for one in moments:
        state = update(state, one, decay=decay)
    return state


def of(parts, dtype=np.float64):
    """The moments of batches (B, n), stacked."""
    columns = [p.mean(0) for p in parts], [p.var(0) for p in parts]
    counts = [np.full(p.shape[1], len(p)) for p in parts]
    return Moments(*(jnp.asarray(np.array(c), dtype) for c in (*columns, counts)))


def wide(state):
    """The mean of a state or pool, both parts of it."""
    return np.asarray(state.mean, np.float64) + np.asarray(state.remainder, np.float64)


def test_the_cumulative_average_is_p1_and_p2(rng):
    x, moments = batches(rng, 7)
    mean, var = population.statistics(fed(moments, None))
    np.testing.assert_allclose(mean, x.mean(1).mean(0), rtol=1e-13)
    np.testing.assert_allclose(var, 4 / 3 * x.var(1).mean(0), rtol=1e-13)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_the_moving_average_is_p7_for_mean_and_variance_from_the_first_batch_on(decay, rng):
    x, moments = batches(rng, 5)
    for k in range(1, 6):
        weights = (1 - decay) * decay ** np.arange(k - 1, -1, -1) / (1 - decay**k)  # P.7
        mean, var = population.statistics(fed(moments[:k], decay))
        np.testing.assert_allclose(mean, weights @ x[:k].mean(1), rtol=1e-11)
        np.testing.assert_allclose(var, weights @ x[:k].var(1) * 4 / 3, rtol=1e-11)


def test_a_batch_with_nan_is_skipped_and_counted(rng):
    _, moments = batches(rng, 2)
    broken = moments[1]._replace(mean=jnp.array([jnp.nan, 1.0]))
    state = fed([moments[0], broken], 0.9)
    assert state.skipped.tolist() == [1, 0] and state.batches.tolist() == [1, 2]
    np.testing.assert_array_equal(state.mean[0], moments[0].mean[0])


@pytest.mark.parametrize("count", [0.0, 1.0])
def test_a_count_of_zero_or_one_changes_nothing(count, rng):
    _, moments = batches(rng, 1)
    before = fed(moments, 0.9)
    nothing = moments[0]._replace(mean=jnp.ones(2), count=jnp.full(2, count))
    after = update(before, nothing, decay=0.9)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("decay", [0.99, None])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_the_variance_is_the_batches_own_from_the_first_batch_on(k, decay):
    # equinox starts it at 1, divides by 1 − d^k all the same, and reads 103 after one batch
    n, var = 64, 4.08
    assert round((0.99 * 1 + 0.01 * var) / (1 - 0.99), 1) == 103.1
    one = Moments(jnp.array([3.0]), jnp.array([var * (n - 1) / n]), jnp.array([float(n)]))
    state = population.init(1, jnp.float64)
    for _ in range(k):
        state = update(state, one, decay=decay)
    np.testing.assert_allclose(population.statistics(state), [[3.0], [var]], rtol=1e-12)


def test_statistics_are_at_least_float32():
    for made in (population.init(2, jnp.bfloat16), population.empty(2, jnp.bfloat16)):
        assert made.mean.dtype == made.var.dtype == made.remainder.dtype == jnp.float32
    half = batch_norm(jnp.ones((4, 2), jnp.bfloat16))[1]
    assert population.update(population.init(2), half).mean.dtype == jnp.float32


def test_a_fresh_state_can_be_donated():
    moments = Moments(*jnp.ones((3, 2)) * 2)
    for take, start in ((population.update, population.init), (population.add, population.empty)):
        fresh = start(2)
        jax.jit(take, donate_argnums=0)(fresh, moments)
        assert fresh.mean.is_deleted() and fresh.remainder.is_deleted()


K, LARGE = 1000, 1e4


@jax.jit
def gathered(moments):
    """What 1000 batches leave: cumulative, moving, pooled, and cumulative without remainder."""
    n = moments.mean.shape[1]

    def take(states, one):
        average, moving, pool, poor = states
        average = population.update(average, one, decay=None)
        moving = population.update(moving, one, decay=0.99)
        poor = population.update(poor, one, decay=None)
        poor = poor._replace(remainder=jnp.zeros(n, poor.mean.dtype))
        return (average, moving, population.add(pool, one), poor), None

    init, empty = population.init(n), population.empty(n)
    return jax.lax.scan(take, (init, init, empty, init), moments)[0]


def test_a_large_mean_loses_nothing_in_a_long_average(rng):
    means = (rng.normal(size=(K, 3)) / 8 + LARGE).astype(np.float32)
    moments = Moments(
        *(jnp.asarray(a, jnp.float32) for a in (means, 0 * means + 1, 0 * means + 64))
    )
    average, moving, pool, poor = gathered(moments)
    weights = 0.99 ** np.arange(K - 1.0, -1, -1)
    plain = means.astype(np.float64).mean(0)
    # in units of σ = 1; the remainder itself is a float of 1e-4 or so
    assert np.abs(wide(average) - plain).max() < 1e-8
    assert np.abs(wide(pool) - plain).max() < 1e-8
    assert np.abs(wide(moving) - weights @ means / weights.sum()).max() < 1e-7
    assert np.abs(wide(poor) - plain).max() > 1e-3
    np.testing.assert_array_equal(population.statistics(average)[0], average.mean)


def test_average_weighs_batches_alike_and_pool_weighs_samples_alike(rng):
    x = rng.normal(size=(30, 2)) + 3
    parts = np.split(x, [1, 4, 9, 20])
    average, pool = population.average(of(parts)), population.pool(of(parts))
    # a batch of one has a mean to pool, and no variance to average
    several = parts[1:]
    np.testing.assert_allclose(average[0], np.mean([p.mean(0) for p in several], 0), rtol=1e-13)
    unbiased = np.mean([p.var(0, ddof=1) for p in several], 0)
    np.testing.assert_allclose(average[1], unbiased, rtol=1e-13)
    np.testing.assert_allclose(pool, [x.mean(0), x.var(0)], rtol=1e-13)


def test_weighted_batches_pool_to_the_weighted_data(rng):
    x, w = rng.normal(size=(3, 5, 2)) + 3, rng.uniform(0, 2, (3, 5, 1))
    w[0, 1] = 0
    of_each = quick_jit(jax.vmap(lambda x, w: batch_norm(x, where=w)[1]))
    pool = population.pool(of_each(x, w))
    mean = (w * x).sum((0, 1)) / w.sum()
    var = (w * (x - mean) ** 2).sum((0, 1)) / w.sum()
    np.testing.assert_allclose(pool, [mean, var], rtol=1e-13)


def pooled(part, dtype):
    moments = jax.tree.map(lambda m: m[0], of([part], dtype))
    return population.add(population.empty(2, dtype), moments)


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_pools_merge_in_any_order(dtype, bound, rng):
    x = rng.normal(size=(30, 2)) + 100
    pools = [pooled(part, dtype) for part in np.split(x, [1, 4, 20])]
    merge = jax.jit(population.merge)
    exact = x.var(0)
    for order in permutations(pools):
        merged = reduce(merge, order)
        assert np.abs(wide(merged) / x.mean(0) - 1).max() < bound
        assert np.abs(merged.var / exact - 1).max() < 10 * bound  # batch means of one float each
        assert merged.count.tolist() == [30, 30] and merged.batches.tolist() == [4, 4]
    first, second = merge(pools[0], pools[1]), merge(pools[2], pools[3])
    np.testing.assert_allclose(wide(merge(first, second)), x.mean(0), rtol=bound)
    empty = population.empty(2, dtype)
    for both in (merge(first, empty), merge(empty, first)):
        chex.assert_trees_all_equal(both, first)


def test_an_empty_pool_merges_with_a_mean_whose_square_overflows():
    one = Moments(*(jnp.array([v], jnp.float32) for v in (1e30, 1.0, 2.0)))
    pool = population.add(population.empty(1), one)
    np.testing.assert_array_equal(jnp.concatenate(pool[:3]), jnp.array([1e30, 1, 2], jnp.float32))


def test_a_pool_reads_as_a_state_does(rng):
    moments = of(np.split(rng.normal(size=(9, 2)), [4]))
    pool = population.empty(2, jnp.float64)
    for k in range(2):
        pool = population.add(pool, jax.tree.map(lambda m, k=k: m[k], moments))
    broken = Moments(jnp.array([jnp.nan, 1.0]), jnp.ones(2), jnp.array([3.0, 0.0]))
    state = population.to_state(population.add(pool, broken))
    np.testing.assert_allclose(population.statistics(state), population.pool(moments), rtol=1e-13)
    # what is not finite is counted; what is not there is not
    assert state.batches.tolist() == [2, 2] and state.skipped.tolist() == [1, 0]
    unseen = population.to_state(population.empty(2))
    np.testing.assert_array_equal(population.statistics(unseen), [[0, 0], [1, 1]])


@pytest.mark.parametrize("replacement", [True, False])
def test_what_the_averaged_variance_estimates_depends_on_how_batches_are_drawn(replacement, rng):
    N, B, draws = 6, 3, 20_000
    people = rng.normal(size=N)
    if replacement:  # P.2
        drawn = rng.integers(N, size=(draws, B))
    else:  # P.6
        drawn = rng.permuted(np.tile(np.arange(N), (draws, 1)), axis=1)[:, :B]
    batches = people[drawn]
    moments = batch_norm(jnp.asarray(batches.T))[1]  # one batch is one channel
    mean, var = population.average(jax.tree.map(lambda m: m[:, None], moments))
    error = 4 * batches.var(1, ddof=1).std() / draws**0.5
    right, wrong = people.var(ddof=0), people.var(ddof=1)
    right, wrong = (right, wrong) if replacement else (wrong, right)
    assert abs(var[0] - right) < error < abs(var[0] - wrong) / 2
    assert abs(mean[0] - people.mean()) < 4 * batches.mean(1).std() / draws**0.5


def test_nothing_is_traced_twice_for_the_same_shapes(rng):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def all_of_it(state, pool, moments):
        state = population.update(state, moments)
        both = population.merge(pool, population.add(pool, moments))
        return state, both, population.statistics(population.to_state(both))

    state, pool = population.init(2, jnp.float64), population.empty(2, jnp.float64)
    for one in batches(rng, 3)[1]:
        state, pool, _ = all_of_it(state, pool, one)
    assert state.batches.tolist() == [3, 3]


def test_average_and_pool_called_eagerly_are_traced_once(monkeypatch, rng):
    calls = []
    for room, name in ((population.running, "update"), (population.pooled, "merge")):
        original = getattr(room, name)

        def counted(*args, original=original, **more):
            calls.append(1)
            return original(*args, **more)

        monkeypatch.setattr(room, name, counted)
    seen = []
    for _ in range(3):
        moments = of(list(rng.normal(size=(5, 4, 11))))  # of a shape that no other test has
        population.average(moments), population.pool(moments)
        seen.append(len(calls))
    assert seen[0] > 0 and seen[1:] == seen[:1] * 2


def test_pooling_maps_and_scans(rng):
    x = rng.normal(size=(3, 4, 5, 2))  # three streams of four batches
    stacked = [of(list(stream)) for stream in x]
    moments = jax.tree.map(lambda *m: jnp.stack(m), *stacked)
    mean, var = jax.vmap(population.pool)(moments)
    np.testing.assert_allclose(mean, x.mean((1, 2)), rtol=1e-12)
    np.testing.assert_allclose(var, x.var((1, 2)), rtol=1e-12)


def test_updates_run_in_a_scan(rng):
    _, moments = batches(rng, 6)
    stacked = jax.tree.map(lambda *m: jnp.stack(m), *moments)
    state, _ = jax.lax.scan(
        lambda s, m: (population.update(s, m), None), population.init(2, jnp.float64), stacked
    )
    for a, b in zip(state, fed(moments, 0.9), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"`decay`, the weight on the old statistics.*got"):
        population.update(population.init(1), Moments(*jnp.ones((3, 1))), decay=decay)


def test_moments_of_other_channels_are_refused():
    moments = Moments(*jnp.ones((3, 2)))
    for take, start in ((population.update, population.init), (population.add, population.empty)):
        with pytest.raises(
            ValueError, match=r"of the channels seen before, shape \(1,\); got \(2,"
        ):
            take(start(1), moments)
    for gather in (population.average, population.pool):
        with pytest.raises(ValueError, match=r"stacked along a leading axis.*got \(2,\)"):
            gather(moments)
