"""Weights are importance weights: their scale does not matter, and what is none is refused."""

from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from compiling import quick_jit
from hypothesis import given
from hypothesis import strategies as st
from reference import relative
from test_population_range import EXAMPLES

from bnjax import Network, backprop, batch_norm, bn_apply, cost, costs, geometry, init, population
from bnjax.training import init as start_of
from bnjax.training import make_step, measure_population

rng = np.random.default_rng(0)
B = 7
X = rng.normal(size=(B, 3)).astype(np.float32)
TARGETS = (rng.random((B, 2)) > 0.5).astype(np.float32)
W = np.float32([0.5, 2, 0, 1, 0.1, 3, 1])
MASK = np.array([1, 1, 0, 1, 1, 0, 1]) > 0
SCALES = [1e-30, 1e-12, 1 / 3, 1e12, 1e30]
RULES = ("vjp", "jvp", "autodiff")
NETS = {"bn": Network((3, 4, 2)), "baseline": Network((3, 4, 2), norm=False)}
NO_WEIGHTS = {"negative": -1.0, "infinite": np.inf, "NaN": np.nan}
single = partial(jax.tree.map, lambda a: a.astype(np.float32) if a.dtype == np.float64 else a)


@cache  # compiled once for all tests: they have the same shapes and dtypes
def step_of(name, gradient="rule"):
    """A step with this gradient, and where it starts."""
    net, optimizer = NETS[name], optax.sgd(0.3)
    start = single(start_of(net, optimizer, jax.random.key(0)))
    return quick_jit(make_step(net, optimizer, gradient=gradient)), start


def update(moments):
    state = population.init(moments.mean.shape, moments.mean.dtype)
    return population.update(state, moments, decay=None)


@quick_jit
def seen(x, w):
    """The moments of a batch, and the statistics after it alone."""
    _, moments = batch_norm(x, where=w)
    return moments, update(moments)


# --- the effective count --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axis", "spread"),
    [
        ((B, 3), (-1,), (B, 1)),
        ((B, 3), (-1,), (B, 3)),
        ((3, 2, 4), (1,), (3, 1, 4)),
        ((3, 2, 4), (1,), (2, 1)),
        ((300, 3), (-1,), (300, 1)),  # several samples in a row
    ],
)
def test_the_effective_count_is_free_of_scale_and_exact_for_a_mask(shape, axis, spread, rng):
    @quick_jit
    def counts(w):
        return batch_norm(jnp.ones(shape, jnp.float32), where=w, axis=axis)[1].effective_count

    w = rng.uniform(0.1, 2, spread).astype(np.float32)
    wanted = reference.effective_count(np.ones(shape), axis=axis, weights=w).ravel()
    for c in SCALES:
        np.testing.assert_allclose(counts(np.float32(c) * w), wanted, rtol=2e-6)
    mask = rng.random(spread) > 0.3
    wanted = reference.effective_count(np.ones(shape), axis=axis, weights=mask).ravel()
    np.testing.assert_array_equal(counts(mask), wanted)
    assert not np.any(counts(0 * w))


def test_weights_of_unlike_scale_in_each_channel_have_their_own_count():
    w = np.float32([[1e-30, 1e30, 1, 1e20], [1e-30, 3e30, 0, 1], [2e-30, 0, 0, 1e-20]])
    moments, state = seen(X[:3, [0, 1, 2, 0]], w)
    np.testing.assert_allclose(moments.effective_count, [16 / 6, 1.6, 1, 1], rtol=1e-6)
    # a single sample has no variance, whatever it weighs
    assert state.batches.tolist() == [1, 1, 0, 0]
    assert not seen(X, np.float32(5 * (np.arange(B) == 2)[:, None]))[1].batches.any()


@pytest.mark.parametrize("total", [1e-3, 1.0, 1.0001])
def test_statistics_do_not_depend_on_what_the_weights_add_up_to(total):
    w = np.full((10, 1), total / 10)
    x = np.random.default_rng(1).normal(size=(10, 2))
    _, state = seen(x, w)
    np.testing.assert_allclose(state.var, x.var(0, ddof=1), rtol=1e-12)
    assert state.batches.tolist() == [1, 1]


def test_the_factor_of_the_effective_count_makes_the_variance_unbiased(rng):
    # over all ways to draw three of four, each with a weight of its own (P.6)
    people, w = rng.normal(size=4), np.array([[0.2], [1.0], [3.0]])
    drawn = people[np.array(list(product(range(4), repeat=3)))]
    mean, var = population.statistics(seen(drawn.T, w)[1])  # one batch is one channel
    np.testing.assert_allclose([mean.mean(), var.mean()], [people.mean(), people.var()], rtol=1e-12)


# --- the scale of the weights ---------------------------------------------------------------------


def everything(x, w, y_bar):
    def by(rule):
        def f(x, gamma, beta):
            return batch_norm(x, gamma, beta, where=w, rule=rule)

        ones = jnp.ones(x.shape[1], x.dtype)
        (y, moments), pull = jax.vjp(f, x, ones, ones)
        bars = jax.tree.map(jnp.ones_like, moments)
        return y, moments[:2], moments.effective_count, pull((y_bar, bars)), update(moments)

    return {rule: by(rule) for rule in RULES}


measure = quick_jit(everything)


def check_scale(c, of, *, bound=2e-6):
    """A function of weights gives with c w what it gives with w."""
    wanted, got = of(W), of(np.float32(c) * W)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert relative(a, b) <= bound


scales = st.floats(-30, 30).map(lambda e: 10.0**e)


@EXAMPLES
@given(scales)
def test_moments_y_and_gradients_are_free_of_the_weights_scale(c):
    y_bar = np.linspace(-1, 1, X.size, dtype=np.float32).reshape(X.shape)
    check_scale(c, lambda w: measure(X, w[:, None], y_bar))


@pytest.mark.parametrize(("c", "size"), [(1e30, 1e12), (1e-30, 1e-12)])
def test_neither_scale_is_limited_by_the_other(c, size):
    x, y_bar = np.float32(size) * X, np.float32(1 / size) * X
    wanted = measure(x, W[:, None], y_bar)
    got = measure(x, np.float32(c) * W[:, None], y_bar)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert relative(a, b) <= 2e-6


@pytest.mark.parametrize(
    "gradient", ["rule", "hand", pytest.param("autodiff", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", NETS)
def test_a_step_is_free_of_the_weights_scale(name, gradient):
    step, start = step_of(name, gradient)
    for c in SCALES:
        check_scale(c, lambda w: step(start, X, TARGETS, w))


@pytest.mark.slow
def test_a_sweep_over_scales_is_one_network_many_times():
    step, start = step_of("bn")
    many = quick_jit(jax.vmap(make_step(NETS["bn"], optax.sgd(0.3)), (None, None, None, 0)))
    found = many(start, X, TARGETS, np.float32(SCALES)[:, None] * W)
    wanted = step(start, X, TARGETS, W)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        for one in a:
            assert relative(one, b) <= 2e-6


def test_a_scaled_mask_leaves_the_rows_out():
    step, start = step_of("bn")
    x = np.where(MASK[:, None], X, np.float32(np.nan))
    wanted = step(start, X[MASK], TARGETS[MASK])
    for c in SCALES:
        got = step(start, x, TARGETS, np.float32(c) * MASK)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            assert relative(a, b) <= 2e-6


@quick_jit
def cost_and_errors(w):
    errors = {name: costs.output_error(name, X[:, :2], TARGETS, w) for name in costs.COSTS}
    return costs.mean(jnp.asarray(X[:, 0]), w), errors


@quick_jit
def angles_of_the_first_layer(w):
    net = NETS["bn"]
    params, _ = single(init(net, jax.random.key(0)))
    angles = geometry.observe(net, params, X, TARGETS, where=w)[0]
    return [getattr(angles, name) for name in ("cos1", "cos2", "cos3", "sd_x", "rho")]


@pytest.mark.parametrize("c", [1e-30, 1e30])
def test_costs_errors_and_angles_are_free_of_the_weights_scale(c):
    check_scale(c, cost_and_errors)
    check_scale(c, angles_of_the_first_layer, bound=1e-5)


@pytest.mark.usefixtures("quick_training")
def test_pools_and_measured_statistics_are_free_of_the_weights_scale(key):
    net = NETS["bn"]
    params, _ = single(init(net, key))
    data = [(X, W), (X[::-1] + 1, W + 1)]
    for gather in ("pool", "average"):
        wanted = measure_population(net, params, data, gather=gather)
        for c in SCALES:
            scaled = [(x, np.float32(c) * w) for x, w in data]
            got = measure_population(net, params, scaled, gather=gather)
            for a, b in zip(got, wanted, strict=True):
                np.testing.assert_allclose(a.var, b.var, rtol=2e-6)
                np.testing.assert_allclose(a.mean, b.mean, rtol=2e-6, atol=1e-6)
                assert a.batches.tolist() == [2] * 4


def test_weights_that_the_compiler_knows_are_weights_like_others():
    # XLA would form other products of constants: their squares overflow
    y_bar = np.ones_like(X)

    def of(w):
        return lambda x: (everything(x, w[:, None], y_bar), costs.mean(x[:, 0], w))

    wanted = quick_jit(of(W))(X)
    for c in (1e-30, 1e30):
        got = quick_jit(of(np.float32(c) * W))(X)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            assert relative(a, b) <= 2e-6


# --- what is no weight ----------------------------------------------------------------------------


def callers(key):
    """Every public function that weighs samples, by its name in errors."""
    net = NETS["bn"]
    params, state = init(net, key)
    start = start_of(net, optax.sgd(1.0), key)
    step = make_step(net, optax.sgd(1.0))
    angles = geometry.layer_angles
    return {
        "batch_norm": lambda w: batch_norm(X, where=w[:, None]),
        "bn_apply": lambda w: bn_apply(net, params, state, X, train=True, where=w),
        "cost": lambda w: cost(net, params, state, X, TARGETS, where=w),
        "training.make_step": lambda w: step(start, X, TARGETS, w),
        "training.measure_population": lambda w: measure_population(net, params, [(X, w)]),
        "backprop.value_and_grad": lambda w: backprop.value_and_grad(
            net, params, X, TARGETS, where=w
        ),
        "geometry.observe": lambda w: geometry.observe(net, params, X, TARGETS, where=w),
        "geometry.layer_angles": lambda w: angles(X, X, X, where=w),
        "costs.mean": lambda w: costs.mean(jnp.asarray(X[:, 0]), w),
        "costs.output_error": lambda w: costs.output_error("squared_error", X, X, w),
    }


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_is_no_weight_is_refused_where_it_is_known(kind, key):
    w = W.copy()
    w[[1, 3]] = NO_WEIGHTS[kind]
    for name, call in callers(key).items():
        message = (
            f"^{name}: `where` must hold finite weights >= 0; got {NO_WEIGHTS[kind]} in 2 of 7 "
            "places. Give samples that are not to count the weight 0.$"
        )
        for given_as in (w, jnp.asarray(w)):
            with pytest.raises(ValueError, match=message):
                call(given_as)
    message = "batch_norm: `where` must hold finite weights"
    with pytest.raises(ValueError, match=message):  # closed over is known, too
        jax.jit(lambda x: batch_norm(x, where=w[:, None]))(X)
    with pytest.raises(ValueError, match=message):
        jax.grad(lambda x: jnp.sum(batch_norm(x, where=w[:, None])[0]))(X)


def test_integers_are_weights_too():
    whole = np.array([1, 0, 2, 1, 1, 3, 0])
    np.testing.assert_array_equal(
        *(batch_norm(X, where=a[:, None])[0] for a in (whole, 1.0 * whole))
    )
    with pytest.raises(ValueError, match="got -2.0 in 1 of 7 places"):
        batch_norm(X, where=np.where(whole == 2, -2, whole)[:, None])


@partial(quick_jit, static_argnums=2)
def both_ways(x, w, rule):
    (y, moments), pull = jax.vjp(lambda x: batch_norm(x, where=w, rule=rule), x)
    return y, pull((y, jax.tree.map(jnp.zeros_like, moments)))[0], moments, update(moments)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_is_no_weight_makes_its_channel_nan_where_it_is_traced(kind, rule):
    w = np.broadcast_to(W[:, None], X.shape).copy()
    w[1, 1] = NO_WEIGHTS[kind]
    y, x_bar, moments, state = both_ways(X, w, rule)
    for a in (y, x_bar):
        assert np.isnan(a[W > 0]).all(0).tolist() == [False, True, False]
        assert np.isfinite(a[:, [0, 2]]).all()
    for a in moments:
        assert np.isnan(a).tolist() == [False, True, False]
    assert np.all(y[W == 0] == 0)  # there it does not exist
    assert state.batches.tolist() == [1, 0, 1] and state.skipped.tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("gradient", ["rule", "hand"])
def test_what_is_no_weight_makes_cost_and_gradient_nan_where_it_is_traced(name, gradient):
    step, start = step_of(name, gradient)
    for wrong in NO_WEIGHTS.values():
        w = W.copy()
        w[1] = wrong
        after, value = step(start, X, TARGETS, w)
        assert np.isnan(value) and np.isnan(after.params[0].W).all()
        assert np.isnan(after.params[1].W).all()


# --- statistics that saw nothing ------------------------------------------------------------------


@pytest.mark.usefixtures("quick_training")
def test_evaluation_without_statistics_says_why_or_is_nan(key):
    net = NETS["bn"]
    params, state = init(net, key)
    nothing = [(X, 0 * W), (X, 5.0 * (np.arange(B) == 3)), (X * np.nan, W)]
    for gather in ("pool", "average"):
        seen = measure_population(net, params, nothing[::2], gather=gather)
        message = (
            r"got none for 4 of 4 channels of normalization 0 \(1 batches were skipped as not "
            r"finite\). A batch counts where its moments are finite and more than one sample has "
            "weight."
        )
        with pytest.raises(ValueError, match=message):
            bn_apply(net, params, seen, X, train=False)
        evaluate = quick_jit(lambda state: cost(net, params, state, X, TARGETS, train=False)[0])
        assert np.isnan(evaluate(seen))
    step = quick_jit(lambda state, x, w: bn_apply(net, params, state, x, train=True, where=w)[1])
    for x, w in nothing:
        state = step(state, x, w)
    assert not state[0].batches.any() and state[0].skipped.tolist() == [1] * 4
    np.testing.assert_array_equal(population.statistics(state[0]), [[0] * 4, [1] * 4])


def test_weights_whose_sum_overflows_give_nan_not_a_plausible_number(rng):
    x = jnp.asarray(rng.normal(size=(8, 2)), jnp.float32)
    y, moments = batch_norm(x, where=jnp.full((8, 1), 1e38, jnp.float32))
    assert jnp.isnan(y).all() and jnp.isnan(moments.mean).all()
