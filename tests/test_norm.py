from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit
from jax.test_util import check_grads
from reference import relative

from bnjax import batch_norm, kernel, normalize
from bnjax.rules import vjp

RULES = ("vjp", "jvp", "autodiff")
rng = np.random.default_rng(0)
WEIGHTS = {
    "none": None,
    "mask": rng.random((6, 1)) > 0.4,
    "weights": rng.random((6, 1)) * (rng.random((6, 1)) > 0.3),
    "per channel": rng.random((6, 3)) * (rng.random((6, 3)) > 0.3),
}


def everything(rule, where, eps, axis=-1, jit=quick_jit):
    """All gradients of a function of y and of both moments, and y."""
    normalized = partial(batch_norm, rule=rule, where=where, eps=eps, axis=axis)

    def f(x, gamma, beta, y_bar, mean_bar, var_bar):
        y, m = normalized(x, gamma, beta)
        return jnp.sum(y * y_bar) + jnp.sum(m.mean * mean_bar) + jnp.sum(m.var * var_bar)

    return jit(lambda *args: (jax.grad(f, (0, 1, 2))(*args), normalized(*args[:3])[0]))


@pytest.mark.parametrize("eps", [0.0, pytest.param(1e-5, marks=pytest.mark.slow), 0.5])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("rule", RULES)
def test_all_gradients_match_the_equations(rule, kind, eps, rng):
    x, y_bar = rng.normal(size=(2, 6, 3))
    gamma, beta, mean_bar, var_bar = rng.normal(size=(4, 3))
    where = WEIGHTS[kind]
    ours, y = everything(rule, where, eps)(x, gamma, beta, y_bar, mean_bar, var_bar)
    wanted = reference.pull_back(
        x, y_bar, gamma, eps=eps, weights=where, mean_bar=mean_bar, var_bar=var_bar
    )
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b.reshape(a.shape), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(
        y, reference.batch_norm(x, gamma, beta, eps=eps, weights=where)[0], rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize(("shape", "axis"), [((5, 3), 0), ((2, 3, 4), 1), ((2, 3, 4), (0, -1))])
def test_any_axis_may_hold_the_features(shape, axis, rng):
    axes = axis if isinstance(axis, tuple) else (axis,)
    x, y_bar = rng.normal(size=(2, *shape))
    channels = [shape[a] for a in sorted(a % len(shape) for a in axes)]
    gamma, beta, mean_bar, var_bar = rng.normal(size=(4, *channels))
    ours, _ = everything("vjp", None, 1e-5, axis)(x, gamma, beta, y_bar, mean_bar, var_bar)
    wanted = reference.pull_back(x, y_bar, gamma, axis=axes, mean_bar=mean_bar, var_bar=var_bar)
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b.reshape(a.shape), rtol=1e-11, atol=1e-13)


def test_the_pull_back_is_the_transposed_jacobian_of_the_reference(rng):
    x, gamma, beta = rng.normal(size=(5, 2)), rng.normal(size=2), rng.normal(size=2)
    forward = jax.jacfwd(lambda *a: batch_norm(*a, rule="autodiff")[0], (0, 1, 2))
    reverse = jax.jacrev(lambda *a: batch_norm(*a)[0], (0, 1, 2))
    forward, reverse = quick_jit(lambda *a: (forward(*a), reverse(*a)))(x, gamma, beta)
    for a, b in zip(forward, reverse, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_the_rule_holds_to_second_order(rng):
    args = rng.normal(size=(4, 2)), rng.normal(size=2), rng.normal(size=2)
    check_grads(jax.jit(lambda *a: jnp.sin(batch_norm(*a)[0])), args, order=2, modes=["rev"])


@pytest.mark.parametrize("what", ["factor", "frozen statistics", "another x̂"])
def test_a_planted_wrong_rule_is_refused(what, monkeypatch, rng):
    right = kernel.apply_kernel

    def wrong(t, x, split, scale, c, *more):
        if what == "factor":
            c = c._replace(deviations=c.deviations * (1 + 5e-4))
        elif what == "frozen statistics":
            c = kernel.Projections(0 * c.ones, 0 * c.deviations)
        else:
            x = x[::-1]
        return right(t, x, split, scale, c, *more)

    vjp._pull_back_jitted.clear_cache()  # compiled with the right one
    monkeypatch.setattr(kernel, "apply_kernel", wrong)
    with pytest.raises(AssertionError):
        test_all_gradients_match_the_equations("vjp", "none", 1e-5, rng)
    vjp._pull_back_jitted.clear_cache()


@pytest.mark.parametrize("rule", RULES)
def test_what_lies_under_a_zero_weight_influences_nothing(rule, rng):
    x, y_bar = rng.normal(size=(2, 6, 3))
    where = np.array([1, 0, 1, 1, 0, 1])[:, None] > 0
    hidden = np.where(where, x, [np.nan, np.inf, 1e30])
    f = everything(rule, where, 1e-5)
    args = (*rng.normal(size=(2, 3)), y_bar, *rng.normal(size=(2, 3)))
    for a, b in zip(f(x, *args)[0], f(hidden, *args)[0], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rule", RULES)
def test_a_wholly_masked_channel_gives_beta_and_no_gradient(rule, rng):
    x, y_bar = rng.normal(size=(2, 4, 2))
    where = np.array([[True, False]] * 4)
    beta = jnp.array([3.0, 7.0])
    y, moments = batch_norm(x, None, beta, where=where, rule=rule)
    assert y[:, 1].tolist() == [7.0] * 4 and moments.count.tolist() == [4.0, 0.0]
    grads, _ = everything(rule, where, 0.0)(x, beta, beta, y_bar, beta, beta)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in grads)
    assert not jnp.any(grads[0][:, 1]) and grads[1][1] == 0


def test_weights_may_vary_over_one_of_several_feature_axes(rng):
    x = rng.normal(size=(2, 3, 2, 4))
    where = np.array([1.0, 0.0, 2.0, 0.5])
    y, moments = batch_norm(x, axis=(3, 1), where=where)
    wanted = reference.batch_norm(x, axis=(3, 1), weights=where)
    np.testing.assert_allclose(y, wanted[0], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(moments.count, np.broadcast_to(4 * where, (3, 4)))


@pytest.mark.parametrize("eps", [0.0, pytest.param(1e-5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", RULES)
def test_a_constant_channel_gives_exactly_beta(rule, eps):
    @jax.jit
    def both(x):
        y, _ = batch_norm(x, jnp.array([2.0]), jnp.array([0.25]), eps=eps, rule=rule)
        return y, jax.grad(lambda x: jnp.sum(batch_norm(x, eps=eps, rule=rule)[0] ** 2))(x)

    y, grad = both(jnp.full((37, 1), 3.3, jnp.float32))
    assert y.tolist() == [[0.25]] * 37
    assert not jnp.any(grad)


def test_an_empty_batch_is_empty():
    y, moments = batch_norm(jnp.ones((0, 3)))
    assert y.shape == (0, 3) and moments.count.tolist() == [0.0] * 3


def test_nan_at_a_valid_place_stays_in_its_channel():
    y, _ = batch_norm(jnp.ones((4, 2)).at[1, 0].set(jnp.nan))
    assert jnp.all(jnp.isnan(y[:, 0])) and not jnp.any(y[:, 1])


exactly = everything("vjp", None, 1e-5, jit=jax.jit)  # one program for all offsets


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4, 1e6])
def test_single_precision_is_exact_under_an_offset(offset, rng):
    x = (rng.normal(size=(256, 8)) + offset).astype(np.float32)
    y_bar, gamma, beta = (rng.normal(size=s).astype(np.float32) for s in ((256, 8), 8, 8))
    zero = np.zeros(8, np.float32)
    ours, y = exactly(x, gamma, beta, y_bar, zero, zero)
    wanted = reference.pull_back(x, y_bar, gamma)
    for a, b in zip(ours, wanted, strict=True):
        assert relative(a, b.reshape(a.shape)) < 5e-7
    assert relative(y, reference.batch_norm(x, gamma, beta)[0]) < 5e-7


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_half_precision_rounds_once(dtype, rng):
    x = jnp.asarray(rng.normal(size=(64, 3)) + 5, dtype)
    gamma = jnp.ones(3, jnp.float32)
    y, moments = batch_norm(x, gamma)
    assert y.dtype == dtype and moments.mean.dtype == jnp.float32
    wanted = reference.batch_norm(np.asarray(x, np.float64))[0]
    assert relative(y, wanted) < jnp.finfo(dtype).eps / 2
    y_bar = jnp.asarray(rng.normal(size=(64, 3)), dtype)
    wanted = reference.pull_back(*(np.asarray(a, np.float64) for a in (x, y_bar)))[0]
    for rule in ("vjp", "jvp"):

        @jax.jit
        def pull_back(x, gamma, y_bar, rule=rule):
            return jax.vjp(lambda *args: batch_norm(*args, rule=rule)[0], x, gamma)[1](y_bar)

        x_bar, gamma_bar = pull_back(x, gamma, y_bar)
        assert x_bar.dtype == dtype and gamma_bar.dtype == jnp.float32
        assert relative(x_bar, wanted) < jnp.finfo(dtype).eps / 2


def test_the_pull_back_saves_x_and_vectors_only():
    x, gamma, beta = jnp.ones((512, 4), jnp.bfloat16), jnp.ones(4), jnp.ones(4)
    _, pull_back = jax.vjp(lambda *a: batch_norm(*a)[0], x, gamma, beta)
    leaves = [leaf for leaf in jax.tree.leaves(pull_back) if hasattr(leaf, "nbytes")]
    large = [leaf for leaf in leaves if leaf.size >= x.size]
    assert [leaf.dtype for leaf in large] == [x.dtype]
    assert sum(leaf.nbytes for leaf in leaves) < x.nbytes + 20 * gamma.nbytes


def summed_sine(x, w, rule="vjp"):
    return jnp.sum(jnp.sin(batch_norm(x, where=w[:, None], rule=rule)[0]))


def in_scan(x, w):
    return jax.lax.scan(lambda c, a: (c + summed_sine(*a), None), 0.0, (x, w))[0]


UNDER = {
    "nothing": lambda x, w: jnp.stack(list(map(jax.grad(summed_sine), x, w))),
    "jit": lambda x, w: jnp.stack(list(map(jax.jit(jax.grad(summed_sine)), x, w))),
    "vmap": quick_jit(jax.vmap(jax.grad(summed_sine))),
    "scan": quick_jit(jax.grad(in_scan)),
    "remat": quick_jit(jax.vmap(jax.grad(jax.checkpoint(summed_sine)))),
}
by_autodiff = quick_jit(jax.grad(partial(summed_sine, rule="autodiff")))


@pytest.mark.parametrize("transform", UNDER)
def test_the_rule_works_under(transform, rng):
    x, w = jnp.asarray(rng.normal(size=(3, 5, 2))), jnp.asarray(rng.random((3, 5)))
    wanted = jnp.stack(list(map(by_autodiff, x, w)))
    np.testing.assert_allclose(UNDER[transform](x, w), wanted, rtol=1e-11, atol=1e-13)


def test_normalize_is_the_affine_map_of_p3(rng):
    x, mean, gamma, beta = rng.normal(size=(4, 3)), *rng.normal(size=(3, 3))
    var = rng.random(3)
    r = 1 / np.sqrt(var + 1e-5)
    wanted = gamma * x * r + (beta - gamma * mean * r)  # P.3
    np.testing.assert_allclose(normalize(x, mean, var, gamma, beta), wanted, rtol=1e-12, atol=1e-12)


def test_normalize_looks_at_each_sample_alone(rng):
    x, mean, var = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((5, 3), 3, 3))
    together = normalize(x, mean, var**2)
    for s in range(5):
        np.testing.assert_array_equal(normalize(x[s : s + 1], mean, var**2), together[s : s + 1])


X = jnp.ones((7, 3))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: batch_norm(X, jnp.ones(4)),
            ValueError,
            r"batch_norm: `gamma` must have shape \(3,\) to match axis -1 of `x` with shape "
            r"\(7, 3\); got \(4,\)\.",
        ),
        (lambda: batch_norm(X, beta=jnp.ones((1, 3))), ValueError, "`beta` must have shape"),
        (lambda: batch_norm(X > 0), TypeError, "got bool"),
        (lambda: batch_norm(X + 0j), TypeError, "got complex128"),
        (lambda: batch_norm(X, jnp.ones(3, int)), TypeError, "`gamma` must be floating"),
        (
            lambda: batch_norm(X, axis=2),
            ValueError,
            "`axis` must name axes of `x`, between -2 and 1",
        ),
        (lambda: batch_norm(X, axis=(0, 1)), ValueError, "leave at least one sample axis"),
        (lambda: batch_norm(X, axis=(1, -1)), ValueError, "different feature axes"),
        (lambda: batch_norm(X, axis=1.5), ValueError, "got 1.5"),
        (lambda: batch_norm(X, eps=-1.0), ValueError, "`eps` must be a static.*got -1.0"),
        (lambda: batch_norm(X, eps=float("nan")), ValueError, "got nan"),
        (lambda: batch_norm(X, where=jnp.ones(7)), ValueError, "`where` must be broadcastable"),
        (lambda: batch_norm(X, where=X + 0j), TypeError, "`where` must be a boolean mask"),
        (lambda: batch_norm(X, rule="vpj"), ValueError, "got 'vpj'; did you mean 'vjp'?"),
        (lambda: batch_norm(X[:1]), ValueError, "at least two values per channel.*normalize"),
        (lambda: normalize(X, jnp.ones(2), jnp.ones(3)), ValueError, "normalize: `mean` must have"),
        (lambda: normalize(X, None, jnp.ones(3)), TypeError, "normalize: `mean` and `var`"),
    ],
)
def test_bad_input_is_refused_in_words(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
