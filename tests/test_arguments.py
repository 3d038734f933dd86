"""Arguments of other kinds than floating arrays, tuples and Python numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit
from reference import relative

from bnjax import batch_norm, normalize

RULES = ("vjp", "jvp", "autodiff")


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_integers_are_converted_to_the_default_float(dtype, rng):
    x = rng.integers(0, 100, (7, 3)).astype(dtype)
    y, moments = batch_norm(x)
    assert y.dtype == moments.mean.dtype == jnp.result_type(float)
    np.testing.assert_allclose(y, reference.batch_norm(x)[0], rtol=1e-12)
    again = normalize(x, *moments[:2])
    np.testing.assert_allclose(again, y, rtol=1e-12)
    with jax.enable_x64(False):
        assert (
            batch_norm(x)[0].dtype == normalize(x, *np.ones((2, 3), "float32")).dtype == np.float32
        )


def test_axes_may_be_a_list_and_eps_a_numpy_scalar(rng):
    x = rng.normal(size=(4, 3, 2))
    wanted = batch_norm(x, axis=(0, 2), eps=0.25)[0]
    for axis in ([0, 2], [np.int64(0), np.int32(-1)], (np.int8(2), 0)):
        for eps in (np.float32(0.25), np.float64(0.25)):
            np.testing.assert_array_equal(batch_norm(x, axis=axis, eps=eps)[0], wanted)
    rows = np.ones((2, 3))
    wanted = normalize(x, *rows, axis=1, eps=2)
    np.testing.assert_array_equal(normalize(x, *rows, axis=[1], eps=np.int32(2)), wanted)


@pytest.mark.parametrize("rule", RULES)
def test_an_axis_name_may_be_anything_hashable(rule, rng):
    class Name:
        """Hashable, and cannot be compared."""

    name = Name()
    x = rng.normal(size=(2, 4, 3))
    normalized = jax.vmap(lambda x: batch_norm(x, axis_name=name, rule=rule)[0], axis_name=name)
    wanted = reference.batch_norm(x.reshape(8, 3))[0].reshape(x.shape)
    np.testing.assert_allclose(quick_jit(normalized)(x), wanted, rtol=1e-11)


@pytest.mark.parametrize(
    "rule", ["vjp", *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("jvp", "autodiff"))]
)
def test_half_precision_may_give_single_without_a_copy_of_x(rule, rng):
    x = jnp.asarray(rng.normal(size=(64, 3)) + 5, jnp.bfloat16)
    gamma = jnp.ones(3, jnp.float32)

    def f(x, gamma):
        return batch_norm(x, gamma, rule=rule, dtype=jnp.float32)[0]

    y, pull = jax.vjp(f, x, gamma)
    wide = np.asarray(x, np.float64)
    assert y.dtype == jnp.float32 and relative(y, reference.batch_norm(wide)[0]) < 5e-7
    y_bar = rng.normal(size=x.shape).astype("float32")
    x_bar, gamma_bar = pull(y_bar)
    assert (x_bar.dtype, gamma_bar.dtype) == (x.dtype, gamma.dtype)
    wanted = reference.pull_back(wide, y_bar)
    assert relative(x_bar, wanted[0]) < jnp.finfo(x.dtype).eps / 2
    assert relative(gamma_bar, wanted[1][0]) < 1e-6
    if rule == "vjp":
        large = [leaf for leaf in jax.tree.leaves(pull) if getattr(leaf, "size", 0) >= x.size]
        assert [leaf.dtype for leaf in large] == [x.dtype]
    if rule == "jvp":
        assert jax.jvp(f, (x, gamma), (x, gamma))[1].dtype == jnp.float32


def test_normalize_may_give_single_from_half_precision(rng):
    x = jnp.asarray(rng.normal(size=(8, 3)), jnp.bfloat16)
    rows = jnp.asarray(rng.random((4, 3)), jnp.float32)
    y, pull = jax.vjp(lambda x: normalize(x, *rows, dtype="float32"), x)
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, normalize(x.astype(jnp.float32), *rows))
    assert pull(y)[0].dtype == x.dtype


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("shape", "axis"), [((1, 3), -1), ((1, 3, 1), 1)])
def test_a_single_value_gives_beta_where_it_is_allowed(shape, axis, rule, rng):
    x = rng.normal(size=shape).astype("float32")
    gamma, beta = rng.normal(size=(2, 3)).astype("float32")

    def f(*args):
        y, moments = batch_norm(*args, axis=axis, rule=rule, allow_single_value=True)
        return y, moments.mean, moments.var, moments.count

    (y, mean, var, count), pull = jax.vjp(f, x, gamma, beta)
    np.testing.assert_array_equal(y, beta.reshape(shape))
    np.testing.assert_array_equal(mean, x.reshape(3))
    assert not np.any(var) and count.tolist() == [1.0] * 3
    ones, none = jnp.ones_like(mean), jnp.zeros_like(mean)
    x_bar, gamma_bar, beta_bar = pull((jnp.ones_like(y), none, ones, none))
    assert not np.any(x_bar) and not np.any(gamma_bar) and beta_bar.tolist() == [1.0] * 3
    np.testing.assert_array_equal(pull((jnp.zeros_like(y), ones, none, none))[0], np.ones(shape))
    assert np.isnan(f(x * np.nan, gamma, beta)[0]).all()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: batch_norm(3.0),
            ValueError,
            r"batch_norm: `x` must have at least.*got shape \(\)",
        ),
        (lambda: normalize(3, 0.0, 1.0), ValueError, r"normalize: `x` must have at least"),
        (
            lambda: batch_norm(jnp.ones((4, 2), jnp.float8_e4m3fn)),
            TypeError,
            "`x` must be floating .float16.*got float8_e4m3fn. Convert it first",
        ),
        (
            lambda: batch_norm(jnp.ones((4, 2)), jnp.ones(2, jnp.float8_e5m2)),
            TypeError,
            "`gamma` must be floating .*got float8_e5m2",
        ),
        (lambda: batch_norm(jnp.ones((4, 2)), dtype=int), TypeError, "`dtype` must be None.*int"),
        (
            lambda: batch_norm(jnp.ones((4, 2)), dtype="double double"),
            TypeError,
            "`dtype` must be None",
        ),
        (
            lambda: batch_norm(jnp.ones((4, 2)), masked="normalise"),
            ValueError,
            "`masked` must be one of beta, normalize; got 'normalise'; did you mean 'normalize'",
        ),
        (lambda: batch_norm(jnp.ones((4, 2)), axis=["0"]), ValueError, "`axis` must name axes"),
        (lambda: batch_norm(jnp.ones((4, 2)), eps="1"), ValueError, "`eps` must be a static"),
        (lambda: batch_norm(jnp.ones((1, 2))), ValueError, "allow_single_value=True"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
