"""masked="normalize": places of zero weight, normalized with the moments of the others."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit
from reference import relative

from bnjax import batch_norm, normalize

RULES = ("vjp", "jvp", "autodiff")
EPS = 1e-3
COUNTS = np.array([1, 0, 1, 1, 0, 1, 0])[:, None] > 0


def plain(x, gamma, beta, w):
    """BN.2 and BN.3 at every place, with weighted moments: what JAX differentiates."""
    w = jnp.broadcast_to(w, x.shape)
    mean = (w * x).sum(0) / w.sum(0)
    var = (w * (x - mean[None]) ** 2).sum(0) / w.sum(0)
    return gamma[None] * (x - mean[None]) / jnp.sqrt(var + EPS)[None] + beta[None], mean, var


def ours(x, gamma, beta, w, rule):
    y, moments = batch_norm(x, gamma, beta, where=w, masked="normalize", rule=rule, eps=EPS)
    return y, moments.mean, moments.var


def weights(kind, rng):
    if kind == "mask":
        return COUNTS
    return rng.random((7, 3 if kind == "per channel" else 1)) * COUNTS


@pytest.mark.parametrize(
    "kind", ["mask", pytest.param("weights", marks=pytest.mark.slow), "per channel"]
)
def test_every_rule_is_the_derivative_of_the_plain_formulas(kind, rng):
    w = weights(kind, rng)
    args = rng.normal(size=(7, 3)), *rng.normal(size=(2, 3))
    bars = tuple(rng.normal(size=shape) for shape in ((7, 3), 3, 3))
    dots = rng.normal(size=(7, 3)), *rng.normal(size=(2, 3))

    @quick_jit
    def all_of_them():
        found = {}
        for rule in (None, *RULES):
            f = partial(plain, w=w) if rule is None else partial(ours, w=w, rule=rule)
            y, pull = jax.vjp(f, *args)
            pushed = None if rule == "vjp" else jax.jvp(f, args, dots)[1]
            found[rule or "wanted"] = y, pull(bars), pushed
        return found

    found = all_of_them()
    wanted = found.pop("wanted")
    for rule, got in found.items():
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=False):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13, err_msg=rule)


@pytest.mark.parametrize("rule", RULES)
def test_nan_and_infinity_under_the_mask_spoil_nothing_else(rule, rng):
    x, y_bar = rng.normal(size=(2, 7, 3))
    gamma, beta = rng.normal(size=(2, 3))
    hidden, bars = x.copy(), y_bar.copy()
    hidden[1], hidden[4, 1] = np.nan, np.inf
    bad = ~np.isfinite(hidden)
    bars[bad] = np.nan  # the cotangent of NaN is NaN, often

    @quick_jit
    def pulled(x, bars, w):
        y, pull = jax.vjp(lambda *args: ours(*args, w, rule)[0], x, gamma, beta)
        return y, pull(bars)

    y, (x_bar, *others) = pulled(hidden, bars, COUNTS)
    # the same as if there were nothing but something finite, whose y nobody used
    same_y, (same_x_bar, *same_others) = pulled(
        np.where(bad, 0, hidden), np.where(bad, 0, bars), COUNTS
    )
    assert np.isnan(y[bad]).all() and not np.any(x_bar[bad])
    np.testing.assert_array_equal(y[~bad], same_y[~bad])
    np.testing.assert_allclose(x_bar[~bad], same_x_bar[~bad], rtol=1e-12, atol=1e-14)
    for a, b in zip(others, same_others, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_masked_places_lose_nothing_under_an_offset(rng):
    x = (rng.normal(size=(64, 4)) + 1e4).astype("float32")
    w = rng.random((64, 1)) > 0.4
    y, moments = batch_norm(x, where=w, masked="normalize")
    _, mean, _, _, _, r = reference.batch_norm(x, weights=w)
    wanted = (np.asarray(x, np.float64) - mean) * r
    assert relative(y, wanted) < 5e-7
    # one float cannot hold the mean
    assert relative(normalize(x, *moments[:2]), wanted) > 1e-4


@pytest.mark.parametrize("rule", RULES)
def test_a_channel_without_weight_gives_beta_and_no_gradient(rule, rng):
    x, y_bar, beta = rng.normal(size=(4, 2)), rng.normal(size=(4, 2)), np.array([3.0, 7.0])
    w = np.array([[True, False]] * 4)
    f = quick_jit(lambda *args: jax.vjp(lambda *args: ours(*args, w, rule)[0], *args)[1](y_bar))
    x_bar, gamma_bar, beta_bar = f(x, beta, beta)
    assert not np.any(x_bar[:, 1]) and gamma_bar[1] == 0
    np.testing.assert_allclose(beta_bar, y_bar.sum(0))
    assert ours(x, beta, beta, w, rule)[0][:, 1].tolist() == [7.0] * 4


@pytest.mark.parametrize(
    "rule", ["vjp", *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("jvp", "autodiff"))]
)
def test_masked_places_of_all_devices_are_normalized_with_the_moments_of_the_whole(rule, rng):
    x, y_bar = rng.normal(size=(2, 8, 3))
    gamma, beta = rng.normal(size=(2, 3))
    w = rng.random((8, 1))
    w[:5] = 0  # the first device holds nothing that counts

    options = {"masked": "normalize", "rule": rule, "eps": EPS, "axis_name": "devices"}

    def cost(x, gamma, beta, w, y_bar):
        return jnp.sum(batch_norm(x, gamma, beta, where=w, **options)[0] * y_bar)

    def spread(x, *args):
        def on_one(x, w, y_bar):
            return cost(x, *args, w, y_bar)

        parts = [a.reshape(2, 4, -1) for a in (x, w, y_bar)]
        return jnp.sum(jax.vmap(on_one, axis_name="devices")(*parts))

    got = quick_jit(jax.grad(spread, (0, 1, 2)))(x, gamma, beta)
    whole = jax.grad(lambda *args: jnp.sum(plain(*args, w)[0] * y_bar), (0, 1, 2))
    wanted = quick_jit(whole)(x, gamma, beta)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)
