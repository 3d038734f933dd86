import dataclasses
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import quickly_compiled

from bnjax import Network, init, training
from bnjax.training import grids

rng = np.random.default_rng(0)
X, TARGETS = rng.normal(size=(8, 4)), rng.normal(size=(8, 2))
NET = Network((4, 2), cost="squared_error", norm_output=True)  # one layer: quickly compiled
KEYS = jax.random.split(jax.random.key(7), 2)
RATES = {"rate": jnp.array([0.1, 0.3, 1e200]), "momentum": jnp.array([0.9, 0.5, 0.0])}


def make_optimizer(row):
    return optax.sgd(row["rate"], momentum=row["momentum"])


def swept(at_once, **options):
    options = {"epochs": 2, "batch_size": 4} | options
    return training.sweep(
        NET,
        make_optimizer,
        RATES,
        KEYS,
        X,
        TARGETS,
        at_once=at_once,
        evaluate=lambda train_state: train_state.params[-1].beta,
        **options,
    )


def alone(row, seed):
    optimizer = make_optimizer(jax.tree.map(lambda a: float(a[row]), RATES))
    start = training.init(NET, optimizer, KEYS[seed])
    key = jax.random.fold_in(KEYS[seed], 1)
    run = training.fit(
        NET, optimizer, start, X, TARGETS, epochs=2, batch_size=4, key=key, epochs_per_call=2
    )
    (progress,) = run
    return jax.tree.map(np.array, (progress.train_state, progress.costs))


@pytest.fixture(scope="module")
def one_by_one():
    reports = []
    with quickly_compiled():
        found = swept(None, report=lambda *counts: reports.append(counts))
    assert found.at_once == 1  # what a CPU is best at
    assert reports == [(n, 12) for n in range(1, 13)]
    return found


@pytest.fixture(scope="module")
def side_by_side():
    reports = []
    with quickly_compiled():
        found = swept(5, epochs_per_call=2, report=lambda *counts: reports.append(counts))
    assert found.at_once == 3  # two parts of six networks, none half empty
    assert reports == [(6, 12), (12, 12)]
    return found


def test_networks_side_by_side_are_those_one_after_the_other(one_by_one, side_by_side):
    assert one_by_one.costs.shape == (3, 2, 2, 2)
    for ours, theirs in zip(one_by_one[:4], side_by_side[:4], strict=True):
        pick = jax.tree.map(lambda a: a[:2], (ours, theirs))  # the third row overflowed
        chex.assert_trees_all_close(*pick, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("quick_training")
def test_each_network_is_the_one_trained_alone(one_by_one):
    row, seed = 1, 0
    got = jax.tree.map(lambda a: a[row, seed], (one_by_one.train_state, one_by_one.costs))
    chex.assert_trees_all_close(got, alone(row, seed), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(one_by_one.evaluations[row, seed, -1], got[0].params[-1].beta)


def test_seeds_share_start_and_batches_between_rows(one_by_one):
    np.testing.assert_allclose(one_by_one.costs[0, :, 0, 0], one_by_one.costs[1, :, 0, 0], rtol=0)
    assert one_by_one.costs[0, 0, 0, 0] != one_by_one.costs[0, 1, 0, 0]


def test_what_diverged_is_marked_with_its_first_epoch(one_by_one, side_by_side):
    for found in (one_by_one, side_by_side):
        np.testing.assert_array_equal(found.diverged, [[0, 0], [0, 0], [1, 1]])
        assert np.isfinite(found.costs[2, :, 0, 0]).all()
        assert not np.isfinite(found.costs[2, :, 1]).any()


@pytest.mark.usefixtures("quick_training")
def test_divergence_after_the_first_epoch_is_dated():
    net = Network((4, 2), norm=False, cost="squared_error")
    rates = jnp.array([1e200, 0.1])  # one finite cost, and then one step too far
    found = training.sweep(
        net, optax.sgd, rates, KEYS[:1], X, TARGETS, epochs=3, batch_size=8, epochs_per_call=3
    )
    np.testing.assert_array_equal(found.diverged, [[2], [0]])


@pytest.mark.usefixtures("quick_training")
def test_a_row_may_scale_the_initial_weights():
    """Each network is the one that starts from weights of its own scale."""

    def initialize(row, key):
        params, state = init(NET, key)
        return tuple(layer._replace(W=row["scale"] * layer.W) for layer in params), state

    rows = {"rate": jnp.array([0.1, 0.2]), "scale": jnp.array([1.0, 50.0])}
    options = {"epochs": 2, "batch_size": 4, "epochs_per_call": 2}
    found = training.sweep(
        *(NET, lambda row: optax.sgd(row["rate"]), rows, KEYS[:1], X, TARGETS),
        initialize=initialize,
        **options,
    )
    net, optimizer = dataclasses.replace(NET, init_scale=50.0), optax.sgd(0.2)
    start = training.init(net, optimizer, KEYS[0])
    key = jax.random.fold_in(KEYS[0], 1)
    (wanted,) = training.fit(net, optimizer, start, X, TARGETS, key=key, **options)
    np.testing.assert_allclose(found.costs[1, 0], wanted.costs, rtol=1e-10)


@pytest.mark.parametrize(
    ("limit", "fitting"), [(10_000, 8), (1_000, 6), (750, 3), (510, 1), (None, 8)]
)
def test_as_many_networks_as_the_memory_holds(monkeypatch, limit, fitting):
    memory = limit and {"bytes_limit": limit, "bytes_in_use": 500}
    needs = SimpleNamespace(temp_size_in_bytes=300, argument_size_in_bytes=200)
    device = SimpleNamespace(memory_stats=lambda: memory)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    # eight need 500 bytes, and four fifths of what is free may be taken
    assert grids.networks_that_fit(SimpleNamespace(memory_analysis=lambda: needs), 8) == fitting


def test_an_empty_grid_is_refused():
    with pytest.raises(ValueError, match="must be at least one each; got 3, 2 and 0"):
        swept(0)
    with pytest.raises(ValueError, match="got 3, 0 and None"):
        training.sweep(NET, make_optimizer, RATES, KEYS[:0], X, TARGETS, epochs=1, batch_size=4)
    with pytest.raises(ValueError, match="sweep: `batch_size` must be between 1 and the 8"):
        swept(None, batch_size=0)
