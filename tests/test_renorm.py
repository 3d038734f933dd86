"""Batch renormalization is the paper's formula, exactly, by every rule."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit
from hypothesis import given, settings
from hypothesis import strategies as st
from test_properties import CASES, STABLE

from bnjax import audit, batch_norm, normalize, population, renorm

RULES = ("vjp", "jvp", "autodiff")
EPS = 1e-3  # that of sbx


@partial(quick_jit, static_argnames=("axis", "eps", "masked", "rules"))
def pulled(
    x,
    statistics,
    gamma,
    beta,
    y_bar,
    *,
    bounds=(3.0, 5.0),
    where=None,
    axis=-1,
    eps=EPS,
    masked="beta",
    rules=RULES,
):
    """Return y, the moments, and (x̄, γ̄, β̄), by every rule."""
    options = dict(where=where, axis=axis, eps=eps, masked=masked, r_max=bounds[0], d_max=bounds[1])

    def by(rule):
        def function(x, gamma, beta):
            return renorm(x, statistics, gamma, beta, rule=rule, **options)

        y, pull_back, moments = jax.vjp(function, x, gamma, beta, has_aux=True)
        return y, moments, pull_back(y_bar)

    return {rule: by(rule) for rule in rules}


def formula_by_statistics(x, mean, var, gamma, beta):
    """The usual way, as in CrossQ and sbx: R.1 rewritten as statistics of a normalization."""
    mu = x.mean(0, keepdims=True)
    of_batch = jnp.maximum(0, (x**2).mean(0, keepdims=True) - mu**2)
    std = jnp.sqrt(var[None] + EPS)
    r = jax.lax.stop_gradient(jnp.clip(jnp.sqrt(of_batch + EPS) / std, 1 / 3, 3))
    d = jax.lax.stop_gradient(jnp.clip((mu - mean[None]) / std, -5, 5))
    mean, var = mu - d * jnp.sqrt(of_batch) / r, of_batch / r**2
    return gamma[None] * (x - mean) / jnp.sqrt(var + EPS) + beta[None]


# --- channels that are hard to normalize ----------------------------------------------------------


def hard_channels(rng, B=256, copies=8):
    """(x, running mean, running variance), float32: so many channels of each kind, by name."""
    normal = rng.normal(size=(B, copies))
    rare = np.zeros((B, copies))
    rare[rng.integers(B, size=copies), np.arange(copies)] = 0.7
    kinds = {
        "dead": np.zeros((B, copies)),
        "constant": np.full((B, copies), 0.3),
        "tiny": 1e-8 * normal,
        "small": 2 + 1e-4 * normal,
        "rare": rare,
        "shifted": 1e4 + normal,
        "saturated": np.tanh(9 + 3 * normal),
    }
    x = np.concatenate(list(kinds.values()), 1).astype(np.float32)
    # half of the running statistics are near the batch's; the others are such that bounds are met
    which = np.arange(x.shape[1]) % 4
    std = np.sqrt(x.astype(float).var(0) + EPS)
    mean = x.astype(float).mean(0) + std * np.choose(which, [0.3, 9, -0.5, -9])
    var = x.astype(float).var(0) * np.choose(which, [1.2, 50, 0.8, 0.02])
    var += EPS * np.choose(which, [0, 50, 0.1, 0])
    slices = {kind: slice(i * copies, (i + 1) * copies) for i, kind in enumerate(kinds)}
    return x, mean.astype(np.float32), var.astype(np.float32), slices


def errors(got, wanted, sizes, slices):
    """The largest error of each kind, as a part of the terms that cancel in its channel."""
    error = np.abs(np.asarray(got, float) - np.asarray(wanted)).max(0) / np.max(sizes, 0)
    return {kind: error[part].max() for kind, part in slices.items()}


@pytest.fixture
def hard(rng):
    """The arguments of `pulled`, what R.1 makes of them, the size of its terms, and the kinds."""
    x, mean, var, slices = hard_channels(rng)
    gamma, beta = (rng.normal(size=x.shape[1]).astype(np.float32) for _ in range(2))
    y_bar = rng.normal(size=x.shape).astype(np.float32)
    arguments = x, (mean, var), gamma, beta, y_bar
    y, bars, ratio, offset = reference.renorm(x, mean, var, gamma, beta, y_bar, eps=EPS)
    _, _, _, _, x_hat, r = reference.batch_norm(x, eps=EPS)
    terms = np.abs(ratio * x_hat) + np.abs(offset)
    sizes = (
        np.abs(gamma) * terms + np.abs(beta),
        np.abs(gamma * ratio * r * y_bar),
        (np.abs(y_bar) * terms).sum(0, keepdims=True),
        np.abs(y_bar).sum(0, keepdims=True),
    )
    for found, bound in ((ratio, 1 / 3), (ratio, 3), (np.abs(offset), 5)):  # each is met
        assert 0 < (found == bound).mean() < 1
    return arguments, (y, *bars), sizes, slices


def test_it_is_the_formula_on_hard_channels(hard):
    arguments, wanted, sizes, slices = hard
    for y, _, bars in pulled(*arguments).values():
        for got, right, size in zip((y, *bars), wanted, sizes, strict=True):
            found = errors(got, right.reshape(got.shape), size, slices)
            assert max(found.values()) < 1e-6, found


@pytest.mark.slow
def test_the_usual_formula_fails_there(hard):
    (x, (mean, var), gamma, beta, y_bar), wanted, sizes, slices = hard
    y, pull_back = jax.vjp(lambda x: formula_by_statistics(x, mean, var, gamma, beta), x)
    of_y, of_x = (
        errors(got, right, size, slices)
        for got, right, size in zip((y, *pull_back(y_bar)), wanted, sizes, strict=False)
    )
    assert of_y["shifted"] > 0.1 and of_x["tiny"] > 0.5
    assert np.isnan(of_x["dead"]) and np.isnan(of_x["small"])


def test_with_eps_0_a_power_of_two_changes_no_bit(rng):
    x, y_bar = (rng.normal(size=(16, 3)).astype(np.float32) for _ in range(2))
    mean, var = (rng.uniform(0.5, 2, 3).astype(np.float32) for _ in range(2))
    one = jnp.ones(3, jnp.float32)
    unit = 2.0 ** np.array([-60, 0, 60], np.float32)

    def run(unit):
        arguments = unit[None] * x, (unit * mean, unit * unit * var), one, one, y_bar
        y, _, (x_bar, gamma_bar, _) = pulled(*arguments, eps=0.0, rules=("vjp",))["vjp"]
        return y, unit[None] * x_bar, gamma_bar

    for a, b in zip(run(unit), run(np.ones_like(unit)), strict=True):
        np.testing.assert_array_equal(a, b)


# --- every shape, dtype and weight ----------------------------------------------------------------


@st.composite
def batches(draw):
    shape, axis = draw(st.sampled_from(CASES))
    dtype = jnp.dtype(draw(st.sampled_from(["float16", "bfloat16", "float32", "float64"])))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    features = sorted(a % len(shape) for a in axis)
    channels = tuple(shape[a] for a in features)
    where = None
    if draw(st.booleans()):
        where = rng.choice([0, 0.5, 1, 1, 2], shape).astype(np.float32)
    x = rng.normal(size=shape) + draw(st.sampled_from([0.0, 5.0, -300.0]))
    mean = x.mean() + rng.normal(size=channels)
    var = rng.uniform(0.01, 20, channels)
    vectors = mean, var, *rng.normal(size=(2, *channels))
    bounds = draw(st.sampled_from([(1.0, 0.0), (1.5, 0.5), (3.0, 5.0), (np.inf, np.inf)]))
    wide = jnp.promote_types(dtype, jnp.float32)
    return dict(
        x=jnp.asarray(x, dtype),
        vectors=tuple(jnp.asarray(v, wide) for v in vectors),
        y_bar=jnp.asarray(rng.normal(size=shape), dtype),
        where=where,
        bounds=bounds,
        axis=axis,
        eps=draw(st.sampled_from([0.0, 1e-5, 0.3])),
    )


def check(batch):
    """Hold all rules to the formula, to 16 roundings of the terms that cancel."""
    x, y_bar, where, bounds = (batch[k] for k in ("x", "y_bar", "where", "bounds"))
    mean, var, gamma, beta = batch["vectors"]
    options = dict(axis=batch["axis"], eps=batch["eps"])
    ours = pulled(x, (mean, var), gamma, beta, y_bar, bounds=bounds, where=where, **options)
    x, t = np.asarray(x, float), np.asarray(y_bar, float)
    bounded = dict(r_max=bounds[0], d_max=bounds[1], weights=where, **options)
    y, bars, ratio, offset = reference.renorm(x, *batch["vectors"], t, **bounded)
    _, mu, sigma2, n, x_hat, r = reference.batch_norm(x, weights=where, **options)
    g, v = (np.reshape(a, mu.shape) for a in (np.abs(gamma), np.asarray(var, float)))
    w = np.broadcast_to(1.0 if where is None else where, x.shape)
    p = w / np.where(n > 0, n, 1)
    samples = tuple(a for a in range(x.ndim) if a not in {b % x.ndim for b in batch["axis"]})
    t_plus = np.where(w > 0, np.abs(t), 0)

    def sizes(std, own):
        """Of the terms in y, x̄, γ̄ and β̄: x̂ and τ are as good as μ, which is off by so much."""
        hat = np.abs(x_hat) + (std + own) * r
        both = ratio * hat + np.abs(offset) + (std + own) / np.sqrt(v + batch["eps"])
        along = [(t_plus * a).sum(samples, keepdims=True) for a in (1, hat, both)]
        of_x = g * ratio * r * (t_plus + p * (along[0] + hat * along[1]))
        return np.abs(y) + g * both, of_x, along[2], np.abs(t).sum(samples, keepdims=True)

    std = np.sqrt(sigma2)
    own = sizes(std, np.abs(mu))  # NumPy keeps μ in one float
    for got, moments, found in ours.values():
        assert got.dtype == batch["x"].dtype and moments.mean.dtype == mean.dtype
        every = zip((got, *found), (y, *bars), sizes(std, 0), own, strict=True)
        for one, wanted, size, in_numpy in every:
            limit = float(jnp.finfo(one.dtype).eps) * size + np.finfo(float).eps * in_numpy
            difference = np.abs(np.asarray(one, float) - np.reshape(wanted, one.shape))
            assert np.all(difference <= 16 * np.reshape(limit, one.shape) + 1e-300)


@settings(STABLE, max_examples=5)
@given(batches())
def test_all_rules_are_the_formula(batch):
    check(batch)


@pytest.mark.slow
@settings(STABLE, max_examples=60)
@given(batches())
def test_all_rules_are_the_formula_over_many_cases(batch):
    check(batch)


# --- limits, masks and constants ------------------------------------------------------------------


def draw(rng, shape=(8, 3), dtype="float64"):
    """(x, (mean, var), γ, β, ȳ), the last axis of x its features."""
    x, y_bar = 2 * rng.normal(size=(2, *shape)) + 1
    mean, gamma, beta = rng.normal(size=(3, shape[-1]))
    arguments = x, (mean, rng.uniform(0.3, 9, shape[-1])), gamma, beta, y_bar
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), arguments)


def close(got, wanted, rtol=1e-12):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, np.reshape(b, a.shape), rtol=rtol, atol=rtol)


def test_without_bounds_it_is_evaluation_and_at_1_and_0_batch_norm(rng):
    x, (mean, var), gamma, beta, y_bar = arguments = draw(rng)
    for y, moments, _ in pulled(*arguments, bounds=(np.inf, np.inf)).values():
        close(y, normalize(x, mean, var, gamma, beta, eps=EPS))
        close(moments, batch_norm(x)[1])
    for y, _, bars in pulled(*arguments, bounds=(1.0, 0.0)).values():
        wanted, pull_back = jax.vjp(lambda *a: batch_norm(*a, eps=EPS)[0], x, gamma, beta)
        close((y, *bars), (wanted, *pull_back(y_bar)))


def test_what_is_masked_has_no_influence(rng):
    x, (mean, var), gamma, beta, y_bar = draw(rng)
    where = np.array([1, 0, 2, 0.5, 1, 1, 0, 1.0])[:, None] * np.array([[1, 1, 0]])
    hidden = jnp.where(where > 0, x, jnp.nan)
    wanted, bars, *_ = reference.renorm(x, mean, var, gamma, beta, y_bar, eps=EPS, weights=where)
    found = pulled(hidden, (mean, var), gamma, beta, y_bar, where=where, rules=RULES[:2])
    for y, _, ours in found.values():
        close((y, *ours), (wanted, *bars))
    assert np.all(np.asarray(y)[where == 0] == np.broadcast_to(beta, x.shape)[where == 0])


def test_masked_places_are_renormalized_if_asked(rng):
    x, (mean, var), gamma, beta, y_bar = arguments = draw(rng)
    where = np.array([1, 0, 1, 1, 1, 1, 0, 1.0])[:, None] * np.array([[1, 1, 0]])
    found = pulled(*arguments, where=where, masked="normalize", bounds=(1.5, 0.3))
    _, _, ratio, offset = reference.renorm(
        x, mean, var, eps=EPS, weights=where, r_max=1.5, d_max=0.3
    )
    _, mu, _, _, _, r = reference.batch_norm(x, eps=EPS, weights=where)
    r[0, 2] = 0  # a channel without weight: y = β
    for y, _, bars in found.values():
        close(y, gamma[None] * ((x - mu) * r * ratio + offset) + beta[None])
        close(bars, found["autodiff"][2])


def test_it_is_differentiated_in_x_gamma_and_beta_alone(rng):
    x, statistics, gamma, beta, _ = draw(rng)

    def cost(statistics, r_max, d_max):
        return jnp.sum(renorm(x, statistics, gamma, beta, r_max=r_max, d_max=d_max)[0] ** 3)

    for grad in jax.tree.leaves(jax.grad(cost, (0, 1, 2))(statistics, 1.5, 0.3)):
        assert not grad.any()


@pytest.mark.parametrize("order", ["jacfwd", pytest.param("hessian", marks=pytest.mark.slow)])
def test_the_push_forward_is_that_of_autodiff(order, rng):
    x, statistics, gamma, beta, _ = draw(rng, (5, 2))
    where = rng.uniform(0.5, 2, (5, 1))

    def by(rule):
        def cost(x, gamma, beta):
            y, moments = renorm(
                *(x, statistics, gamma, beta), r_max=1.5, d_max=0.3, rule=rule, where=where
            )
            return (y, moments.var) if order == "jacfwd" else jnp.sum(y**3) + moments.var.sum()

        return quick_jit(getattr(jax, order)(cost, (0, 1, 2)))(x, gamma, beta)

    close(by("jvp"), by("autodiff"), 1e-10)


# --- arguments ------------------------------------------------------------------------------------


def test_a_population_state_keeps_its_mean_in_two_floats(rng):
    """A float holds 1e4 to 1e-3: a tenth of the standard deviation here."""
    x = (1e4 + 0.01 * rng.normal(size=(512, 2))).astype(np.float32)
    state = population.init(2)
    for half in (x[:256], x[256:]):
        state = population.update(state, batch_norm(half)[1], decay=None)
    mean = np.asarray(state.mean, float) + np.asarray(state.remainder, float)
    for statistics, low, high in ((state, 0, 1e-5), (population.statistics(state), 1e-3, 1)):
        y = renorm(x[:256], statistics, eps=0.0)[0]
        error = reference.relative(y, reference.renorm(x[:256], mean, state.var, eps=0.0)[0])
        assert low <= error < high


def test_a_channel_without_a_batch_yet_is_normalized_as_by_batch_norm(rng):
    x, *_ = draw(rng)
    first, _ = renorm(x, population.init(3, x.dtype))
    close(first, batch_norm(x)[0])


def test_bounds_may_be_traced_and_differ_between_channels(rng):
    x, statistics, gamma, beta, _ = draw(rng)

    @quick_jit
    def along_a_schedule(r_max, d_max):
        return jax.vmap(lambda *b: renorm(x, statistics, r_max=b[0], d_max=b[1])[0])(r_max, d_max)

    bounds = np.array([[1.0, 1.2, 3.0], [0.0, 0.2, 5.0]])
    steps = along_a_schedule(*bounds)
    for y, r_max, d_max in zip(steps, *bounds, strict=True):
        close(y, reference.renorm(x, *statistics, r_max=r_max, d_max=d_max)[0])
    lower = renorm(x, statistics, r_min=0.9, r_max=0.95, d_max=0)[0]
    factor = np.std(lower, 0) / np.std(batch_norm(x)[0], 0)
    assert np.all((factor > 0.8999) & (factor < 0.9501))
    each = renorm(x, statistics, r_max=bounds[0], d_max=bounds[1])[0]
    close(each, np.stack([steps[k][:, k] for k in range(3)], 1))


def test_one_value_for_each_channel_is_compared_too(rng):
    x, statistics, gamma, beta, _ = draw(rng, (1, 3))

    def run(x, gamma):
        options = {"allow_single_value": True, "d_max": 0.3}
        return renorm(x, statistics, gamma, beta, **options)[0]

    y, pull_back = jax.vjp(run, x, gamma)
    ones = np.ones_like(x)
    wanted, (_, gamma_bar, _), *_ = reference.renorm(x, *statistics, gamma, beta, ones, d_max=0.3)
    close((y, *pull_back(ones)), (wanted, 0 * x, gamma_bar))


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_promoted(rule):
    def gradient(x, vector, bound):
        def cost(x):
            return jnp.sum(renorm(x, (vector, vector), vector, r_max=bound, rule=rule)[0])

        return jax.grad(cost)(x)

    half = [jax.ShapeDtypeStruct(size, jnp.float16) for size in ((6, 3), (3,), ())]
    with jax.numpy_dtype_promotion("strict"):
        assert jax.eval_shape(gradient, *half).dtype == jnp.float16


def test_of_x_s_size_only_x_is_saved(rng):
    x, statistics, gamma, beta, _ = draw(rng, (512, 3))
    _, pull_back = jax.vjp(lambda *a: renorm(a[0], statistics, *a[1:])[0], x, gamma, beta)
    saved = [leaf for leaf in jax.tree.leaves(pull_back) if leaf.size >= x.size]
    assert len(saved) == 1 and saved[0] is x


X, V = jnp.ones((4, 3)), jnp.ones(3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: renorm(X, V), TypeError, r"must be \(mean, var\) or a PopulationState"),
        (lambda: renorm(X, (V, None)), TypeError, r"must be \(mean, var\)"),
        (lambda: renorm(X, batch_norm(X)[1]), TypeError, r"must be \(mean, var\)"),
        (lambda: renorm(X, (V[:2], V)), ValueError, r"renorm: `mean` must have shape \(3,\)"),
        (lambda: renorm(X, (V, V), r_max=0.5), ValueError, "`r_max` must be >= 1; got 0.5"),
        (lambda: renorm(X, (V, V), d_max=-1), ValueError, "`d_max` must be >= 0; got -1"),
        (lambda: renorm(X, (V, V), d_max=np.nan), ValueError, "`d_max` must be >= 0; got nan"),
        (
            lambda: quick_jit(lambda x: renorm(x, (V, V), r_max=0.5)[0])(X),
            *(ValueError, "`r_max` must be >= 1; got 0.5"),
        ),
        (lambda: renorm(X, (V, V), r_max=jnp.ones(2)), ValueError, r"one for each channel.*\(3,\)"),
        (lambda: renorm(X, (V, V), rule="vpj"), ValueError, "renorm: `rule` must be one of"),
        (lambda: renorm(X[:1], (V, V)), ValueError, "renorm: `x` must leave at least two values"),
        (lambda: renorm(X, population.init(2)), ValueError, r"`mean` must have shape \(3,\)"),
    ],
)
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow
def test_the_code_of_the_page_runs(rng):
    page = (Path(__file__).parents[1] / "docs" / "guides" / "reinforcement.md").read_text()
    names = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], names)
    x, _, gamma, beta, _ = draw(rng)
    state = population.init(3, x.dtype)
    for step in (0, 50_000):
        params = {"W": jnp.eye(3), "gamma": gamma, "beta": beta}
        y, new = names["forward"](params, state, x, step)
        statistics = state.mean, state.var
        unseen = {"r_max": 1, "d_max": 0} if step == 0 else {}
        close(y, reference.renorm(x, *statistics, gamma, beta, **unseen)[0], 1e-6)
        state = new


# --- a batch that is spread, and the audit --------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["vjp", "autodiff"])
def test_a_batch_over_a_vmap_is_one_batch(rule, rng):
    x, statistics, gamma, beta, y_bar = draw(rng, (12, 2))
    where = rng.uniform(0.5, 2, (12, 1))
    where[:4] = 0

    def spread(x, gamma, beta):
        def local(x, w):
            options = {"r_max": 1.5, "d_max": 0.3, "axis_name": "d", "rule": rule}
            return renorm(x, statistics, gamma, beta, where=w, **options)[0]

        parts = (a.reshape(3, 4, -1) for a in (x, jnp.asarray(where)))
        return jax.vmap(local, axis_name="d")(*parts).reshape(x.shape)

    y, pull_back = quick_jit(lambda *a: jax.vjp(spread, *a))(x, gamma, beta)
    wanted, bars, *_ = reference.renorm(
        *(x, *statistics, gamma, beta, y_bar), r_max=1.5, d_max=0.3, weights=where
    )
    close((y, *pull_back(y_bar)), (wanted, *bars), 1e-11)


@pytest.mark.slow
def test_the_audit_refuses_a_rule_that_forgets_lambda(rng):
    statistics = jnp.zeros(3), jnp.full(3, 9.0)

    def plain(x, gamma, beta):
        return renorm(x, statistics, gamma, beta, r_max=2.0, d_max=0.3, rule="autodiff")[0]

    @jax.custom_vjp
    def wrong(x, gamma, beta):
        return plain(x, gamma, beta)

    def forward(*args):
        return plain(*args), args

    def pull_back(args, y_bar):
        _, gamma_bar, beta_bar = jax.vjp(plain, *args)[1](y_bar)
        x_bar, *_ = jax.vjp(lambda *a: batch_norm(*a)[0], *args)[1](y_bar)
        return x_bar, gamma_bar, beta_bar

    wrong.defvjp(forward, pull_back)
    args = jnp.array(rng.normal(size=(5, 3)), jnp.float32), *jnp.ones((2, 3))
    report = audit.compare(wrong, plain, args, modes="vjp", transforms="jit")
    assert {row.leaf for row in report.rows if row.failed} == {"x"}
