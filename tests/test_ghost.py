"""Ghost batches: `ghost_batch_norm` is `batch_norm` on one group after the other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import relative

from bnjax import Moments, _xla, batch_norm, ghost_batch_norm, layout, population

RULES = ("vjp", "jvp", "autodiff")


def loop(x, gamma=None, beta=None, *, size, at=0, where=None, **options):
    """`batch_norm` on one group after the other."""
    ys, moments = [], []
    for start in range(0, x.shape[at], size):
        group = (slice(None),) * at + (slice(start, start + size),)
        w = where if where is None or where.shape[at] == 1 else where[group]
        y, (*found, effective) = batch_norm(
            x[group], gamma, beta, where=w, **(options | {"allow_single_value": True})
        )
        ys.append(y)
        moments.append((*found, found[-1] if effective is None else effective))
    return jnp.concatenate(ys, at), Moments(*map(jnp.stack, zip(*moments, strict=True)))


def everything(normalization, *args):
    """Y, the moments, and the gradients of a function of all of them."""

    def f(x, gamma, beta):
        y, moments = normalization(x, gamma, beta)
        weighted = jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(moments.mean) + moments.var**2)
        return weighted, (y, moments)

    return quick_jit(jax.grad(f, (0, 1, 2), has_aux=True))(*args)


CASES = {  # shape, feature axes, the axis that is divided, size, the shape of the weights
    "whole groups": ((6, 3), -1, 0, 3, None),
    "a smaller last group": ((7, 3), -1, 0, 3, None),
    "images": ((4, 2, 2, 3), -1, 0, 2, None),
    "one sample left, weights": ((5, 3), -1, 0, 2, (5, 1)),
    "channels first, weights": ((5, 3, 4), 1, 0, 2, (5, 1, 4)),
    "features before samples": ((2, 6, 3), (0, 2), 1, 4, (1, 6, 1)),
    "weights without samples": ((6, 4, 3), -1, 0, 3, (1, 4, 1)),
    "larger than the batch": ((4, 3), -1, 0, 9, None),
}

FAST = [(name, "vjp") for name in CASES if name != "channels first, weights"]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        pytest.param(name, rule, marks=() if (name, rule) in FAST else pytest.mark.slow)
        for name in CASES
        for rule in RULES
    ],
)
def test_groups_are_normalized_as_by_the_loop(name, rule, rng):
    shape, axis, at, size, weights = CASES[name]
    features = np.atleast_1d(axis) % len(shape)
    x = rng.normal(size=shape) * 2 + 1
    gamma, beta = rng.normal(size=(2, *(shape[a] for a in features)))
    where = None if weights is None else rng.uniform(0.2, 2, weights)
    if weights is not None:
        where.flat[1] = 0
    options = {"size": size, "axis": axis, "where": where, "rule": rule}
    got = everything(partial(ghost_batch_norm, allow_single_value=True, **options), x, gamma, beta)
    wanted = everything(partial(loop, at=at, **options), x, gamma, beta)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-13), got, wanted)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    samples=st.integers(1, 9),
    size=st.integers(1, 10),
    places=st.integers(1, 3),
    dtype=st.sampled_from(["float16", "bfloat16", "float32", "float64"]),
    masked=st.sampled_from(["beta", "normalize"]),
    mask=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_size_and_dtype(samples, size, places, dtype, masked, mask, seed):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(samples, places, 2)) + 3, dtype)
    where = jnp.asarray(rng.random((samples, places, 1)) > 0.3) if mask else None
    options = {"size": size, "where": where, "masked": masked}
    got = ghost_batch_norm(x, allow_single_value=True, **options)
    wanted = loop(x, **options)
    assert got[0].dtype == x.dtype and got[1].mean.shape == (-(-samples // size), 2)
    eps = float(jnp.finfo(x.dtype).eps)
    to_float = partial(jax.tree.map, lambda a: np.asarray(a, np.float64))
    for a, b in zip(jax.tree.leaves(to_float(got)), jax.tree.leaves(to_float(wanted)), strict=True):
        np.testing.assert_allclose(a, b, rtol=8 * eps, atol=32 * eps)


def test_single_precision_is_exact_under_offsets_of_each_group(rng):
    offsets = np.repeat([0.0, 1e6, -1e3, 1e5], 64)[:, None]
    x = (rng.normal(size=(256, 4)) + offsets).astype(np.float32)
    y_bar = rng.normal(size=x.shape).astype(np.float32)
    y, pull_back = jax.vjp(jax.jit(lambda x: ghost_batch_norm(x, size=64)[0]), x)
    x_bar = pull_back(y_bar)[0]
    for g in range(4):
        group = slice(64 * g, 64 * (g + 1))
        assert relative(y[group], reference.batch_norm(x[group])[0]) < 5e-7
        assert relative(x_bar[group], reference.pull_back(x[group], y_bar[group])[0]) < 5e-7


@pytest.mark.parametrize("transform", ["vmap", "scan", "remat"])
def test_it_works_under(transform, rng):
    x = jnp.asarray(rng.normal(size=(2, 6, 2)))

    def f(x, normalization=ghost_batch_norm):
        return jnp.sum(jnp.sin(normalization(x, size=3)[0]))

    wanted = quick_jit(jax.vmap(jax.grad(partial(f, normalization=loop))))(x)
    if transform == "vmap":
        got = quick_jit(jax.vmap(jax.grad(f)))(x)
    elif transform == "scan":
        got = quick_jit(jax.grad(lambda x: jax.lax.scan(lambda c, a: (c + f(a), None), 0.0, x)[0]))(
            x
        )
    else:
        got = jnp.stack([quick_jit(jax.grad(jax.checkpoint(f)))(one) for one in x])
    np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-13)


def test_a_gpu_sums_a_group_in_parts(rng):
    x, w = rng.normal(size=(2, 512, 3)), rng.random((1, 512, 1))
    parts = layout.merge(jnp.asarray(x), (0, 2), _xla.split_for_gpu)
    assert parts.shape == (2, 4, 128, 3) and parts.n == 512 and parts.channels == 6
    np.testing.assert_allclose(parts.sum(parts.view(x)), x.sum(1).ravel(), rtol=1e-12)
    seen = parts.view_weights(jnp.asarray(w), x.shape)
    np.testing.assert_allclose(parts.sum(seen * parts.view(x)), (w * x).sum(1).ravel(), rtol=1e-12)
    np.testing.assert_allclose(parts.sum_weights(seen), np.full(6, w.sum()), rtol=1e-12)
    assert [_xla.split_for_gpu(n, 3) for n in (3136, 255, 509)] == [(16, 196), (255,), (509,)]
    lowered = jax.jit(partial(ghost_batch_norm, size=512)).trace(x.reshape(1024, 3))
    text = {name: lowered.lower(lowering_platforms=(name,)).as_text() for name in ("cuda", "tpu")}
    assert "2x4x128x3" in text["cuda"] and "2x4x128x3" not in text["tpu"]


def test_the_pull_back_saves_x_and_vectors_only():
    x = jnp.ones((512, 4), jnp.bfloat16)
    _, pull_back = jax.vjp(lambda *a: ghost_batch_norm(*a, size=128)[0], x, jnp.ones(4))
    leaves = [leaf for leaf in jax.tree.leaves(pull_back) if hasattr(leaf, "nbytes")]
    assert [leaf.dtype for leaf in leaves if leaf.size >= x.size] == [x.dtype]
    assert sum(leaf.nbytes for leaf in leaves) < x.nbytes + 20 * 4 * 4 * 4


X = jnp.ones((7, 3))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: ghost_batch_norm(X, size=0), ValueError, "`size`.* must be >= 1; got 0"),
        (lambda: ghost_batch_norm(X, size=2.0), TypeError, "`size` must be a static integer"),
        (lambda: ghost_batch_norm(X, size=3), ValueError, r"one in the last of .* `size` 3 of"),
        (lambda: ghost_batch_norm(X, size=1), ValueError, "at least two values per channel"),
        (
            lambda: ghost_batch_norm(X, jnp.ones(4), size=2),
            ValueError,
            r"ghost_batch_norm: `gamma` must have shape \(3,\)",
        ),
        (lambda: ghost_batch_norm(X, size=4, rule="vpj"), ValueError, "ghost_batch_norm: `rule`"),
        (lambda: ghost_batch_norm(X, size=4, where=jnp.ones(7)), ValueError, "ghost.*`where` must"),
    ],
)
def test_bad_input_is_refused_in_words(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_groups_count_as_one_batch_in_the_running_statistics(rng):
    x = rng.normal(size=(3, 8, 2)) + 5
    means, unbiased = [], []
    state = None
    normalize = quick_jit(partial(ghost_batch_norm, size=3))
    for batch in x:
        moments = normalize(batch)[1]  # groups of 3, 3 and 2
        state = population.update(
            population.init(2, float) if state is None else state, moments, decay=None
        )
        groups = np.split(batch, [3, 6])
        means.append(np.mean([g.mean(0) for g in groups], 0))
        unbiased.append(np.mean([g.var(0, ddof=1) for g in groups], 0))
    mean, var = population.statistics(state)
    np.testing.assert_allclose(mean, np.mean(means, 0), rtol=1e-12)  # P.1
    np.testing.assert_allclose(var, np.mean(unbiased, 0), rtol=1e-12)  # P.2
    assert state.batches.tolist() == [3, 3]


def test_groups_without_a_variance_or_not_finite_are_left_out(rng):
    x = jnp.asarray(rng.normal(size=(5, 2))).at[0, 1].set(jnp.nan)
    moments = ghost_batch_norm(x, size=2, allow_single_value=True)[1]
    state = population.update(population.init(2, float), moments)
    wanted = [np.mean([x[:2, 0], x[2:4, 0]]), np.mean(x[2:4, 1])]
    np.testing.assert_allclose(state.mean, wanted, rtol=1e-12)
    assert state.batches.tolist() == [1, 1] and state.skipped.tolist() == [0, 1]
    with pytest.raises(ValueError, match="must be of the channels seen before"):
        population.update(population.init(3), moments)


def test_the_groups_of_a_batch_average_and_pool_as_batches(rng):
    x = rng.normal(size=(7, 2)) + 5
    moments = ghost_batch_norm(x, size=4)[1]
    np.testing.assert_allclose(population.pool(moments), [x.mean(0), x.var(0)], rtol=1e-12)  # P.5
    groups = x[:4], x[4:]
    wanted = [
        np.mean([f(g) for g in groups], 0)
        for f in (lambda g: g.mean(0), lambda g: g.var(0, ddof=1))
    ]
    np.testing.assert_allclose(population.average(moments), wanted, rtol=1e-12)  # P.1, P.2
