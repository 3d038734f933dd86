"""From 1e-30 to 1e30: whatever the scale of a channel, every result is right to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from bnjax import backprop, batch_norm, geometry, jacobian, normalize

RULES = ("vjp", "jvp", "autodiff")
SCALES = (1e-30, 1e-22, 1e-18, 1e-13, 1e-9, 1.0, 1e10, 1e13, 1e15, 1e18, 1e19, 1e22, 1e30)
B = 40


def both_ways(rule, eps, weighted=False):
    def run(x, gamma, beta, y_bar, dots, mean_bar, var_bar, w):
        def f(x, gamma, beta):
            where = w if weighted else None
            y, moments = batch_norm(x, gamma, beta, eps=eps, rule=rule, where=where)
            return y, moments.mean, moments.var

        out, pull = jax.vjp(f, x, gamma, beta)
        bars = pull((y_bar, mean_bar, var_bar))
        dots = jax.jvp(f, (x, gamma, beta), dots)[1] if rule != "vjp" else None
        return out, bars, dots

    return jax.jit(run)


def draw(rng, scales, dtype=np.float32, offset=1.0, batch=B):
    """Channels of these scales side by side, with cotangents of the size of what they meet."""
    scales = np.asarray(scales, np.float64)
    x = ((rng.normal(size=(batch, len(scales))) + offset) * scales).astype(dtype)
    y_bar, x_dot = rng.normal(size=(2, *x.shape))
    gamma, beta, gamma_dot, beta_dot = rng.normal(size=(4, len(scales)))
    dots = (x_dot * scales, gamma_dot, beta_dot)
    w = rng.uniform(0.5, 2, (batch, 1)) * (np.arange(batch) % 4 > 0)[:, None]
    cast = lambda tree: jax.tree.map(lambda a: np.asarray(a, dtype), tree)  # noqa: E731
    return x, *cast((gamma, beta, y_bar, dots, w))


def check(run, x, gamma, beta, y_bar, dots, w, eps, weights, tolerance):
    scales = np.std(x.astype(np.float64), 0)
    # cotangents of the moments, as large as y's seen from x, as far as float32 reaches
    mean_bar = (1 / np.maximum(scales, 1e-8)).astype(x.dtype)
    var_bar = (1 / np.maximum(scales, 1e-8) ** 2).clip(1e-35, 1e35).astype(x.dtype)
    out, bars, tangents = run(x, gamma, beta, y_bar, dots, mean_bar, var_bar, w)

    def near(name, got, want, size):
        """|got − want| relative to the size of what cancels, channel by channel."""
        error = np.abs(np.asarray(got, np.float64) - want).reshape(-1, x.shape[1])
        size = np.asarray(size, np.float64).reshape(-1, x.shape[1]).max(0)
        most = np.finfo(x.dtype).max
        low = np.finfo(x.dtype).tiny / np.finfo(x.dtype).eps  # what is not to be represented
        inside = (size > low) & (np.abs(want).reshape(-1, x.shape[1]).max(0) < most)
        worst = np.where(inside, error.max(0) / np.where(inside, size, 1), 0)
        assert worst.max() <= tolerance, (name, worst)

    p = None if not weights else w
    y, mean, var, n, x_hat, r = reference.batch_norm(x, gamma, beta, eps=eps, weights=p)
    wide = x.astype(np.float64)
    near("y", out[0], y, np.abs(gamma * x_hat).max(0) + np.abs(beta))
    near("mean", out[1], mean[0], np.abs(wide).max(0))
    near("var", out[2], var[0], var[0])
    plain = np.ones((len(x), 1)) if p is None else np.broadcast_to(w, (len(x), 1))
    some = dict(eps=eps, weights=p)
    want = reference.pull_back(x, y_bar, gamma, mean_bar=mean_bar, var_bar=var_bar, **some)
    t = np.where(plain > 0, y_bar, 0)
    size = np.abs(gamma * r * t).max(0) + (plain / n).max() * (
        np.abs(mean_bar)
        + 2 * np.abs(var_bar * np.where(plain > 0, wide - mean, 0)).max(0)
        + np.abs(gamma * r * np.abs(t).sum(0))
    )
    near("x_bar", bars[0], want[0], size)
    near("gamma_bar", bars[1], want[1][0], np.abs(t * x_hat).sum(0))
    near("beta_bar", bars[2], want[2][0], np.abs(y_bar).sum(0))
    if tangents is None:
        return
    x_dot, gamma_dot, beta_dot = (np.asarray(dot, np.float64) for dot in dots)
    x_dot = np.where(plain > 0, x_dot, 0)
    mean_dot = (plain * x_dot).sum(0) / n[0]
    deviation = np.where(plain > 0, wide - mean, 0)
    along = (plain * x_dot * x_hat).sum(0) / n[0]
    y_dot = np.where(plain > 0, gamma * r * (x_dot - mean_dot - x_hat * along), 0)
    y_dot += gamma_dot * x_hat + beta_dot
    size = np.abs(gamma * r * x_dot).max(0) + np.abs(gamma_dot * x_hat).max(0) + np.abs(beta_dot)
    near("y_dot", tangents[0], y_dot, size)
    near("mean_dot", tangents[1], mean_dot, np.abs(x_dot).max(0))
    var_dot = 2 * (plain * deviation * x_dot).sum(0) / n[0]
    near("var_dot", tangents[2], var_dot, 2 * np.abs(deviation * x_dot).max(0))


@pytest.mark.parametrize(
    ("eps", "weights"),
    [
        pytest.param(0.0, True, id="weights-0.0"),
        pytest.param(1e-5, False, id="plain-1e-05"),
        pytest.param(0.0, False, id="plain-0.0", marks=pytest.mark.slow),
        pytest.param(1e-5, True, id="weights-1e-05", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("rule", RULES)
def test_every_scale_is_right_by_every_rule_side_by_side(rule, eps, weights, rng):
    run = both_ways(rule, eps, weights)
    for offset in (0.0, 1.0, 100.0):
        args = draw(rng, SCALES, offset=offset)
        check(run, *args, eps, weights, 5e-7)


@pytest.mark.parametrize("rule", RULES)
def test_one_outlier_beyond_the_range_of_squares_is_a_sample_like_any_other(rule, rng):
    run = both_ways(rule, 1e-5)
    for outlier in (1e15, -1e15, 1e25, 1e-4):
        x, *rest = draw(rng, np.ones(5))
        x[7] = outlier
        check(run, x, *rest, 1e-5, False, 5e-7)


def test_samples_all_of_one_cluster_are_no_mean(rng):
    """The eight samples that the first shift comes from lie 3.9 σ off: the sums notice."""
    x, *rest = draw(rng, np.ones(3), batch=512)
    x[[(2 * i + 1) * 512 // 16 for i in range(8)]] += np.float32(12.0)
    run = both_ways("vjp", 1e-5)
    check(run, x, *rest, 1e-5, False, 5e-7)


@pytest.mark.parametrize("rule", RULES)
def test_powers_of_two_change_no_bit(rule, rng):
    run = both_ways(rule, 0.0)
    x, gamma, beta, y_bar, dots, w = draw(rng, np.ones(4))
    x[:, 1] += 50  # far from the mean of the first shift, and near
    zero = np.zeros_like(gamma)
    y, bars = None, None
    for k in (0, -99, -60, -30, -1, 5, 33, 62, 65, 90, 100):
        out, (_, gamma_bar, beta_bar), _ = run(
            np.ldexp(x, k), gamma, beta, y_bar, dots, zero, zero, w
        )
        if y is None:
            y, bars = out[0], (gamma_bar, beta_bar)
        np.testing.assert_array_equal(out[0], y, err_msg=str(k))
        np.testing.assert_array_equal((gamma_bar, beta_bar), bars, err_msg=str(k))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, np.float64], ids=str)
def test_other_dtypes_reach_as_far_as_their_numbers(dtype, rng):
    wide = jnp.promote_types(dtype, jnp.float32)
    scales = {2: (1e-3, 1.0, 1e3), 8: (1e-150, 1e-80, 1.0, 1e80, 1e140)}[np.dtype(dtype).itemsize]
    scales = (1e-28, 1.0, 1e28) if dtype == jnp.bfloat16 else scales
    x, gamma, beta, y_bar, *_ = draw(rng, scales, dtype)
    out, pull = jax.vjp(lambda *a: batch_norm(*a, eps=0.0)[0], x, gamma, beta)
    exact = [np.asarray(a, np.float64) for a in (x, y_bar, gamma, beta)]
    y, *_ = reference.batch_norm(exact[0], exact[2], exact[3], eps=0.0)
    x_bar, gamma_bar, _ = reference.pull_back(*exact[:3], eps=0.0)
    tolerance = 2 * float(jnp.finfo(dtype).eps) if wide == jnp.float32 else 1e-14
    bars = pull(y_bar)
    for channel in range(len(scales)):
        assert reference.relative(out[:, channel], y[:, channel]) < tolerance
        got, want = np.asarray(bars[0], np.float64)[:, channel], x_bar[:, channel]
        if np.isfinite(got).all():  # 1/σ may be beyond float16
            assert reference.relative(got, want) < tolerance
        assert reference.relative(bars[1][channel], gamma_bar[0, channel]) < tolerance


def test_the_variance_that_normalize_is_given_may_be_tiny_or_huge(rng):
    y_bar = rng.normal(size=(B, 1)).astype(np.float32)
    for var in (1.5e-26, 1e-13, 1.0, 1e13, 1e26):
        x = (rng.normal(size=(B, 1)) * np.sqrt(var)).astype(np.float32)
        mean, v = np.zeros(1, np.float32), np.full(1, var, np.float32)
        _, pull = jax.vjp(lambda v, x=x, mean=mean: normalize(x, mean, v, eps=0.0), v)
        terms = -0.5 * y_bar.astype(np.float64) * x * float(v[0]) ** -1.5
        assert abs(pull(y_bar)[0][0] - terms.sum()) < 5e-7 * np.abs(terms).sum()


RUNS = {(rule, eps): both_ways(rule, eps) for rule in RULES for eps in (0.0, 1e-5)}
SIXTY_DECADES = st.lists(st.floats(-30, 30), min_size=3, max_size=3)


@settings(max_examples=30, deadline=None)
@given(SIXTY_DECADES, st.sampled_from([0.0, 3.0, 1e4]), st.integers(0, 2**16))
def test_any_scales_over_sixty_decades(exponents, offset, seed):
    args = draw(np.random.default_rng(seed), 10.0 ** np.array(exponents), offset=offset)
    for (_, eps), run in RUNS.items():
        check(run, *args, eps, False, 5e-7)


def size_of(t, gamma, r):
    """What cancels in K(t)."""
    return np.abs(gamma * r) * np.abs(t).max(0)


@settings(max_examples=15, deadline=None)
@given(SIXTY_DECADES, st.integers(0, 2**16))
def test_jacobians_and_stages_over_sixty_decades(exponents, seed):
    x, gamma, _, t, *_ = draw(np.random.default_rng(seed), 10.0 ** np.array(exponents))
    for eps in (0.0, 1e-5):
        _, _, var, _, _, r = reference.batch_norm(x, gamma, eps=eps)
        want, along_x_hat, _ = reference.pull_back(x, t, gamma, eps=eps)
        size = size_of(t, gamma, r[0])
        products = (
            jacobian.kernel_product(t, x, gamma, eps=eps),
            jnp.einsum("sti,ti->si", jacobian.kernel(x, gamma, eps=eps), t, precision="highest"),
            backprop.staged_chain(x, gamma, t, eps=eps).x_bar,
        )
        for product in products:
            assert (np.abs(product - want).max(0) < 1e-6 * size).all()
        second = jacobian.kernel_eigenvalues(x, eps=eps).values[1]
        np.testing.assert_allclose(second, (eps / (var + eps))[0], rtol=1e-6, atol=1e-30)


@settings(max_examples=10, deadline=None)
@given(SIXTY_DECADES, st.integers(-20, 20), st.integers(0, 2**16))
def test_angles_and_gradients_of_a_layer_over_sixty_decades(exponents, power, seed):
    rng = np.random.default_rng(seed)
    x, gamma, _, delta, *_ = draw(rng, 10.0 ** np.array(exponents))
    u = draw(rng, np.full(2, 10.0**power))[0]
    for eps in (0.0, 1e-5):
        angles = geometry.layer_angles(u, x, delta, gamma, eps=eps)
        wide = x.astype(np.float64)
        cos1 = [np.corrcoef(wide[:, i], delta[:, i])[0, 1] for i in range(3)]
        np.testing.assert_allclose(angles.cos1, cos1, atol=1e-6)
        np.testing.assert_allclose(angles.sd_x, wide.std(0), rtol=1e-6)
        x_bar, gamma_bar, _ = reference.pull_back(x, delta, gamma, eps=eps)
        W_bar, got_gamma_bar, _ = geometry.gradients(angles)
        size = B * np.abs(u).max() * size_of(delta, gamma, reference.batch_norm(x, eps=eps)[5][0])
        error = np.abs(W_bar - u.astype(np.float64).T @ x_bar)
        assert (error < 2e-6 * size)[:, (size > 1e-30) & (size < 1e38)].all()
        assert (np.abs(got_gamma_bar - gamma_bar[0]) < 2e-6 * np.abs(delta).sum(0)).all()
