"""Micro-batches together are the large batch: gradient, moments, steps; and the page's recipe."""

import re
from functools import cache, partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from compiling import quick_jit, quickly_compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import KINDS, parameters

from bnjax import Network, batch_norm, cost, training
from bnjax.accumulation import accumulate_gradient
from bnjax.training.accumulation import exact_gradient

PAGE = (Path(__file__).parents[1] / "docs" / "guides" / "accumulation.md").read_text()
EXACT = {jnp.dtype("float64"): 1e-12, jnp.dtype("float32"): 1e-6}
K, B, SIZES = 3, 4, (3, 6, 5, 4, 2)
WEIGHTS = {
    "equal": lambda rng: None,
    "smaller last": lambda rng: jnp.arange(K * B).reshape(K, B) < K * B - 2,
    "weights": lambda rng: jnp.asarray(rng.random((K, B))).at[1, 2].set(0).at[2].set(0),
}


def flat(tree):
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])


def distance(got, wanted):
    return np.linalg.norm(flat(got) - flat(wanted)) / np.linalg.norm(flat(wanted))


def whole(a):
    return None if a is None else a.reshape(-1, *a.shape[2:])


def drawn(rng, dtype="float64", sizes=SIZES, parts=(K, B)):
    x = jnp.asarray(rng.normal(size=(*parts, sizes[0])), dtype)
    return x, jnp.asarray(rng.random((*parts, sizes[-1])), dtype)


# --- one normalization, in NumPy ------------------------------------------------------------------


def one_normalization(x, gamma, beta, y_bar, where):
    """Return ((C, moments), (x̄, γ̄, β̄)) of C = Σ_s w_s ȳ_s y_s / Σ_s w_s, from micro-batches."""
    segments = (
        lambda x, number: (x[number], ()),  # θ is x itself, of all samples: θ̄ is x̄
        lambda _, carry, y_bar: jnp.sum((carry[0] * y_bar).reshape(len(y_bar), -1), 1),
    )
    numbers = jnp.arange(y_bar.shape[0] * y_bar.shape[1]).reshape(y_bar.shape[:2])
    out, grads = accumulate_gradient(segments, ((x, gamma, beta), ()), numbers, y_bar, where)
    return out, grads[0]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("dtype", "offset"), [("float64", 0.0), ("float32", 1e4)])
def test_one_normalization_is_numpy_s(rng, dtype, offset, weights):
    x = rng.normal(size=(K * B, 3)).astype(dtype) + np.dtype(dtype).type(offset)
    gamma, beta = rng.normal(size=(2, 3)).astype(dtype)
    y_bar, w = rng.normal(size=(K, B, 3)).astype(dtype), WEIGHTS[weights](rng)
    (value, (moments,)), bars = quick_jit(one_normalization)(x, gamma, beta, y_bar, w)

    flat_w = np.ones((K * B, 1)) if w is None else np.asarray(whole(w), np.float64)[:, None]
    p = flat_w / flat_w.sum()
    y, mean, var, n, _, r = reference.batch_norm(x, gamma, beta, weights=flat_w)
    t = p * y_bar.reshape(-1, 3)
    wanted = reference.pull_back(x, t, gamma, weights=flat_w)
    tight = EXACT[jnp.dtype(dtype)]
    for got, one, terms in zip(bars, wanted, (gamma * r * t, t, t), strict=True):
        assert np.abs(np.asarray(got) - one).max() <= tight * np.abs(terms).max() * len(x)
    assert abs(value - (t * y).sum()) <= tight * np.abs(t * y).sum()
    np.testing.assert_allclose(moments.mean, mean[0], rtol=tight)
    np.testing.assert_allclose(moments.var, var[0], rtol=tight)
    np.testing.assert_allclose(moments.count, np.broadcast_to(n, (1, 3))[0], rtol=tight)
    effective = np.broadcast_to(reference.effective_count(x, weights=flat_w), (1, 3))[0]
    np.testing.assert_allclose(moments.effective_count, effective, rtol=tight)


# --- networks, against the large batch ------------------------------------------------------------


@cache
def programs(kind, keep_every):
    """The large batch's cost, moments and gradient, and those from its micro-batches."""
    net = Network(SIZES, **KINDS[kind])

    def large(params, state, x, targets, where):
        objective = partial(cost, net, rule="autodiff")
        (value, _), grads = jax.value_and_grad(
            lambda p: objective(p, state, whole(x), whole(targets), where=whole(where)),
            has_aux=True,
        )(params)
        return value, grads

    parts = partial(exact_gradient, net, keep_every=keep_every)
    return net, quick_jit(large), quick_jit(lambda p, s, x, t, w: parts(p, x, t, w))


CASES = [
    ("norm output", 2, "weights"),
    ("baseline", 1, "equal"),
]
MORE = [(kind, k, w) for kind in KINDS for k in (None, 1, 2) for w in WEIGHTS]


@pytest.mark.parametrize(
    ("kind", "keep_every", "weights"),
    [*CASES, *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE if one not in CASES)],
)
def test_the_gradient_is_the_large_batch_s(rng, kind, keep_every, weights):
    net, large, parts = programs(kind, keep_every)
    (params, state), (x, targets), w = parameters(net), drawn(rng), WEIGHTS[weights](rng)
    value, grads = large(params, state, x, targets, w)
    (got, _), bars = parts(params, state, x, targets, w)
    assert abs(got - value) < 1e-13
    assert distance(bars, grads) < EXACT[jnp.dtype("float64")]
    chex.assert_trees_all_equal_shapes_and_dtypes(bars, grads)
    if w is not None:  # what has no weight influences nothing
        poison = jnp.where(w[..., None] != 0, x, jnp.nan)
        again = parts(params, state, poison, jnp.where(w[..., None] != 0, targets, jnp.nan), w)
        chex.assert_trees_all_equal(again[1], bars)


@pytest.mark.slow
def test_float32_is_right_to_1e_6(rng):
    """Both from micro-batches and from the large batch, held to float64."""
    net, large, parts = programs("norm", None)
    x, targets = drawn(rng, "float32", parts=(8, 16))
    (params, state), one = parameters(net, "float32"), parameters(net, "float64")
    exact = jax.tree.map(lambda a: a.astype(jnp.float64), params)
    _, wanted = large(exact, one[1], x.astype(jnp.float64), targets.astype(jnp.float64), None)
    _, bars = parts(params, state, x, targets, None)
    assert bars[0].W.dtype == jnp.float32
    assert distance(bars, wanted) < EXACT[jnp.dtype("float32")]


@pytest.mark.slow
def test_samples_may_come_one_by_one(rng):
    net, large, parts = programs("norm output", 1)
    (params, state), (x, targets) = parameters(net), drawn(rng, parts=(5, 1))
    _, grads = large(params, state, x, targets, None)
    assert distance(parts(params, state, x, targets, None)[1], grads) < 1e-12


# --- any chain: convolutions, what passes a normalization by, other axes --------------------------


def images(axis, keep_every):
    """A chain with x of four axes, a connection past the second normalization, and no β there."""

    def first(theta, u):
        return jnp.einsum("bpqi,io->bpqo", u, theta) if axis == -1 else mix(u, theta), ()

    def mix(u, theta):
        return jnp.einsum("bipq,io->bopq", u, theta)

    def second(theta, carry):
        y = jnp.tanh(carry[0])
        x = jnp.einsum("bpqi,io->bpqo", y, theta) if axis == -1 else mix(y, theta)
        return x, {"past": y}

    def last(theta, carry, targets):
        y, rest = carry
        return jnp.mean((jnp.tanh(y + rest["past"]) * theta - targets) ** 2, (1, 2, 3))

    def parts(params, inputs, targets, where):
        segments = first, second, last
        return accumulate_gradient(
            segments, params, inputs, targets, where, axis=axis, keep_every=keep_every
        )

    def large(params, inputs, targets, where):
        w = jnp.ones(len(inputs)) if where is None else where

        def objective(params):
            (W, gamma, beta), (V, scale, _), theta = params
            options = {"axis": axis, "where": w.reshape(-1, 1, 1, 1), "rule": "autodiff"}
            y, found = batch_norm(first(W, inputs)[0], gamma, beta, **options)
            x, rest = second(V, (y, ()))
            y, other = batch_norm(x, scale, **options)
            values = last(theta, (y, rest), targets)
            return jnp.sum(w * values) / jnp.sum(w), (found, other)

        return jax.value_and_grad(objective, has_aux=True)(params)

    return quick_jit(parts), quick_jit(large)


images_of = cache(images)


def check_images(rng, axis, keep_every, parts, dtype, masked):
    shape = (2, 3, 4) if axis == -1 else (4, 2, 3)
    params = tuple(
        jnp.asarray(a, dtype)
        for a in (rng.normal(size=(4, 4)), rng.random(4) + 0.5, rng.normal(size=4))
    )
    second = jnp.asarray(rng.normal(size=(4, 4)), dtype), jnp.asarray(rng.random(4), dtype), None
    params = params, second, jnp.asarray(rng.normal(), dtype)
    inputs, targets = (jnp.asarray(rng.normal(size=(*parts, *shape)), dtype) for _ in range(2))
    where = jnp.asarray(rng.random(parts) > 0.3).at[0].set(True) if masked else None
    by_parts, large = images_of(axis, keep_every)
    (value, moments), grads = by_parts(params, inputs, targets, where)
    (wanted, found), bars = large(params, whole(inputs), whole(targets), whole(where))
    tight = EXACT[jnp.dtype(dtype)]
    assert abs(value - wanted) < tight and distance(grads, bars) < 4 * tight
    chex.assert_trees_all_close(moments, found, rtol=4 * tight, atol=4 * tight)
    chex.assert_trees_all_equal_structs(grads, bars)


@pytest.mark.slow
def test_a_chain_of_convolutions_with_a_connection_past_them(rng):
    check_images(rng, 1, None, (2, 3), "float64", True)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    axis=st.sampled_from([-1, 1]),
    keep_every=st.sampled_from([None, 1, 2]),
    parts=st.sampled_from([(1, 4), (4, 1), (3, 5)]),
    dtype=st.sampled_from(["float32", "float64"]),
    masked=st.booleans(),
)
def test_any_chain_is_its_large_batch(seed, axis, keep_every, parts, dtype, masked):
    check_images(np.random.default_rng(seed), axis, keep_every, parts, dtype, masked)


# --- memory ---------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_number_of_micro_batches(rng):
    net = Network(sizes := (3, 8, 2))
    params, _ = parameters(net)

    def temporary(micro_batches):
        x, targets = drawn(rng, sizes=sizes, parts=(micro_batches, 64))
        program = quick_jit(lambda p, x, t: exact_gradient(net, p, x, t, None, None))
        return program.lower(params, x, targets).compile().memory_analysis().temp_size_in_bytes

    # but for the moments of each micro-batch, six numbers per channel, and a copy; 8 bytes each
    assert temporary(64) - temporary(4) <= 60 * 6 * max(sizes) * 8 * 2


# --- training steps -------------------------------------------------------------------------------

NET = Network((3, 5, 4, 2), other_decays=(None,))
OPTIMIZER = optax.sgd(0.3, momentum=0.9)


def test_a_step_is_that_of_the_large_batch(rng, key):
    (x, targets), w = drawn(rng, sizes=NET.sizes), WEIGHTS["smaller last"](rng)
    start = training.init(NET, OPTIMIZER, key)
    got = quick_jit(training.make_accumulating_step(NET, OPTIMIZER))(start, x, targets, w)
    step = quick_jit(training.make_step(NET, OPTIMIZER))
    wanted = step(start, whole(x)[:-2], whole(targets)[:-2])  # left out, not filled up
    chex.assert_trees_all_close(got, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["equal", "weights"])
def test_separate_micro_batches_are_separate_devices(rng, key, weights):
    (x, targets), w = drawn(rng, sizes=NET.sizes), WEIGHTS[weights](rng)
    start = training.init(NET, OPTIMIZER, key)
    step = training.make_accumulating_step(NET, OPTIMIZER, sync_statistics=False)
    got = quick_jit(step)(start, x, targets, w)
    devices = training.make_step(NET, OPTIMIZER, axis_name="devices", sync_statistics=False)
    mapped = jax.vmap(devices, (None, 0, 0, 0), out_axes=0, axis_name="devices")
    everywhere = quick_jit(mapped)(start, x, targets, jnp.ones((K, B)) if w is None else w)
    wanted = jax.tree.map(lambda a: a[0], everywhere)
    chex.assert_trees_all_close(got, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (2, 4, 3)}, "stacked micro-batches"),
        ({"x": (12, 3), "targets": (12, 2)}, "stacked micro-batches"),
        ({"x": (3, 4, 7)}, "`x` must have shape"),
        ({"where": (3, 5)}, "stacked micro-batches"),
        ({"x": (3, 1, 3), "targets": (3, 1, 2)}, "at least two values per channel"),
    ],
)
def test_what_does_not_fit_is_refused(key, change, message):
    shapes = {"x": (3, 4, 3), "targets": (3, 4, 2)} | change
    start = training.init(NET, OPTIMIZER, key)
    step = training.make_accumulating_step(NET, OPTIMIZER, sync_statistics=False)
    with pytest.raises(ValueError, match=message):
        step(start, **{name: jnp.ones(shape) for name, shape in shapes.items()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": ()}, "`params` must have an entry"),
        ({"keep_every": 0}, "`keep_every` must be None or at least 1"),
        ({"axis": 0}, "`axis` must not be that of the samples"),
        ({"eps": -1.0}, "`eps` must be"),
        ({"inputs": jnp.ones((1, 1, 3)), "targets": jnp.ones((1, 1, 3))}, "at least two values"),
        ({"targets": jnp.ones((2, 3, 3))}, "stacked micro-batches"),
        ({"params": ((jnp.ones((3, 3)), jnp.ones(2), None), ())}, "`gamma` must have shape"),
        ({"where": -jnp.ones((2, 2))}, "weights >= 0"),
    ],
)
def test_chains_that_do_not_fit_are_refused(change, message):
    arguments = {"params": ((jnp.ones((3, 3)), None, None), ())}
    arguments |= {"inputs": jnp.ones((2, 2, 3)), "targets": jnp.ones((2, 2, 3))} | change
    segments = (
        lambda W, u: (u @ W, ()),
        lambda _, carry, targets: jnp.sum(carry[0] * targets, 1),
    )
    with pytest.raises(ValueError, match=message):
        accumulate_gradient(segments, **arguments)


def test_keeping_is_for_the_whole_batch():
    with pytest.raises(ValueError, match="`keep_every` is for sync_statistics=True"):
        training.make_accumulating_step(NET, OPTIMIZER, sync_statistics=False, keep_every=2)


# --- the page -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_s_code_runs_and_counts_right(rng, key):
    """The recipe with optax.MultiSteps is the step with separate micro-batches."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)  # the others set up the data
    _, whole_batch, _, recipe, own = blocks
    x, targets = drawn(rng, sizes=(3, 5, 2))
    w = WEIGHTS["smaller last"](rng).astype(x.dtype).at[0].set(3.0)
    net, optimizer = Network((3, 5, 2), activation="relu", cost="squared_error"), OPTIMIZER
    start = training.init(net, optimizer, key)
    names = {"net": net, "optimizer": optimizer, "train_state": start}
    names |= {"jax": jax, "jnp": jnp, "optax": optax, "training": training}
    names |= {"x": x, "targets": targets, "where": w, "K": K}
    with quickly_compiled():
        exec(whole_batch, names)
    assert names["train_state"].step == 1 and np.isfinite(names["cost"])

    layer, last = start.params
    names |= {"params": {**layer._asdict(), "V": last.W, "b": last.b}, "state": start.state[0]}
    with quickly_compiled(), jax.numpy_rank_promotion("allow"):  # a user's own may promote ranks
        exec(recipe, names)
    separate = training.make_accumulating_step(net, optimizer, sync_statistics=False)
    wanted, _ = quick_jit(separate)(start, x, targets, w)
    got = names["params"]
    chex.assert_trees_all_close(
        (got["W"], got["gamma"], got["beta"], got["V"], got["b"]),
        (*wanted.params[0], *wanted.params[1]),
        rtol=1e-6,  # MultiSteps divides by K in float32
    )
    large = batch_norm(whole(x) @ layer.W, where=whole(w)[:, None])[1]  # the first layer's are its
    chex.assert_trees_all_close(names["pooled"], large, rtol=1e-12)
    with quickly_compiled():
        exec(own, names)
    chex.assert_trees_all_equal_structs(names["grads"], names["block_params"])
