"""Inference: evaluation with gathered statistics, and statistics measured after training."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit

from bnjax import Network, batch_norm, bn_apply, cost, fold, init, network, normalize, population
from bnjax.training import measure_population

rng = np.random.default_rng(0)
NET = Network((4, 5, 3), activation="tanh", norm_output=True, eps=0.01)
X = rng.normal(size=(11, 4)) + 2
PARAMS, UNSEEN = init(NET, jax.random.key(0))
PARAMS = tuple(layer._replace(gamma=layer.gamma * 1.5, beta=layer.beta + 0.3) for layer in PARAMS)

# --- evaluation -----------------------------------------------------------------------------------

jitted = jax.jit(normalize, static_argnames="axis")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((257, 7), np.float32),
        pytest.param((4096, 3), np.float32, marks=pytest.mark.slow),
        pytest.param((257, 7), jnp.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_place_and_company_of_a_sample_change_no_bit(shape, dtype, rng):
    x = jnp.asarray(rng.normal(size=shape) * 3 + 5, dtype)
    given = jnp.asarray(rng.uniform(0.5, 2, (4, shape[1])), jnp.float32)
    order = rng.permutation(shape[0])
    for f in (normalize, jitted):
        y = np.asarray(f(x, *given), np.float64)
        np.testing.assert_array_equal(np.asarray(f(x[order], *given), np.float64), y[order])
        for first, last in ((0, 1), (0, 5), (17, 117), (shape[0] - 1, shape[0])):
            part = np.asarray(f(x[first:last], *given), np.float64)
            np.testing.assert_array_equal(part, y[first:last])
    one_by_one = jax.jit(jax.vmap(normalize, (0, *[None] * 4)))(x[:, None], *given)
    np.testing.assert_array_equal(np.asarray(one_by_one[:, 0], np.float64), y)


def seen(state, mean=0.5, var=2.0, remainder=0.0):
    return tuple(
        s._replace(
            mean=s.mean + mean,
            var=0 * s.var + var,
            remainder=s.mean + remainder,
            batches=s.batches + 1,
        )
        for s in state
    )


evaluate = quick_jit(lambda net, *args: bn_apply(net, *args, train=False)[0], static_argnums=0)


def test_a_network_evaluates_each_sample_alone_to_the_rounding_of_its_products(rng):
    state = seen(UNSEEN)
    y, order = evaluate(NET, PARAMS, state, X), rng.permutation(len(X))
    np.testing.assert_allclose(evaluate(NET, PARAMS, state, X[order]), y[order], rtol=1e-13)
    np.testing.assert_allclose(evaluate(NET, PARAMS, state, X[3:4]), y[3:4], rtol=1e-13)


def test_evaluation_uses_both_parts_of_the_mean(rng):
    net = Network((1, 3), norm_output=True)
    params, state = init(net, jax.random.key(0))
    single = partial(jax.tree.map, lambda a: a.astype(jnp.float32) if a.dtype == np.float64 else a)
    params, state = single(params), single(seen(state, mean=1e4, var=1.0, remainder=3e-4))
    params = (params[0]._replace(W=jnp.ones((1, 3), jnp.float32)),)
    x = (rng.normal(size=(50, 1)) + 1e4).astype(np.float32)
    wanted = (x.astype(np.float64) - 1e4 - np.float64(state[0].remainder[0])) / (1 + 1e-5) ** 0.5
    assert reference.relative(evaluate(net, params, state, x)[:, :1], wanted) < 1.5e-7
    poor = tuple(s._replace(remainder=0 * s.remainder) for s in state)
    assert reference.relative(evaluate(net, params, poor, x)[:, :1], wanted) > 1e-4


def test_half_precision_networks_keep_and_read_float32_statistics():
    half = partial(jax.tree.map, lambda a: a.astype(jnp.bfloat16))
    params, x = half(PARAMS), jnp.asarray(X, jnp.bfloat16)
    state = tuple(population.init(s.mean.shape, jnp.bfloat16) for s in UNSEEN)
    _, state = quick_jit(lambda: bn_apply(NET, params, state, x, train=True))()
    assert {s.mean.dtype for s in state} == {s.var.dtype for s in state} == {np.dtype("float32")}
    seen_by_first = np.asarray(x @ params[0].W, np.float64)
    np.testing.assert_allclose(state[0].mean, seen_by_first.mean(0), rtol=1e-6)
    np.testing.assert_allclose(state[0].var, seen_by_first.var(0, ddof=1), rtol=1e-6)
    assert evaluate(NET, params, state, x).dtype == jnp.bfloat16


def test_statistics_of_no_batch_are_refused_where_they_are_known():
    message = (
        "bn_apply: `state` must hold statistics of at least one batch for every channel; got none "
        "for 5 of 5 channels of normalization 0 (0 batches were skipped as not finite)."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        bn_apply(NET, PARAMS, UNSEEN, X, train=False)
    with pytest.raises(ValueError, match="at least one batch"):
        cost(NET, PARAMS, UNSEEN, X, X[:, :3], train=False)
    with pytest.raises(ValueError, match="at least one batch"):  # closed over is known, too
        jax.jit(lambda x: bn_apply(NET, PARAMS, UNSEEN, x, train=False))(X)
    broken = seen(UNSEEN)
    one = broken[1].batches.at[2].set(0)
    skipped = broken[1].skipped.at[2].set(4)
    broken = (broken[0], broken[1]._replace(batches=one, skipped=skipped))
    with pytest.raises(ValueError, match=r"1 of 3 channels of normalization 1 \(4 batches"):
        bn_apply(NET, PARAMS, broken, X, train=False)


def test_statistics_of_no_batch_evaluate_to_nan_where_they_are_not_known():
    net = Network((4, 3), norm_output=True)
    params, (unseen,) = init(net, jax.random.key(0))
    state = (seen((unseen,))[0]._replace(batches=jnp.array([1, 0, 1], jnp.int32)),)
    assert np.isnan(evaluate(net, params, state, X)).all(0).tolist() == [False, True, False]
    W, b = quick_jit(lambda state: fold(net, params, state)[1])(state)[0]
    assert np.isnan(b).tolist() == [False, True, False]
    assert np.isnan(W).all(0).tolist() == [False, True, False]


# --- measured -------------------------------------------------------------------------------------


def layers_see(batches):
    """x of every layer, batch by batch, each normalized with its own moments."""
    found = [[] for _ in PARAMS]
    for u in batches:
        for layer, xs in zip(PARAMS, found, strict=True):
            xs.append(u @ np.asarray(layer.W))
            u = np.tanh(reference.batch_norm(xs[-1], layer.gamma, layer.beta, eps=NET.eps)[0])
    return found


def check_pooled(state, batches):
    for one, xs in zip(state, layers_see(batches), strict=True):
        x = np.concatenate(xs)
        np.testing.assert_allclose(
            population.statistics(one), [x.mean(0), x.var(0)], rtol=1e-11, atol=1e-13
        )


def check_averaged(state, batches):
    for one, xs in zip(state, layers_see(batches), strict=True):
        mean = np.mean([x.mean(0) for x in xs], 0)  # P.1
        var = np.mean([x.var(0, ddof=1) for x in xs], 0)  # P.2
        np.testing.assert_allclose(population.statistics(one), [mean, var], rtol=1e-11, atol=1e-13)


CHECKS = {"pool": check_pooled, "average": check_averaged}
DEALT = [X[k::3] for k in range(3)]  # 4, 4 and 3 of 11


@pytest.mark.parametrize("gather", ["average", pytest.param("pool", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("quick_training")
def test_an_array_is_measured_in_even_batches_that_the_layers_see(gather):
    state = measure_population(NET, PARAMS, X, batch_size=4, gather=gather)
    CHECKS[gather](state, DEALT)
    assert all(s.batches.tolist() == [3] * s.batches.size for s in state)


@pytest.mark.slow
@pytest.mark.parametrize("gather", ["pool", "average"])
@pytest.mark.usefixtures("quick_training")
def test_batches_are_measured_one_after_the_other(gather):
    state = measure_population(NET, PARAMS, (x for x in DEALT), gather=gather)
    CHECKS[gather](state, DEALT)


@pytest.mark.usefixtures("quick_training")
def test_masked_batches_are_measured_without_what_is_masked():
    def padded():
        for x in DEALT:
            where = np.arange(5) < len(x)
            yield np.concatenate([x, np.full((5 - len(x), 4), np.nan)]), where

    check_pooled(measure_population(NET, PARAMS, padded()), DEALT)


@pytest.mark.usefixtures("quick_training")
def test_measured_on_one_batch_evaluation_is_training():
    state = measure_population(NET, PARAMS, X)
    trained = quick_jit(lambda: bn_apply(NET, PARAMS, UNSEEN, X, train=True)[0])()
    np.testing.assert_allclose(evaluate(NET, PARAMS, state, X), trained, rtol=1e-11, atol=1e-13)


def moments_of(params, x):
    """The moments of NET's normalizations, as by a network of one's own."""
    moments = {}
    for number, layer in enumerate(params):
        y, moments[number] = batch_norm(x @ layer.W, layer.gamma, layer.beta, eps=NET.eps)
        x = jnp.tanh(y)
    return moments


@pytest.mark.parametrize("gather", ["pool", pytest.param("average", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("data", "more"), [(X, {"batch_size": 4}), (DEALT, {})], ids=["array", "batches"]
)
@pytest.mark.usefixtures("quick_training")
def test_a_function_is_measured_as_the_network_is(data, more, gather):
    wanted = measure_population(NET, PARAMS, X, batch_size=4, gather=gather)
    got = measure_population(moments_of, PARAMS, data, gather=gather, **more)
    assert list(got) == [0, 1]
    for number, one in got.items():
        for a, b in zip(one, wanted[number], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_what_cannot_be_measured_is_refused_in_words():
    with pytest.raises(TypeError, match="must return `Moments` or a pytree of them"):
        measure_population(lambda params, x: x, PARAMS, X)
    with pytest.raises(ValueError, match="`data` must hold a batch; got none"):
        measure_population(moments_of, PARAMS, [])
    with pytest.raises(ValueError, match="`batch_size` splits an array"):
        measure_population(moments_of, PARAMS, DEALT, batch_size=4)


def test_a_batch_that_is_not_finite_is_left_out_and_counted():
    batches = [DEALT[0], np.full((4, 4), np.nan), DEALT[1]]
    state = measure_population(NET, PARAMS, batches)
    check_pooled(state, [DEALT[0], DEALT[1]])
    assert all(s.skipped.tolist() == [1] * s.skipped.size for s in state)


def test_measuring_is_traced_once_for_each_shape(monkeypatch):
    calls, run_layers = [], network.run_layers

    def counted(*args):
        calls.append(1)
        return run_layers(*args)

    monkeypatch.setattr(network, "run_layers", counted)
    net = Network((4, 3), norm_output=True, eps=0.02)  # that no other test has
    params, _ = init(net, jax.random.key(0))
    for data, more in (([X[:4], X[4:8], X[8:]], {}), (X, {"batch_size": 4})):
        measure_population(net, params, data, **more)
        before = len(calls)
        again = jax.tree.map(lambda a: 2 * a, params)
        measure_population(net, again, data, **more)
        assert 0 < len(calls) == before


@pytest.mark.parametrize(("samples", "batch_size", "batches"), [(3, 2, 1), (9, 4, 3)])
def test_no_batch_is_left_with_one_sample(samples, batch_size, batches):
    net = Network((4, 2), norm_output=True)
    params, _ = init(net, jax.random.key(0))
    state = measure_population(net, params, X[:samples], batch_size=batch_size)
    assert state[0].batches.tolist() == [batches] * 2


def test_a_baseline_has_nothing_to_measure():
    net = Network((4, 3), norm=False)
    assert measure_population(net, init(net, jax.random.key(0))[0], X) == ()


@pytest.mark.slow
def test_measuring_works_under_jit_and_vmap():
    many = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), PARAMS)

    def measure(params):
        return measure_population(NET, params, X, batch_size=4)

    found = jax.jit(jax.vmap(measure))(many)
    alone = measure(jax.tree.map(lambda a: a[1], many))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a[1], b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        (X, {"gather": "pooled"}, "`gather` must be one of average, pool; got 'pooled'; did you"),
        (X, {"batch_size": 1}, "`batch_size` must be at least 2, for a batch to have a variance"),
        (X[:1], {}, "`x` must leave at least two values per channel"),
        (X[:, :3], {}, "`x` must have shape (B, 4)"),
        ([X], {"batch_size": 4}, "`batch_size` splits an array into batches; got 4"),
        ([X[:1]], {}, "`x` must leave at least two values per channel"),
        ([], {}, "`data` must hold a batch; got none"),
    ],
)
def test_what_cannot_be_measured_is_refused(data, more, message):
    with pytest.raises(ValueError, match=re.escape(f"measure_population: {message}")):
        measure_population(NET, PARAMS, data, **more)
