"""Every way of differentiating, against JAX's own differentiation of the plain forward."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import quick_jit

from bnjax import audit, batch_norm, normalize

rng = np.random.default_rng(0)
X, V = rng.normal(size=(2, 4, 2))
GAMMA, BETA, GAMMA_DOT, BETA_DOT = rng.normal(size=(4, 2))
W = np.array([2.0, 0.5, 0.0, 1.0])[:, None]
ARGS, DOTS = (X, GAMMA, BETA), (V, GAMMA_DOT, BETA_DOT)


def outputs(rule, where):
    """Return (x, γ, β) -> y and the moments."""

    def f(x, gamma, beta):
        y, moments = batch_norm(x, gamma, beta, where=where, rule=rule, eps=0.1)
        return y, moments.mean, moments.var

    return f


def cost(rule, where):
    """Return (x, γ, β) -> a number that curves in y and in both moments."""

    def f(*args):
        y, mean, var = outputs(rule, where)(*args)
        return jnp.sum(jnp.sin(y) * X) + jnp.sum(mean**2 * var) + jnp.sum(jnp.exp(-var))

    return f


def close(got, wanted):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def linearized(f, args, dots):
    out, push = jax.linearize(f, *args)
    return out, push(*dots)


def second(outer, inner):
    """Return f's second derivative along (DOTS, DOTS), each derivative taken in its mode."""

    def along(f, mode):
        if mode == "forward":
            return lambda *args: jax.jvp(f, args, DOTS)[1]
        return lambda *args: sum(
            jnp.sum(a * b) for a, b in zip(jax.grad(f, (0, 1, 2))(*args), DOTS, strict=True)
        )

    return lambda f: along(along(f, inner), outer)(*ARGS)


FIRST = {
    "jvp, linearize": lambda f: (jax.jvp(f, ARGS, DOTS), linearized(f, ARGS, DOTS)),
    "jacfwd": lambda f: jax.jacfwd(f, (0, 1, 2))(*ARGS),
    "jacrev": lambda f: jax.jacrev(f, (0, 1, 2))(*ARGS),
    "vmap of jvp": lambda f: jax.vmap(lambda d: jax.jvp(f, ARGS, (d, *DOTS[1:])))(
        np.stack([V, X, V * X])
    ),
}
OF_COST = {
    "grad": lambda f: jax.grad(f, (0, 1, 2))(*ARGS),
    "vmap of grad": lambda f: jax.vmap(lambda x: jax.grad(f, (0, 1, 2))(x, GAMMA, BETA))(
        np.stack([V, X, V * X])
    ),
    "hessian": lambda f: jax.hessian(f, (0, 1, 2))(*ARGS),
    "vmap of hessian": lambda f: jax.vmap(lambda x: jax.hessian(f)(x, GAMMA, BETA))(
        np.stack([V, X])
    ),
    "forward over forward": second("forward", "forward"),
    "forward over reverse": second("forward", "reverse"),
    "reverse over forward": second("reverse", "forward"),
    "reverse over reverse": second("reverse", "reverse"),
    "jacfwd of grad": lambda f: jax.jacfwd(jax.grad(f))(*ARGS),
    "jacrev of grad": lambda f: jax.jacrev(jax.grad(f))(*ARGS),
}
LARGE = ("hessian", "vmap of hessian", "jacfwd of grad", "jacrev of grad")  # programs
IN_REVERSE = ("grad", "vmap of grad", "hessian", "forward over reverse", "reverse over reverse") + (
    "jacfwd of grad",
    "jacrev of grad",
)


def compare(run, f, rule, where):
    """Hold `run` under a rule to `run` of the plain forward."""
    both = quick_jit(lambda: [run(f(r, where)) for r in (rule, "autodiff")])
    close(*both())


@pytest.mark.parametrize("how", FIRST)
def test_jvp_goes_in_every_mode(how):
    compare(FIRST[how], outputs, "jvp", W)


def large_ones_slow(names):
    """By default second derivatives are taken along one direction, in every pair of modes."""
    return [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in names]


@pytest.mark.parametrize("how", large_ones_slow(OF_COST))
def test_jvp_goes_in_every_mode_twice(how):
    compare(OF_COST[how], cost, "jvp", W)


@pytest.mark.parametrize("how", large_ones_slow(IN_REVERSE))
def test_vjp_goes_in_reverse_and_its_pull_back_in_every_mode(how):
    compare(OF_COST[how], cost, "vjp", W)


def test_without_weights_it_is_the_same():
    compare(FIRST["jvp, linearize"], outputs, "jvp", None)
    for rule in ("jvp", "vjp"):
        compare(OF_COST["forward over reverse"], cost, rule, None)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["jvp", "vjp"])
def test_without_weights_the_hessian_is_the_same(rule):
    compare(OF_COST["hessian"], cost, rule, None)


@pytest.mark.parametrize("push", ["jvp, linearize", "jacfwd"])
def test_vjp_refuses_to_be_pushed_forward(push):
    with pytest.raises(TypeError, match="forward-mode"):
        FIRST[push](outputs("vjp", None))


@pytest.mark.parametrize("rule", ["vjp", pytest.param("jvp", marks=pytest.mark.slow)])
def test_the_gradient_of_a_scan_is_mapped_over(rule, rng):
    def deep(x, gamma, rule):
        def layer(x, gamma):
            y, moments = batch_norm(x, gamma, rule=rule, eps=0.1)
            return jnp.sin(y) + 0.1 * x, jnp.sum(moments.var)

        x, var = jax.lax.scan(layer, x, gamma)
        return jnp.sum(x**3) + jnp.sum(var)

    gammas = rng.normal(size=(3, 2))
    # each x its own batch
    mapped = quick_jit(jax.vmap(jax.grad(deep, (0, 1)), (0, None, None)), static_argnums=2)
    xs = np.stack([X, V])
    close(mapped(xs, gammas, rule), mapped(xs, gammas, "autodiff"))


@pytest.mark.parametrize(
    ("shape", "axis", "dtype"),
    [
        ((33, 5), -1, "float32"),
        pytest.param((2, 3, 4, 5), 1, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_the_three_rules_give_the_same_bits_of_y(shape, axis, dtype, rng):
    x = jnp.asarray(rng.normal(size=shape) * 3 + 7, dtype)
    gamma, beta = jnp.asarray(rng.normal(size=(2, shape[axis])), jnp.float32)
    run = jax.jit(batch_norm, static_argnames=("axis", "rule"))
    ours = [run(x, gamma, beta, axis=axis, rule=rule) for rule in ("vjp", "jvp", "autodiff")]
    for other in ours[1:]:
        for a, b in zip(jax.tree.leaves(ours[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def saved_by(f, *args):
    """The arrays that f's pull-back holds, as shapes: nothing is computed."""
    return jax.tree.leaves(jax.eval_shape(lambda *args: jax.vjp(f, *args)[1], *args))


def nbytes(a):
    return a.size * a.dtype.itemsize


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
@pytest.mark.parametrize(
    ("shape", "axis", "dtype"),
    [
        ((512, 4), -1, "float32"),
        ((512, 4), -1, "bfloat16"),
        ((8, 6, 6, 4), -1, "float16"),
        ((8, 4, 6, 6), 1, "bfloat16"),
    ],
)
def test_of_x_s_size_only_x_is_saved(shape, axis, rule, dtype):
    x, channels = jnp.ones(shape, dtype), shape[axis]
    gamma = beta = jnp.ones(channels, jnp.float32)
    leaves = saved_by(lambda *a: batch_norm(*a, axis=axis, rule=rule)[0], x, gamma, beta)
    large = [leaf for leaf in leaves if leaf.size > channels]
    assert [(leaf.size, leaf.dtype) for leaf in large] == [(x.size, x.dtype)]
    # γ, β, shift, remainder, σ², n and r at most, once more for the push-forward
    assert sum(map(nbytes, leaves)) <= nbytes(x) + 10 * nbytes(gamma)


def test_normalize_has_the_derivatives_of_its_formula_in_all_five():
    def plain(x, *vectors):
        mean, var, gamma, beta = (v[None] for v in vectors)
        return gamma * (x - mean) / jnp.sqrt(var + 0.1) + beta

    args = (X, GAMMA, BETA**2, GAMMA_DOT, BETA_DOT)
    report = audit.assert_gradients_match(
        partial(normalize, eps=0.1), plain, args, transforms="jit"
    )
    assert {row.mode for row in report.rows} == set(audit.MODES)


def test_normalize_saves_x_in_its_dtype_and_vectors():
    x, v = jnp.ones((512, 4), jnp.bfloat16), jnp.ones(4)
    leaves = saved_by(normalize, x, v, v, v, v)
    assert [leaf.dtype for leaf in leaves if leaf.size >= x.size] == [x.dtype]
