"""What holds on eight devices: `test_devices` runs this file in a process that has them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from bnjax import Network, cost, population, training
from bnjax.moments import Moments

rng = np.random.default_rng(0)
N = 45  # eight devices hold 6 each but for the last
X, TARGETS = rng.normal(1, 2, (N, 4)), (rng.random((N, 2)) > 0.5) * 1.0
NETS = {"bn": Network((4, 5, 2)), "baseline": Network((4, 5, 2), norm=False)}


def on_host(tree):
    return jax.tree.map(np.asarray, tree)


def close(got, wanted):
    chex.assert_trees_all_close(on_host(got), on_host(wanted), rtol=1e-11, atol=1e-12)


def fitted(name, key, batch_size, mesh=None, **options):
    net, optimizer = NETS[name], optax.adam(0.05)
    start = training.init(net, optimizer, key)
    options = {"epochs": 2, "batch_size": batch_size, "key": key, "mesh": mesh} | options
    return [on_host(p[1:3]) for p in training.fit(net, optimizer, start, X, TARGETS, **options)]


def test_eight_devices_are_here():
    assert training.data_mesh().size == 8


# 16 is shared evenly, 14 is not; the last batch has 13 or 3 samples: less than devices
@pytest.mark.parametrize(
    ("name", "batch_size", "gradient"),
    [
        ("bn", 14, "rule"),
        pytest.param("bn", 16, "rule", marks=pytest.mark.slow),
        pytest.param("bn", 14, "autodiff", marks=pytest.mark.slow),
        pytest.param("baseline", 14, "hand", marks=pytest.mark.slow),
    ],
)
def test_devices_train_what_one_device_trains(key, name, batch_size, gradient):
    alone = fitted(name, key, batch_size)
    spread = fitted(name, key, batch_size, training.data_mesh(), gradient=gradient)
    close(spread, alone)


@pytest.mark.slow
def test_a_mesh_of_two_axes_is_a_row_of_devices(key):
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    close(fitted("bn", key, 16, mesh, epochs=1), fitted("bn", key, 16, epochs=1))


@pytest.mark.slow
def test_a_stream_is_shared_by_the_devices(key):
    net, optimizer = NETS["bn"], optax.sgd(0.5)

    def batches(number):
        for indices in np.asarray(training.shuffle(jax.random.fold_in(key, number), N, 16)):
            rows = indices[indices >= 0]
            yield X[rows], TARGETS[rows]

    def streamed(mesh):
        start = training.init(net, optimizer, key)
        run = training.fit_batches(net, optimizer, start, batches, epochs=2, mesh=mesh)
        return [on_host(p[1:3]) for p in run]

    close(streamed(training.data_mesh()), streamed(None))


@pytest.mark.parametrize(
    ("gradient", "check"),
    [
        ("rule", False),
        pytest.param("hand", False, marks=pytest.mark.slow),
        pytest.param("rule", True, marks=pytest.mark.slow),
        pytest.param("hand", True, marks=pytest.mark.slow),
    ],
)
def test_devices_that_normalize_by_themselves_average_what_they_find(key, gradient, check):
    net, optimizer, mesh = NETS["bn"], optax.sgd(0.3), training.data_mesh()
    x, targets = jnp.asarray(X[:40]), jnp.asarray(TARGETS[:40])
    where = (
        jnp.arange(40) >= 9
    )  # the first device has nothing, the second a single sample: no variance
    start = training.init(net, optimizer, key)

    def alone(params, rows):
        def objective(params):
            return cost(
                net, params, start.state, x[rows], targets[rows], where=where[rows], rule="autodiff"
            )

        return jax.value_and_grad(objective, has_aux=True)(params)

    alone = jax.jit(alone)
    value, moments, grads = 0.0, [], jax.tree.map(jnp.zeros_like, start.params)
    for device in range(8):
        rows = np.arange(5 * device, 5 * device + 5)
        (c, _), g = alone(start.params, rows)
        share = where[rows].sum() / where.sum()
        value += share * c
        grads = jax.tree.map(lambda total, part, s=share: total + s * part, grads, g)
        before = X[rows] @ np.asarray(start.params[0].W)
        moments.append((before.mean(0), before.var(0, ddof=1)))
    mean, var = (np.mean([m[i] for m in moments[2:]], 0) for i in range(2))
    biased = var * 4 / 5  # `update` has its own n/(n - 1)
    state = population.update(start.state[0], Moments(mean, biased, np.full(5, 5.0)), decay=0.9)

    step = training.make_step(
        net, optimizer, gradient=gradient, axis_name="data", sync_statistics=False
    )
    specs = {"in_specs": (P(), *(P("data"),) * 3), "out_specs": P(), "check_vma": check}
    got, spread_cost = jax.jit(jax.shard_map(step, mesh=mesh, **specs))(start, x, targets, where)
    close(spread_cost, value)
    close(got.params, jax.tree.map(lambda p, g: p - 0.3 * g, start.params, grads))
    close(got.state, (state,))


@pytest.mark.slow
@pytest.mark.parametrize("sync", [True, False])
def test_the_scale_of_the_weights_does_not_matter(key, sync, rng):
    net, optimizer, mesh = NETS["bn"], optax.sgd(0.3), training.data_mesh()
    start, x, targets = jax.tree.map(
        lambda a: a.astype(np.float32) if a.dtype == np.float64 else a,
        (training.init(net, optimizer, key), X[:40], TARGETS[:40]),
    )
    where = np.where(np.arange(40) > 6, rng.uniform(0.1, 1, 40), 0).astype(np.float32)
    step = training.make_step(net, optimizer, axis_name="data", sync_statistics=sync)
    specs = {"in_specs": (P(), *(P("data"),) * 3), "out_specs": P()}
    spread = jax.jit(jax.shard_map(step, mesh=mesh, **specs))
    wanted = spread(start, x, targets, where)
    if sync:
        alone = jax.jit(training.make_step(net, optimizer))(start, x, targets, where)
        chex.assert_trees_all_close(on_host(wanted), on_host(alone), rtol=1e-4, atol=1e-6)
    mask = where > 0
    for c in (1e-30, 1e-10, 1e10, 1e30):
        got = spread(start, x, targets, np.float32(c) * where)
        chex.assert_trees_all_close(on_host(got), on_host(wanted), rtol=1e-5, atol=1e-6)
        got = spread(start, x, targets, np.float32(c) * mask)
        masked = spread(start, x, targets, mask.astype(np.float32))
        chex.assert_trees_all_close(on_host(got), on_host(masked), rtol=1e-5, atol=1e-6)
    # one weight that is none, on one device
    where[30] = -1
    after, value = spread(start, x, targets, where)
    assert np.isnan(value) and all(np.isnan(a).all() for a in jax.tree.leaves(after.params[0].W))
    (seen,) = after.state
    assert seen.batches.tolist() == [0 if sync else 1] * 5 and seen.skipped.tolist() == [1] * 5


def test_devices_that_normalize_by_themselves_lose_no_small_variance_and_stay_at_the_last_count():
    state = population.init(2)
    mesh, most = training.data_mesh(), np.iinfo(np.int32).max

    def average(state, mean, var, n):
        moments = Moments(mean[0], var[0], n[0])
        return population.update(state, moments, decay=None, axis_name="data")

    rows = (P("data"),) * 3
    update = jax.jit(jax.shard_map(average, mesh=mesh, in_specs=(P(), *rows), out_specs=P()))
    var = (np.arange(1, 9)[:, None] * [1e-30, 1e30]).astype(np.float32)
    mean, n = 0 * var, np.full((8, 2), 2, np.float32)
    n[0] = 1  # has no variance
    state = update(state, mean, var, n)
    np.testing.assert_allclose(state.var, 2 * var[1:].mean(0), rtol=5e-7)
    full = state._replace(batches=np.full(2, most, np.int32))
    after = update(full, mean, 2 * var, n)
    assert after.batches.tolist() == [most, most]
    assert np.all(np.asarray(after.var_remainder) != state.var_remainder)  # it still goes in


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_a_step_is_one_whatever_is_checked(key, name, rng):
    net, optimizer, mesh = NETS[name], optax.sgd(0.3), training.data_mesh()
    start = training.init(net, optimizer, key)
    where = rng.uniform(0, 1, 40) * (np.arange(40) > 6)
    batch = X[:40], TARGETS[:40], where
    step = training.make_step(net, optimizer, axis_name="data")
    specs = {"in_specs": (P(), *(P("data"),) * 3), "out_specs": P(), "check_vma": False}
    wanted = jax.jit(training.make_step(net, optimizer))(start, *batch)
    close(jax.jit(jax.shard_map(step, mesh=mesh, **specs))(start, *batch), wanted)


@pytest.mark.slow
def test_the_cost_over_devices_is_the_whole_batchs(key):
    net, mesh = NETS["bn"], training.data_mesh()
    start = training.init(net, optax.sgd(1.0), key)

    def objective(params, x, targets, axis_name=None):
        return cost(net, params, start.state, x, targets, axis_name=axis_name)

    def spread(params, x, targets):
        return objective(params, x, targets, "data")

    rows = P("data"), P("data")
    spread = jax.shard_map(spread, mesh=mesh, in_specs=(P(), *rows), out_specs=P())
    args = start.params, X[:40], TARGETS[:40]
    got = jax.jit(jax.value_and_grad(spread, has_aux=True))(*args)
    close(got, jax.jit(jax.value_and_grad(objective, has_aux=True))(*args))


def test_samples_are_shared_out_once():
    mesh = training.data_mesh()
    assert training.local_rows(mesh, N) == slice(0, N)
    x = training.spread(mesh, X, N)
    assert x.shape == (48, 4) and len(x.addressable_shards[0].data) == 6
    np.testing.assert_array_equal(x, np.pad(X, ((0, 3), (0, 0))))
    assert training.spread(mesh, x, N) is x
    with pytest.raises(ValueError, match="must be the 45 of 45 samples .*; got 44"):
        training.spread(mesh, X[1:], N)
