"""Data as people have them in Python: DataFrames, labels, loaders of other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bnjax import Network, backprop, bn_apply, cost, training

X = np.random.default_rng(0).normal(size=(10, 2))
LABELS = np.arange(10) % 3
TARGETS = np.eye(3)[LABELS]
NET, OPTIMIZER = Network((2, 3)), optax.sgd(0.5)


class Frame:
    """What a DataFrame of pandas or polars and a tensor have in common."""

    def __init__(self, values):
        self.values = np.asarray(values)
        self.shape, self.ndim = self.values.shape, self.values.ndim

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype)


class Loader:
    """A loader: iterated over anew in each epoch, its batches are lists."""

    def __init__(self, *arrays, kind=Frame):
        self.arrays, self.kind = arrays, kind

    def __iter__(self):
        for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
            yield [self.kind(a[rows]) for a in self.arrays]


@pytest.fixture
def start(key):
    return training.init(NET, OPTIMIZER, key)


def fitted(start, x, targets):
    options = {"epochs": 1, "batch_size": 10, "key": jax.random.key(1)}
    return next(training.fit(NET, OPTIMIZER, start, x, targets, **options)).costs


def test_a_data_frame_is_trained_on_like_its_array(key):
    wanted = fitted(training.init(NET, OPTIMIZER, key), X, TARGETS)
    got = fitted(training.init(NET, OPTIMIZER, key), Frame(X), Frame(TARGETS))
    np.testing.assert_array_equal(got, wanted)


def test_a_data_frame_s_statistics_are_measured(start):
    wanted, got = (
        training.measure_population(NET, start.params, data, batch_size=5) for data in (X, Frame(X))
    )
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


@pytest.mark.parametrize("dtype", [object, str])
def test_a_data_frame_with_text_is_refused(dtype, start):
    text = r"`x` must hold numbers; got Frame of dtype .*get_dummies"
    x = Frame(X.astype(dtype))
    with pytest.raises(TypeError, match=f"training.fit: {text}"):
        fitted(start, x, TARGETS)
    with pytest.raises(TypeError, match=f"training.sweep: {text}"):
        options = {"epochs": 1, "batch_size": 10}
        keys = jax.random.split(jax.random.key(0), 1)
        training.sweep(NET, optax.sgd, jnp.ones(1), keys, x, TARGETS, **options)
    with pytest.raises(TypeError, match="measure_population: `data` must hold numbers"):
        training.measure_population(NET, start.params, x)
    with pytest.raises(TypeError, match=f"training.fit_batches: {text}"):
        next(training.fit_batches(NET, OPTIMIZER, start, [(x, TARGETS)], epochs=1))


def test_what_takes_one_batch_takes_arrays_only(start):
    params, state = start.params, start.state
    for call in (
        lambda x, targets: cost(NET, params, state, x, targets),
        lambda x, targets: training.make_step(NET, OPTIMIZER)(start, x, targets),
        lambda x, targets: backprop.value_and_grad(NET, params, x, targets),
        lambda x, targets: bn_apply(NET, params, state, x if targets is TARGETS else X[0], train=1),
    ):
        with pytest.raises(TypeError, match=r"`x` must be an array; got Frame. .*jnp.asarray\(x\)"):
            call(Frame(X), TARGETS)


def test_labels_are_refused_with_the_way_to_rows(start):
    params, state = start.params, start.state
    calls = {
        "fit": lambda labels: fitted(start, X, labels),
        "fit_batches": lambda labels: next(
            training.fit_batches(NET, OPTIMIZER, start, Loader(X, labels), epochs=1)
        ),
        "make_step": lambda labels: training.make_step(NET, OPTIMIZER)(start, X, labels),
        "cost": lambda labels: cost(NET, params, state, X, labels),
        "backprop": lambda labels: backprop.value_and_grad(NET, params, X, labels),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=rf"{name}.*jax\.nn\.one_hot\(labels, 3\)"):
            call(LABELS)
        with pytest.raises(ValueError, match=rf"{name}.*jax\.nn\.one_hot\(labels\[:, 0\], 3\)"):
            call(LABELS[:, None])
        with pytest.raises(ValueError, match=r"got \(\d+, 2\)\.(?! )"):
            call(TARGETS[:, :2])
    net = Network((2, 1))
    params, state, *_ = training.init(net, OPTIMIZER, jax.random.key(0))
    with pytest.raises(ValueError, match=r"targets\[:, None\]"):
        cost(net, params, state, X, LABELS)


def costs_of(batches, key, **options):
    start = training.init(NET, OPTIMIZER, key)
    run = training.fit_batches(NET, OPTIMIZER, start, batches, epochs=2, **options)
    return np.concatenate([progress.costs for progress in run])


def test_a_loader_is_handed_over_as_it_is(key):
    wanted = costs_of(lambda epoch: Loader(X, TARGETS, kind=np.asarray), key)
    np.testing.assert_array_equal(costs_of(Loader(X, TARGETS), key), wanted)
    assert wanted.shape == (2, 3) and (wanted[1] != wanted[0]).all()


def test_an_iterator_lasts_for_one_epoch(key):
    with pytest.raises(ValueError, match="must last for 2 epochs; got an iterator"):
        costs_of(iter(Loader(X, TARGETS)), key)
    assert costs_of(iter(Loader(X, TARGETS)), key, start=1).shape == (1, 3)


@pytest.mark.parametrize("batch", [{"x": X, "targets": TARGETS}, (X,), X])
def test_a_batch_is_a_pair(batch, key):
    with pytest.raises(ValueError, match=r"must yield pairs \(x, targets\); got "):
        costs_of([batch], key)


@pytest.mark.peers
def test_a_data_loader_of_torch_is_handed_over_as_it_is(key):
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(TARGETS))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    wanted = costs_of(Loader(X, TARGETS), key)
    np.testing.assert_array_equal(costs_of(loader, key), wanted)
