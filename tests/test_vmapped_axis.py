"""`axis_name` of a `vmap`: one batch, whatever is around the vmap or inside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit
from jax import lax

from bnjax import Moments, batch_norm

RULES = ("vjp", pytest.param("autodiff", marks=pytest.mark.slow))  # over a vmap "jvp" is "vjp"
D, N, C = 3, 2, 2
rng = np.random.default_rng(0)
X, X_DOT, Y_BAR = rng.normal(2, 3, (3, D, N, C))
GAMMA, BETA, GAMMA_DOT, BETA_DOT, MEAN_BAR, VAR_BAR = rng.normal(size=(6, C))
ARGS, DOTS = (X, GAMMA, BETA), (X_DOT, GAMMA_DOT, BETA_DOT)
WEIGHTS = rng.uniform(0.5, 2, (D, N, 1))
WEIGHTS[0] = WEIGHTS[1, 0] = 0  # the first element of the vmap holds nothing
CASES = [
    pytest.param("vjp", WEIGHTS, id="vjp weights"),
    pytest.param("vjp", None, id="vjp", marks=pytest.mark.slow),
    pytest.param("autodiff", WEIGHTS, id="autodiff weights", marks=pytest.mark.slow),
]


def close(got, wanted):
    def check(a, b):
        np.testing.assert_allclose(a, np.reshape(b, a.shape), rtol=1e-10, atol=1e-11)

    jax.tree.map(check, got, wanted)


def spread(rule, where):
    """(x, γ, β) -> y and the moments, which are equal in the whole vmap: `out_axes=None`."""

    def local(x, w, gamma, beta):
        return batch_norm(x, gamma, beta, where=w, axis_name="d", rule=rule)

    def run(x, gamma, beta):
        each = tuple(0 if a.ndim == 2 else None for a in (gamma, beta))
        return jax.vmap(local, (0, 0, *each), (0, None), axis_name="d")(x, where, gamma, beta)

    return run


def plain(where):
    """The same of the whole batch, as anyone would write it."""
    w = jnp.ones((D, N, 1)) if where is None else jnp.asarray(where)
    n = jnp.sum(w)

    def run(x, gamma, beta):
        mean = jnp.sum(w * x, (0, 1)) / n
        var = jnp.sum(w * (x - mean[None, None]) ** 2, (0, 1)) / n
        x_hat = jnp.where(w > 0, (x - mean[None, None]) / jnp.sqrt(var + 1e-5)[None, None], 0)
        gamma, beta = (jnp.reshape(v, (-1, 1, C)) for v in (gamma, beta))
        counts = jnp.full(C, n), jnp.full(C, n**2 / jnp.sum(w**2))
        return x_hat * gamma + beta, Moments(mean, var, *counts)

    return run


def cost(normalize):
    def total(*args):
        y, (mean, var, *_) = normalize(*args)
        return jnp.sum(jnp.sin(y) * Y_BAR) + of_moments(mean, var)

    return total


def of_moments(mean, var):
    return jnp.sum(mean * MEAN_BAR + jnp.sin(var) * VAR_BAR)


def gradient(f):
    return jax.grad(f, (0, 1, 2))


def pushed(f):
    return lambda *args: jax.jvp(f, args, DOTS)[1]


def second(f):
    """The gradient of the slope along DOTS, by reverse mode over reverse mode."""

    def slope(*args):
        return sum(jnp.vdot(g, dot) for g, dot in zip(gradient(f)(*args), DOTS, strict=True))

    return gradient(slope)


def in_scan(f):
    return lambda *args: lax.scan(lambda total, _: (total + f(*args), None), 0.0, None, 1)[0]


def in_cond(f):
    return lambda *args: lax.cond(args[1][0] < jnp.inf, f, lambda *_: 0.0, *args)


def in_vmap(f):
    """The mean over two networks, as a sweep would hold them."""
    return lambda *args: jnp.mean(jax.vmap(f)(*(jnp.stack([a, a]) for a in args)))


AROUND = {
    "nothing": lambda f: f,
    "checkpoint": jax.checkpoint,
    "scan": in_scan,
    "cond": in_cond,
}


def compiled(f):
    return quick_jit(f)(*ARGS)


@pytest.mark.parametrize(("rule", "where"), CASES)
def test_the_vmap_may_stand_anywhere(rule, where):
    f, whole = spread(rule, where), plain(where)
    each = [gradient(around(cost(f))) for around in (*AROUND.values(), in_vmap)]
    wanted = compiled(lambda *args: (whole(*args), gradient(cost(whole))(*args)))
    y_and_moments, *grads = compiled(lambda *args: (f(*args), *(one(*args) for one in each)))
    close(y_and_moments, wanted[0])
    close(grads, [wanted[1]] * len(each))


@pytest.mark.slow
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize(("rule", "where"), CASES)
def test_without_jit_it_may_stand_anywhere(rule, where, around):
    f, whole = spread(rule, where), plain(where)
    wanted = compiled(lambda *args: (whole(*args), gradient(cost(whole))(*args)))
    close(f(*ARGS), wanted[0])
    close(gradient(AROUND[around](cost(f)))(*ARGS), wanted[1])


def ways(f):
    return second(f), pushed(gradient(f)), pushed(f), gradient(pushed(jax.checkpoint(f)))


@pytest.mark.parametrize(("rule", "where"), CASES)
def test_second_derivatives_and_forward_mode(rule, where):
    def all_ways(f):
        return compiled(lambda *args: [way(*args) for way in ways(f)])

    close(all_ways(cost(spread(rule, where))), all_ways(cost(plain(where))))


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "where"), CASES)
def test_second_derivatives_without_jit(rule, where):
    f, whole = cost(spread(rule, where)), cost(plain(where))
    wanted = compiled(lambda *args: [way(*args) for way in ways(whole)[:2]])
    close([way(*ARGS) for way in ways(f)[:2]], wanted)


def test_by_hand_there_is_one_rule():
    programs = [str(jax.make_jaxpr(spread(rule, WEIGHTS))(*ARGS)) for rule in ("vjp", "jvp")]
    assert programs[0] == programs[1]


@pytest.mark.parametrize("rule", RULES)
def test_a_gradient_inside_the_vmap_is_that_of_all_costs(rule):
    def local(x, y_bar, w, x_dot):
        def f(x, gamma, beta):
            y, (mean, var, *_) = batch_norm(x, gamma, beta, where=w, axis_name="d", rule=rule)
            return jnp.sum(jnp.sin(y) * y_bar) + of_moments(mean, var) / D

        def slope(x, gamma, beta):
            dots = x_dot, GAMMA_DOT, BETA_DOT
            bars = gradient(f)(x, gamma, beta)
            return sum(jnp.vdot(g, dot) for g, dot in zip(bars, dots, strict=True))

        return gradient(f)(x, GAMMA, BETA), gradient(slope)(x, GAMMA, BETA)

    found = quick_jit(jax.vmap(local, axis_name="d"))(X, Y_BAR, WEIGHTS, X_DOT)
    whole = cost(plain(WEIGHTS))
    wanted = quick_jit(lambda *args: (gradient(whole)(*args), second(whole)(*args)))(*ARGS)
    for (x_bar, *parts), right in zip(found, wanted, strict=True):
        close((x_bar, *(jnp.sum(v, 0) for v in parts)), right)


@pytest.mark.parametrize("rule", RULES)
def test_every_element_may_have_its_own_scale_and_shift(rule, rng):
    args = X, *rng.normal(size=(2, D, C))
    got = quick_jit(gradient(cost(spread(rule, WEIGHTS))))(*args)
    close(got, quick_jit(gradient(cost(plain(WEIGHTS))))(*args))


def test_what_is_hidden_reaches_nothing():
    hidden = np.where(WEIGHTS > 0, X, np.nan), GAMMA, BETA
    got = quick_jit(gradient(cost(spread("vjp", WEIGHTS))))(*hidden)
    close(got, compiled(gradient(cost(plain(WEIGHTS)))))


@pytest.mark.parametrize("rule", RULES)
def test_convolutions_over_two_axes_are_one_batch(rule, rng):
    x, y_bar = rng.normal(2, 3, (2, 2, 3, C, 2, 3))

    def local(x):
        return batch_norm(x[None], GAMMA, axis=1, axis_name=("a", "b"), rule=rule)[0][0]

    run = jax.vmap(jax.vmap(local, axis_name="b", in_axes=1, out_axes=1), axis_name="a")

    @quick_jit
    def both(x):
        y, pull = jax.vjp(run, jnp.moveaxis(x, 1, 2))  # (2, C, 3, 2, 3)
        return jnp.moveaxis(y, 2, 1), jnp.moveaxis(pull(jnp.moveaxis(y_bar, 1, 2))[0], 2, 1)

    close(both(x)[0], reference.batch_norm(x, GAMMA, axis=(2,))[0])
    close(both(x)[1], reference.pull_back(x, y_bar, GAMMA, axis=(2,))[0])


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_single_and_half_precision_are_those_of_the_whole(dtype, rng):
    x = jnp.asarray(rng.normal(1e4 if dtype == "float32" else 10, 1, (64, 1, 5)), dtype)
    y_bar = jnp.asarray(rng.normal(size=x.shape), dtype)

    @quick_jit
    def both(x, y_bar):
        def run(x):
            return jax.vmap(lambda x: batch_norm(x, axis_name="d")[0], axis_name="d")(x)

        y, pull = jax.vjp(run, x)
        return y, *pull(y_bar)

    x64, y_bar64 = (np.asarray(a, np.float64).reshape(64, 5) for a in (x, y_bar))
    right = reference.batch_norm(x64)[0], reference.pull_back(x64, y_bar64)[0]
    for got, wanted in zip(both(x, y_bar), right, strict=True):
        assert got.dtype == dtype
        most = 5e-7 if dtype == "float32" else 2**-9  # each number rounded once
        assert reference.relative(got.reshape(64, 5), wanted) <= most
