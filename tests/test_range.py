"""From 1e-30 to 1e30: whatever the scale of a channel, every result is right to rounding."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnjax import Network, NormDense, backprop, batch_norm, geometry, jacobian, normalize

RULES = ("vjp", "jvp", "autodiff")
SCALES = (1e-30, 1e-22, 1e-18, 1e-13, 1e-9, 1.0, 1e10, 1e13, 1e15, 1e18, 1e19, 1e22, 1e30)
B, C = 40, len(SCALES)
LOW = float(np.finfo(np.float32).tiny / np.finfo(np.float32).eps)


@cache  # compiled once for all tests: they have the same shapes
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


def close(name, got, want, size, tolerance=5e-7):
    """|got − want| relative to the size of what cancels, channel by channel."""
    dtype, channels = got.dtype, np.shape(want)[-1]
    error = np.abs(np.asarray(got, np.float64) - want).reshape(-1, channels)
    size = np.asarray(size, np.float64).reshape(-1, channels).max(0)
    low = float(np.finfo(dtype).tiny / np.finfo(dtype).eps)  # below it numbers lose digits
    most = np.abs(want).reshape(-1, channels).max(0)
    inside = (size > low) & (most < np.finfo(dtype).max)
    worst = np.where(inside, error.max(0) / np.where(inside, size, 1), 0)
    assert worst.max() <= tolerance, (name, worst)


def check(run, x, gamma, beta, y_bar, dots, w, eps, weights, tolerance):
    scales = np.std(x.astype(np.float64), 0)
    # cotangents of the moments, as large as y's seen from x, as far as float32 reaches
    mean_bar = (1 / np.maximum(scales, 1e-8)).astype(x.dtype)
    var_bar = (1 / np.maximum(scales, 1e-8) ** 2).clip(1e-35, 1e35).astype(x.dtype)
    out, bars, tangents = run(x, gamma, beta, y_bar, dots, mean_bar, var_bar, w)

    near = partial(close, tolerance=tolerance)
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
        pytest.param(1e-5, False, id="plain-1e-05", marks=pytest.mark.slow),
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


# the first shift and the sums are the same by every rule
@pytest.mark.parametrize(
    "rule", ["vjp", *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("jvp", "autodiff"))]
)
def test_one_outlier_beyond_the_range_of_squares_is_a_sample_like_any_other(rule, rng):
    run = both_ways(rule, 1e-5)
    for outlier in (1e15, -1e15, 1e25, 1e-4):
        x, *rest = draw(rng, np.ones(C))
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
    x, gamma, beta, y_bar, dots, w = draw(rng, np.ones(C))
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


@pytest.mark.parametrize(
    "dtype",
    [pytest.param(jnp.float16, marks=pytest.mark.slow), jnp.bfloat16, np.float64],
    ids=str,
)
def test_other_dtypes_reach_as_far_as_their_numbers(dtype, rng):
    wide = jnp.promote_types(dtype, jnp.float32)
    scales = {2: (1e-3, 1.0, 1e3), 8: (1e-150, 1e-80, 1.0, 1e80, 1e140)}[np.dtype(dtype).itemsize]
    scales = (1e-28, 1.0, 1e28) if dtype == jnp.bfloat16 else scales
    x, gamma, beta, y_bar, *_ = draw(rng, scales, dtype)

    @jax.jit
    def both(x, gamma, beta, y_bar):
        out, pull = jax.vjp(lambda *a: batch_norm(*a, eps=0.0)[0], x, gamma, beta)
        return out, pull(y_bar)

    out, bars = both(x, gamma, beta, y_bar)
    exact = [np.asarray(a, np.float64) for a in (x, y_bar, gamma, beta)]
    y, *_ = reference.batch_norm(exact[0], exact[2], exact[3], eps=0.0)
    x_bar, gamma_bar, _ = reference.pull_back(*exact[:3], eps=0.0)
    tolerance = 2 * float(jnp.finfo(dtype).eps) if wide == jnp.float32 else 1e-14
    for channel in range(len(scales)):
        assert reference.relative(out[:, channel], y[:, channel]) < tolerance
        got, want = np.asarray(bars[0], np.float64)[:, channel], x_bar[:, channel]
        if np.isfinite(got).all():  # 1/σ may be beyond float16
            assert reference.relative(got, want) < tolerance
        assert reference.relative(bars[1][channel], gamma_bar[0, channel]) < tolerance


def test_the_variance_that_normalize_is_given_may_be_tiny_or_huge(rng):
    y_bar = rng.normal(size=(B, 1)).astype(np.float32)

    @jax.jit
    def pull(x, mean, v):
        return jax.vjp(lambda v: normalize(x, mean, v, eps=0.0), v)[1](y_bar)

    for var in (1.5e-26, 1e-13, 1.0, 1e13, 1e26):
        x = (rng.normal(size=(B, 1)) * np.sqrt(var)).astype(np.float32)
        mean, v = np.zeros(1, np.float32), np.full(1, var, np.float32)
        terms = -0.5 * y_bar.astype(np.float64) * x * float(v[0]) ** -1.5
        assert abs(pull(x, mean, v)[0][0] - terms.sum()) < 5e-7 * np.abs(terms).sum()


DECADES = st.floats(-30, 30)
SIXTY_DECADES = st.lists(DECADES, min_size=3, max_size=3)
# the same examples always, and no clock
STABLE = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@settings(STABLE, max_examples=30)
@given(
    st.lists(DECADES, min_size=C, max_size=C),
    st.sampled_from([0.0, 3.0, 1e4]),
    st.integers(0, 2**16),
)
def test_any_scales_over_sixty_decades(exponents, offset, seed):
    args = draw(np.random.default_rng(seed), 10.0 ** np.array(exponents), offset=offset)
    for rule, eps in itertools.product(RULES, (0.0, 1e-5)):
        check(both_ways(rule, eps), *args, eps, False, 5e-7)


def size_of(t, gamma, r):
    """What cancels in K(t)."""
    return np.abs(gamma * r) * np.abs(t).max(0)


@partial(quick_jit, static_argnums=3)
def products_and_eigenvalues(x, gamma, t, eps):
    products = (
        jacobian.kernel_product(t, x, gamma, eps=eps),
        jnp.einsum("sti,ti->si", jacobian.kernel(x, gamma, eps=eps), t, precision="highest"),
        backprop.staged_chain(x, gamma, t, eps=eps).x_bar,
    )
    return products, jacobian.kernel_eigenvalues(x, eps=eps).values


@settings(STABLE, max_examples=15)
@given(SIXTY_DECADES, st.integers(0, 2**16))
def test_jacobians_and_stages_over_sixty_decades(exponents, seed):
    x, gamma, _, t, *_ = draw(np.random.default_rng(seed), 10.0 ** np.array(exponents))
    for eps in (0.0, 1e-5):
        _, _, var, _, _, r = reference.batch_norm(x, gamma, eps=eps)
        want, along_x_hat, _ = reference.pull_back(x, t, gamma, eps=eps)
        size = size_of(t, gamma, r[0])
        products, values = products_and_eigenvalues(x, gamma, t, eps)
        for product in products:
            assert (np.abs(product - want).max(0) < 1e-6 * size).all()
        np.testing.assert_allclose(values[1], (eps / (var + eps))[0], rtol=1e-6, atol=1e-30)


@settings(STABLE, max_examples=10)
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


@partial(jax.jit, static_argnums=2)
def normalized_with(args, y_bar, eps):
    """y, and the gradients with respect to x, μ, σ², γ and β."""
    y, pull = jax.vjp(lambda *args: normalize(*args, eps=eps), *args)
    return y, pull(y_bar)


def check_given_statistics(of_x, of_var, seed):
    """σ² need not be x's own: both have scales of their own."""
    rng = np.random.default_rng(seed)
    scales = 10.0 ** np.array(of_x)
    x, mean = rng.normal(size=(B, 3)) * scales, rng.normal(size=3) * scales
    var, (gamma, beta) = 10.0 ** np.array(of_var), rng.normal(size=(2, 3))
    args = tuple(np.float32(a) for a in (x, mean, var, gamma, beta))
    y_bar = np.float32(rng.normal(size=(B, 3)))
    for eps in (0.0, 1e-5):
        y, bars = normalized_with(args, y_bar, eps)
        x, mean, var, gamma, beta, t = (np.asarray(a, np.float64) for a in (*args, y_bar))
        r = 1 / np.sqrt(var + eps)
        x_hat = (x - mean) * r
        close("y", y, gamma * x_hat + beta, np.abs(gamma * x_hat).max(0) + np.abs(beta))
        terms = gamma * r * t, -gamma * r * t, -gamma * r * r * x_hat * t / 2, x_hat * t, t
        args_bar = "mean_bar", "var_bar", "gamma_bar", "beta_bar"
        close("x_bar", bars[0], terms[0], np.abs(terms[0]).max(0))
        for name, got, term in zip(args_bar, bars[1:], terms[1:], strict=True):
            close(name, got, term.sum(0), np.abs(term).sum(0))


@settings(STABLE, max_examples=20)
@given(SIXTY_DECADES, SIXTY_DECADES, st.integers(0, 2**16))
def test_given_statistics_over_sixty_decades(of_x, of_var, seed):
    check_given_statistics(of_x, of_var, seed)


@pytest.mark.slow
@settings(STABLE, max_examples=500)
@given(SIXTY_DECADES, SIXTY_DECADES, st.integers(0, 2**16))
def test_many_given_statistics_over_sixty_decades(of_x, of_var, seed):
    check_given_statistics(of_x, of_var, seed)


def linear_network(eps):
    """Two normalized layers, the second of which sees the first's y as it is."""
    how = dict(activation="identity", cost="squared_error", norm_output=True)
    return Network((3, 4, 2), eps=eps, **how)


@partial(quick_jit, static_argnums=0)
def by_hand(net, params, x, targets):
    return (
        backprop.value_and_grad(net, params, x, targets),
        backprop.intermediates(net, params, x, targets),
    )


def by_equations(net, params, x, targets):
    """The cost, and of each layer name -> (float64, the size of what cancels), from NumPy."""
    layers, u, size = [], x, np.abs(x)
    for p in params:
        h, of_h = u @ p.W, size @ np.abs(p.W)
        y, mean, var, _, x_hat, r = reference.batch_norm(h, p.gamma, p.beta, eps=net.eps)
        of_x_hat = (np.abs(h) + of_h).max(0) * r  # the mean cancels
        of_y = np.abs(p.gamma) * of_x_hat + np.abs(p.beta)
        layers.append(
            {
                "u": (u, size),
                "x": (h, of_h),
                "mean": (mean, of_h.max(0)),
                "var": (var, var + of_h.max(0) * np.sqrt(var)),
                "inv_std": (r, r * (1 + of_x_hat)),
                "x_hat": (x_hat, of_x_hat),
                "y": (y, of_y),
            }
        )
        u, size = y, np.broadcast_to(of_y, y.shape)
    miss, of_miss = u - targets, size + np.abs(targets)
    cost = (miss**2).sum(1).mean() / 2, (of_miss**2).sum(1).mean() / 2
    delta, size = miss / len(x), of_miss.max(0) / len(x)  # BL.3
    for p, layer in zip(params[::-1], layers[::-1], strict=True):
        (u, of_u), (h, _), (r, of_r) = (layer[name] for name in ("u", "x", "inv_std"))
        x_hat, of_x_hat = layer["x_hat"]
        x_bar, gamma_bar, beta_bar = reference.pull_back(h, delta, p.gamma, eps=net.eps)
        # x̄ is an array of its own: what float32 cannot hold of it reaches no gradient
        of_x_bar = np.maximum(np.abs(p.gamma) * of_r * size * (1 + of_x_hat) ** 2, LOW)
        layer["delta"], layer["x_bar"] = (delta, size), (x_bar, of_x_bar)
        layer["W"] = u.T @ x_bar, np.abs(of_u).sum(0)[:, None] * of_x_bar  # D.9
        layer["gamma"] = gamma_bar, len(x) * size * of_x_hat
        layer["beta"] = beta_bar, len(x) * size
        delta, size = x_bar @ p.W.T, (of_x_bar @ np.abs(p.W).T)[0]  # D.11
    return cost, layers


def check_network(of_x, of_u, seed):
    """Features of any scales go into the first layer, and numbers of any scale into the second."""
    rng = np.random.default_rng(seed)
    x, targets = rng.normal(size=(B, 3)) * 10.0 ** np.array(of_x), rng.normal(size=(B, 2))
    params = [
        NormDense(rng.normal(size=(n, m)), *(scale * rng.normal(size=(2, m))))
        for n, m, scale in ((3, 4, 10.0**of_u), (4, 2, 1.0))
    ]
    args = jax.tree.map(np.float32, (tuple(params), x, targets))
    wide = jax.tree.map(np.float64, args)
    for eps in (0.0, 1e-5):
        net = linear_network(eps)
        (value, grads), layers = by_hand(net, *args)
        (cost, of_cost), wanted = by_equations(net, *wide)
        close("cost", value, np.array([cost]), of_cost, 2e-6)
        for number, (layer, grad, want) in enumerate(zip(layers, grads, wanted, strict=True)):
            got = layer._asdict() | layer.moments._asdict() | grad._asdict()
            for name, (right, size) in want.items():
                close((number, name), got[name], right, size, 2e-6)


# not both at their ends: γ r would be no float32
ONE_OF_BOTH = st.one_of(
    st.tuples(SIXTY_DECADES, st.just(0.0)), st.tuples(st.just([0.0, 0.0, 0.0]), DECADES)
)


@settings(STABLE, max_examples=20)
@given(ONE_OF_BOTH, st.integers(0, 2**16))
def test_gradients_by_hand_over_sixty_decades(scales, seed):
    check_network(*scales, seed)


@pytest.mark.slow
@settings(STABLE, max_examples=500)
@given(ONE_OF_BOTH, st.integers(0, 2**16))
def test_many_gradients_by_hand_over_sixty_decades(scales, seed):
    check_network(*scales, seed)
