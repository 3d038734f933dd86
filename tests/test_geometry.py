import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import KINDS, MASKS, TARGETS, B, X, chosen, parameters

from bnjax import Network, NormDense, backprop, cost, geometry, identities
from bnjax.activations import ACTIVATIONS
from bnjax.costs import COSTS
from bnjax.geometry import parts as parts_room
from bnjax.identities.quick import quick


def terms(layer, p):
    """The size of the terms that cancel: |u|ᵀ |γ r Δ| for W, Σ |Δ x̂| or Σ |Δ| for the others."""
    u, delta = np.abs(layer.u), np.abs(layer.delta)
    if layer.inv_std is None:
        return u.T @ delta, delta.sum(0)
    through = np.abs(p.gamma * layer.inv_std) * delta
    # with rounding r x̂ is as large as x itself
    return u.T @ through, (delta * np.abs(layer.x_hat)).sum(0), delta.sum(0)


def look(net, params, x, targets, where=None):
    """All that is compared, in one program."""
    found = geometry.observe(net, params, x, targets, where=where)
    layers = backprop.intermediates(net, params, x, targets, where=where)
    passed = tuple(geometry.propagated(angles).length for angles in found)
    return found, tuple(geometry.gradients(angles) for angles in found), passed, layers


def assert_gradients(got, wanted, layers, params, tolerance):
    for own, grads, layer, p in zip(got, wanted, layers, params, strict=True):
        assert type(own) is type(p)
        for a, b, size in zip(own, grads, terms(layer, p), strict=True):
            assert np.max(np.abs(a - b)) <= tolerance * np.max(size), (a, b)


def assert_passed(got, found, layers, tolerance, where=None):
    """G.5: the length of ∂C/∂x, on the scale of |γ r Δ|."""
    w = np.ones(B) if where is None else np.asarray(where, float)
    share = 1 / np.where(w > 0, w, 1)[:, None]
    for own, angles, layer in zip(got, found, layers, strict=True):
        x_bar = layer.delta if layer.x_bar is None else layer.x_bar
        wanted, size = (np.sqrt((share * a**2).sum(0)) for a in (x_bar, layer.delta))
        if angles.scale is not None:
            size = size * np.abs(angles.scale)
        assert np.all(np.abs(own - wanted) <= tolerance * size)


CASES = list(itertools.product(KINDS, MASKS, [0.0, 1e-5, 0.3]))
QUICK = [
    ("baseline", "no mask", 0.3),
    ("norm output", "weights", 0.0),
]


@pytest.mark.parametrize(
    ("kind", "mask", "eps"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_gradients_put_together_from_angles_are_those_of_jax(kind, mask, eps):
    def network(**more):
        return Network((3, 4, 2), **KINDS[kind], eps=eps, **more)

    where = MASKS[mask]

    @quick()
    def both(activation, cost_number, params, state):
        with chosen(activation, cost_number) as options:
            net = network(**options)

            def objective(params):
                return cost(net, params, state, X, TARGETS, rule="autodiff", where=where)[0]

            return look(net, params, X, TARGETS, where), jax.grad(objective)(params)

    params, state = parameters(network())
    for activation, cost_number in itertools.product(range(len(ACTIVATIONS)), range(len(COSTS))):
        seen, wanted = both(activation, cost_number, params, state)
        found, got, passed, layers = seen
        assert_gradients(got, wanted, layers, params, 1e-12)
        assert_passed(passed, found, layers, 1e-12, where)


PLANTED = {
    "nothing": lambda angles: angles,
    "ρ = 1, as the source has it": lambda angles: angles._replace(rho=angles.rho / angles.rho),
    "no cos θ1 cos θ2": lambda angles: angles._replace(cos2=0 * angles.cos2),
    "the unbiased σ(u)": lambda angles: angles._replace(sd_u=angles.sd_u * (B / (B - 1)) ** 0.5),
    "half a per mille": lambda angles: angles._replace(sd_delta=1.0005 * angles.sd_delta),
    "σ for 1/r": lambda angles: angles._replace(scale=angles.scale / angles.rho),
}


def test_a_planted_error_is_refused():
    net = Network((3, 4, 2), activation="tanh", norm_output=True, eps=0.3)
    params, state = parameters(net)

    @quick()
    def both(params):
        found, _, _, layers = look(net, params, X, TARGETS)
        grads = jax.grad(lambda p: cost(net, p, state, X, TARGETS, rule="autodiff")[0])(params)
        planted = {
            name: tuple(geometry.gradients(plant(angles)) for angles in found)
            for name, plant in PLANTED.items()
        }
        return planted, grads, layers

    planted, wanted, layers = both(params)
    for name, got in planted.items():
        if name == "nothing":
            assert_gradients(got, wanted, layers, params, 1e-12)
        else:
            with pytest.raises(AssertionError):
                assert_gradients(got, wanted, layers, params, 1e-5)


# --- one layer ------------------------------------------------------------------------------------


def look_at_one(u, x, delta, gamma, eps=0.3, where=None):
    angles = geometry.layer_angles(u, x, delta, gamma, eps=eps, where=where)
    return angles, geometry.gradients(angles)


measure = quick("eps")(look_at_one)


def layer(batch=9, n_in=3, n_out=2):
    drawn = np.random.default_rng(2)
    shapes = (batch, n_in), (batch, n_out), (batch, n_out), (n_out,)
    return [drawn.normal(size=shape) + drawn.normal(size=shape[-1]) for shape in shapes]


@pytest.mark.parametrize("mask", ["none", "weights"])
def test_the_angles_are_numpy_s_correlations(mask):
    u, x, delta, gamma = layer()
    w = np.ones(9)
    if mask == "weights":
        w = np.random.default_rng(3).integers(0, 4, 9).astype(float)
        assert 0 in w and 3 in w
        hidden = [np.where(w[:, None] > 0, a, np.nan) for a in (u, x)]
        angles, _ = measure(*hidden, w[:, None] * delta, gamma, where=w)
    else:
        angles, _ = measure(u, x, delta, gamma)
    # weights that are whole numbers are repetitions
    a = np.repeat(np.hstack([u, x, delta]), w.astype(int), axis=0)
    corr, sd, mean = np.corrcoef(a, rowvar=False), a.std(0), a.mean(0)
    cos1 = np.diag(corr[3:5, 5:])
    wanted = {
        "count": w.sum(),
        "cos1": cos1,
        "cos2": corr[:3, 3:5],
        "cos3": corr[:3, 5:],
        "sin1": np.sqrt(1 - cos1**2),
        "mean_delta": mean[5:],
        "mean_u": mean[:3],
        "sd_delta": sd[5:],
        "sd_u": sd[:3],
        "sd_x": sd[3:5],
        "rho": sd[3:5] / np.sqrt(sd[3:5] ** 2 + 0.3),
        "eps_share": 0.3 / (sd[3:5] ** 2 + 0.3),
        "scale": gamma / np.sqrt(sd[3:5] ** 2 + 0.3),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(getattr(angles, name), value, rtol=1e-13, err_msg=name)
    assert all(np.all(mask) for mask in angles[10:13])


def test_large_means_cost_no_digit():
    arrays = [np.float32(a) for a in layer()]
    for mean in (0.0, 1e3, 1e6):
        u, x, delta = (np.float32(a + mean) for a in arrays[:3])
        got = measure(u, x, delta, arrays[3])[0]
        a = np.hstack([u, x, delta]).astype(float)
        corr = np.corrcoef(a, rowvar=False)
        assert got.cos2.dtype == np.float32
        np.testing.assert_allclose(got.cos1, np.diag(corr[3:5, 5:]), atol=4e-7)
        np.testing.assert_allclose(got.cos2, corr[:3, 3:5], atol=4e-7)
        np.testing.assert_allclose(got.cos3, corr[:3, 5:], atol=4e-7)
        np.testing.assert_allclose(got.sd_u, a.std(0)[:3], rtol=4e-7)


def test_errors_whose_squares_are_zero_have_a_direction():
    u, x, delta, gamma = (np.float32(a) for a in layer())
    tiny = np.float32(2.0**-100)
    (plain, grads), (small, small_grads) = (measure(u, x, d, gamma) for d in (delta, delta * tiny))
    assert np.float32(tiny**2) == 0
    for name in ("cos1", "cos2", "cos3", "sin1"):
        np.testing.assert_array_equal(getattr(small, name), getattr(plain, name))
    for a, b in zip(small_grads, grads, strict=True):
        np.testing.assert_allclose(a, b * tiny, rtol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_vectors_without_direction_give_zero_and_the_masks_say_so(eps):
    u, x, delta, gamma = layer()
    u[:, 1], x[:, 0], delta[:, 1] = 1e6 / 3, 0.1, 0.7
    angles, grads = measure(u, x, delta, gamma, eps)
    assert all(np.all(np.isfinite(a)) for a in (*angles, *grads))
    assert angles.u_varies.tolist() == [True, False, True]
    assert angles.x_varies.tolist() == [False, True] and angles.delta_varies.tolist() == [
        True,
        False,
    ]
    assert not np.any(angles.cos1) and not np.any(angles.cos2[1]) and not np.any(angles.cos3[1])
    assert not np.any(angles.cos2[:, 0]) and not np.any(angles.cos3[:, 1])
    assert np.all(angles.cos2[[0, 2], 1] != 0) and np.all(angles.cos3[[0, 2], 0] != 0)
    assert angles.sin1.tolist() == [1, 0]  # all of Δ̂ is beside an x̂ that does not exist
    # K has nothing to remove along x̂, and only a constant Δ is removed whole
    assert np.all(grads.W[:, 1] == 0) and np.any(grads.W[:, 0]) == (eps > 0)


def test_half_precision_is_measured_in_float32():
    u, x, delta, gamma = (jnp.asarray(a, "bfloat16") for a in layer())
    angles, grads = jax.eval_shape(look_at_one, u, x, delta, gamma)
    masks = angles.delta_varies, angles.u_varies, angles.x_varies
    assert {a.dtype.name for a in masks} == {"bool"}
    others = [a for a in (*angles, *grads) if a not in masks]
    assert len(others) == 16 and {a.dtype.name for a in others} == {"float32"}


def test_many_layers_at_once():
    arrays = [np.stack([a, 2 * a + 1]) for a in layer()]
    both = quick()(jax.vmap(lambda *args: look_at_one(*args)[0]))(*arrays)
    second = measure(*(a[1] for a in arrays))[0]
    for a, b in zip(both, second, strict=True):
        np.testing.assert_allclose(a[1], b, rtol=1e-13, atol=1e-15)


# --- readings -------------------------------------------------------------------------------------

SAMPLES = 40
NET = Network((6, 5, 3), activation="sigmoid", cost="squared_error", norm_output=True, eps=1e-5)


@quick()
def readings(params, x, targets):
    found = geometry.observe(NET, params, x, targets)
    layers = backprop.intermediates(NET, params, x, targets)
    return [
        {
            "handed to γ": geometry.handed_to_gamma(angles),
            "stopped": geometry.stopped(angles),
            "synced": geometry.synced(angles),
            "dead": geometry.dead(angles),
            "reasons": geometry.reasons(angles),
            "saturated": geometry.saturation(layer.y, NET.activation),
            "removed": geometry.removed(angles),
            "norms": geometry.weight_norms(p.W, geometry.gradients(angles).W),
            "gradients": geometry.gradients(angles),
            "eps share": angles.eps_share,
            "layer": layer,
        }
        for angles, layer, p in zip(found, layers, params, strict=True)
    ]


def healthy():
    drawn = np.random.default_rng(4)
    shapes = [((6, 5), (5,), (5,)), ((5, 3), (3,), (3,))]
    params = [NormDense(*(drawn.normal(size=s) for s in three)) for three in shapes]
    return params, drawn.normal(size=(SAMPLES, 6)), drawn.normal(size=(SAMPLES, 3))


def reported(found):
    """What is said of each layer, as sets of indices."""
    return [
        {
            "handed to γ": set(np.flatnonzero(one["handed to γ"])),
            "stopped": set(zip(*np.nonzero(one["stopped"]), strict=True)),
            "synced": {i: int(n) for i, n in enumerate(one["synced"].size) if n},
            "dead": set(np.flatnonzero(one["dead"])),
            "saturated": set(np.flatnonzero(one["saturated"] > 0.5)),
        }
        for one in found
    ]


NOTHING = {"handed to γ": set(), "stopped": set(), "synced": {}, "dead": set(), "saturated": set()}


def test_nothing_is_reported_of_a_healthy_network():
    found = readings(*healthy())
    assert reported(found) == [NOTHING, NOTHING]
    assert all(np.all(one["reasons"] == 0) for one in found)


def test_an_error_along_x_hat_is_found_and_gamma_learns():
    params, x, targets = healthy()
    x_hat = readings(params, x, targets)[1]["layer"].x_hat
    targets[:, 2] = 3 - 2 * x_hat[:, 2]  # Δ = (γ x̂ + β − φ)/B
    found = readings(params, x, targets)
    assert reported(found) == [NOTHING, {**NOTHING, "handed to γ": {2}}]
    W_bar, gamma_bar, _ = found[1]["gradients"]
    at = found[1]["layer"]
    size = np.abs(at.u).T @ np.abs(params[1].gamma * at.inv_std * at.delta)
    # what is left is ε's
    assert np.max(np.abs(W_bar[:, 2])) < 1e-4 * np.max(size[:, 2])
    np.testing.assert_allclose(abs(gamma_bar[2]), SAMPLES * at.delta[:, 2].std(), rtol=1e-4)
    reasons = [geometry.REASONS[number] for number in found[1]["reasons"][:, 2]]
    assert reasons == ["the error is aligned with x̂: γ learns instead"] * 5


def test_synced_inputs_are_found_with_their_signs():
    params, x, targets = healthy()
    x[:, 4] = 1 - 3 * x[:, 1]
    params[0].W[:, 2] = 0
    params[0].W[[1, 4], 2] = 0.5, 0.7
    found = readings(params, x, targets)
    stopped = {(1, 2), (4, 2)}
    assert reported(found) == [{**NOTHING, "stopped": stopped, "synced": {2: 2}}, NOTHING]
    sign = np.zeros((6, 5))
    sign[[1, 4], 2] = -1, 1  # x = 0.5 u_1 + 0.7 (1 − 3 u_1)
    np.testing.assert_array_equal(found[0]["synced"].sign, sign)
    size = np.abs(found[0]["gradients"].W).max()
    assert np.all(np.abs(found[0]["gradients"].W[[1, 4], 2]) < 1e-4 * size)
    assert {geometry.REASONS[n] for n in found[0]["reasons"][[1, 4], 2]} == {
        "the input is aligned with x̂"
    }


def test_a_dead_neuron_is_found_below_and_above():
    params, x, targets = healthy()
    params[0].beta[3] = 800  # g' is zero in float64, too
    found = readings(params, x, targets)
    assert reported(found) == [{**NOTHING, "dead": {3}, "saturated": {3}}, NOTHING]
    assert all(not np.any(bar[..., 3]) for bar in found[0]["gradients"])
    assert {geometry.REASONS[n] for n in found[1]["reasons"][3]} == {
        "the input is the same for all samples"
    }


def test_a_saturated_neuron_is_found_that_still_learns():
    params, x, targets = healthy()
    params[0].gamma[1] = 50
    found = readings(params, x, targets)
    assert reported(found) == [{**NOTHING, "saturated": {1}}, NOTHING]
    y = 50 * found[0]["layer"].x_hat[:, 1] + params[0].beta[1]
    share = np.mean(0.25 / np.cosh(y / 2) ** 2 < 0.01)
    np.testing.assert_allclose(found[0]["saturated"][1], share, rtol=1e-12)
    assert 0.5 < share < 1 and np.any(found[0]["gradients"].W[:, 1])


def test_a_neuron_without_scale_is_told_apart():
    params, x, targets = healthy()
    params[1].gamma[0] = 0
    found = readings(params, x, targets)
    assert {geometry.REASONS[number] for number in found[1]["reasons"][:, 0]} == {"γ r is zero"}
    assert not np.any(found[1]["gradients"].W[:, 0]) and np.any(found[1]["gradients"].gamma)


def test_thresholds_are_arguments():
    u, x, delta, gamma = layer()
    delta = x + 0.3 * delta  # some ten to twenty degrees away
    angles, _ = measure(u, x, delta, gamma, eps=0.0)
    sine = np.sqrt(1 - np.asarray(angles.cos1) ** 2)
    for below in (0.99 * sine.min(), 1.01 * sine.min(), 1.01 * sine.max()):
        np.testing.assert_array_equal(geometry.handed_to_gamma(angles, below=below), sine < below)


def test_the_weights_overlap_with_their_gradient_is_that_of_bn5():
    params, x, targets = healthy()
    for one, p in zip(readings(params, x, targets), params, strict=True):
        W, W_bar, cosine = one["norms"]
        bars = one["gradients"]
        np.testing.assert_allclose(W, np.linalg.norm(p.W, axis=0), rtol=1e-14)
        np.testing.assert_allclose(W_bar, np.linalg.norm(bars.W, axis=0), rtol=1e-14)
        overlap = p.gamma * bars.gamma * one["eps share"]
        np.testing.assert_allclose(W * W_bar * cosine, overlap, atol=1e-12 * np.max(W * W_bar))
        assert np.max(np.abs(overlap)) > 1e-9
    np.testing.assert_allclose(
        geometry.effective_rate(p.W, 0.5), 0.5 / np.linalg.norm(p.W, axis=0) ** 2, rtol=1e-14
    )
    assert np.isinf(geometry.effective_rate(jnp.zeros((2, 1)))[0])


def test_what_normalization_removes_is_the_difference_to_frozen_statistics():
    params, x, targets = healthy()
    x = x + 1.5

    @quick()
    def frozen(params):
        return backprop.value_and_grad(NET, params, x, targets, statistics="frozen")[1][1].W

    # the last layer, whose Δ is the same
    one = readings(params, x, targets)[1]
    W_bar, held, layer = one["gradients"].W, frozen(params), one["layer"]
    size = np.linalg.norm(held, axis=0)
    np.testing.assert_allclose(
        one["removed"].share, np.linalg.norm(W_bar - held, axis=0) / size, rtol=1e-10
    )
    scale = SAMPLES * params[1].gamma * layer.inv_std
    by_mean = np.outer(layer.u.mean(0), layer.delta.mean(0)) * scale
    by_x_hat = layer.u.T @ layer.x_hat / SAMPLES * (layer.delta * layer.x_hat).mean(0) * scale
    for got, part in zip(one["removed"][1:], (by_mean, by_x_hat), strict=True):
        np.testing.assert_allclose(got, np.linalg.norm(part, axis=0) / size, rtol=1e-10)


def test_rank_and_spread_count_directions():
    drawn = np.random.default_rng(5)
    base = drawn.normal(size=(50, 3))
    u = np.hstack([base, base @ drawn.normal(size=(3, 4)) + 5, np.full((50, 2), 7.0)])
    both = quick()(lambda u: (geometry.rank(u), geometry.spread(u)))
    rank, (directions, correlation, varying) = both(u)
    assert rank == 3 == np.linalg.matrix_rank(u - u.mean(0), tol=1e-8)
    corr = np.corrcoef(u[:, :7], rowvar=False)
    np.testing.assert_allclose(directions, 49 / (corr**2).sum(), rtol=1e-12)
    np.testing.assert_allclose(correlation, (np.abs(corr).sum() - 7) / 42, rtol=1e-12)
    assert varying == 7
    rank, (directions, _, varying) = both(np.ones_like(u))
    assert rank == 0 and directions == 0 and varying == 0


# --- the summary ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pytest.param("baseline", marks=pytest.mark.slow), "norm"])
def test_the_summary_is_that_of_the_angles(kind):
    net = Network((6, 5, 4, 3), **KINDS[kind])
    params, _ = parameters(net)
    drawn = np.random.default_rng(6)
    x, targets = drawn.normal(size=(SAMPLES, 6)), drawn.random((SAMPLES, 3))

    @quick()
    def both(params):
        found, got, passed, layers = look(net, params, x, targets)
        normalized = [angles for angles in found if angles.rho is not None]
        readings = {
            "handed_to_gamma": [jnp.mean(geometry.handed_to_gamma(a)) for a in normalized],
            "stopped": [jnp.mean(geometry.stopped(a)) for a in normalized],
            "synced": [jnp.mean(geometry.synced(a).size > 0) for a in normalized],
            "largest_group": [jnp.max(geometry.synced(a).size) for a in normalized],
            "removed": [jnp.mean(geometry.removed(a).share) for a in normalized],
            "eps_share": [jnp.mean(a.eps_share) for a in normalized],
            "saturated": [jnp.mean(geometry.saturation(a.y, "sigmoid")) for a in layers[:-1]],
            "directions": [geometry.spread(a.u).directions for a in layers[1:]],
            "correlation": [geometry.spread(a.u).correlation for a in layers[1:]],
        }
        return found, got, passed, layers, readings, geometry.summarize(net, params, x, targets)

    found, got, passed, layers, readings, summary = both(params)

    def rms(a):
        return np.sqrt(np.mean(np.square(a)))

    def check(name, values):
        np.testing.assert_allclose(
            getattr(summary, name), values, rtol=1e-10, atol=1e-14, err_msg=name
        )

    edges = np.linspace(-1, 1, geometry.COSINE_BINS + 1)
    for name in ("cos1", "cos2", "cos3"):
        shares = [np.histogram(getattr(a, name), edges)[0] / getattr(a, name).size for a in found]
        check(name, shares)
    weights = [np.asarray(p.W) for p in params]
    check("dead", np.zeros(3))
    check("error", [np.linalg.norm(one.delta) for one in layers])
    check("propagated", [np.linalg.norm(one) for one in passed])
    check("W", [rms(np.linalg.norm(W, axis=0)) for W in weights])
    check("turning", [np.mean(1 / np.sum(W**2, 0)) for W in weights])
    check("W_bar", [rms(one.W) for one in got])
    cosines = [
        np.abs((W * one.W).sum(0)) / np.linalg.norm(W, axis=0) / np.linalg.norm(one.W, axis=0)
        for W, one in zip(weights, got, strict=True)
    ]
    check("cosine", [np.mean(c) for c in cosines])
    means = [SAMPLES * np.outer(one.u.mean(0), one.delta.mean(0)) for one in layers]
    means = [0 * m if norm else m for m, norm in zip(means, net.normalized, strict=True)]
    check("means", [rms(m) for m in means])
    check("covariance", [rms(one.W - m) for one, m in zip(got, means, strict=True)])
    check("gamma_bar", [rms(one.gamma) for one in got if isinstance(one, NormDense)])
    for name, values in readings.items():
        check(name, values)
    check("constant", np.zeros(2))
    ys = [one.y for one in layers[:-1]]
    for y, levels in zip(ys, summary.percentiles, strict=True):
        wanted = np.percentile(y, geometry.PERCENTILES, method="inverted_cdf")
        np.testing.assert_allclose(levels, wanted, atol=np.ptp(y) / 1000)


@pytest.mark.slow
def test_the_summary_of_errors_whose_squares_are_zero_is_that_of_float64():
    net = Network((6, 5, 3))
    params, _ = parameters(net)
    params = (params[0], params[1]._replace(b=jnp.full(3, 55.0)))  # 1 − u = 1e-24
    x = np.random.default_rng(7).normal(size=(SAMPLES, 6))
    summarize = quick("net")(geometry.summarize)
    wide = summarize(net, params, x, np.ones((SAMPLES, 3)))
    narrow = jax.tree.map(lambda a: jnp.asarray(a, "float32"), (params, x, np.ones((SAMPLES, 3))))
    assert 0 < np.max(wide.error) < 1e-20
    for name in ("error", "propagated", "W_bar", "covariance", "means", "gamma_bar", "removed"):
        got, wanted = getattr(summarize(net, *narrow), name), getattr(wide, name)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, err_msg=name)


def test_what_no_layer_has_is_empty():
    net = Network((4, 2), norm=False)
    args = *parameters(net)[:1], jnp.zeros((8, 4)), jnp.zeros((8, 2))
    found = jax.eval_shape(partial(geometry.summarize, net), *args)
    assert found.cos1.shape == (1, 40) and found.stopped.shape == found.saturated.shape == (0,)
    assert found.percentiles.shape == (0, 5)


# --- refusals -------------------------------------------------------------------------------------


def test_arguments_that_do_not_fit_are_refused():
    u, x, delta, gamma = layer()
    refused = [
        ((u, x[:5], delta, gamma), {}, ValueError, r"got `x` with shape \(5, 2\)"),
        ((u[0], x, delta, gamma), {}, ValueError, "two axes, the same samples first"),
        ((u, x, delta[:, :1], gamma), {}, ValueError, r"`delta` must have the shape of `x`"),
        ((u, x, delta, gamma[:1]), {}, ValueError, r"`gamma` must have shape \(2,\)"),
        ((u[:1], x[:1], delta[:1]), {}, ValueError, "at least two samples; got 1"),
        ((u, x, delta), {"eps": -1.0}, ValueError, "`eps` must be a static, finite Python number"),
        ((u, x, delta), {"where": np.ones((9, 1))}, ValueError, r"`where` must have shape \(9,\)"),
        ((u.astype(int), x, delta), {}, TypeError, "`u` must be floating"),
    ]
    for args, more, error, message in refused:
        with pytest.raises(error, match=f"geometry.layer_angles: .*{message}"):
            geometry.layer_angles(*args, **more)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["observe", "summarize"])
def test_errors_name_the_function_that_was_called(name, kind):
    net, other = (
        Network((3, 4, 2), **KINDS[key])
        for key in (kind, "norm" if kind == "baseline" else "baseline")
    )
    (params, _), (others, _) = parameters(net), parameters(other)
    refused = [
        ((params, X[:, :2], TARGETS), ValueError, r"`x` must have shape \(B, 3\)"),
        ((params, X, TARGETS[:, :1]), ValueError, r"`targets` must have shape \(7, 2\)"),
        ((others, X, TARGETS), ValueError, "`params` must be what `init` gives"),
        ((params, X[:1], TARGETS[:1]), ValueError, "`x` must hold at least two samples; got 1"),
        ((params, X.astype(int), TARGETS), TypeError, "`x` must be floating"),
    ]
    for args, error, message in refused:
        with pytest.raises(error, match=f"geometry.{name}: {message}"):
            getattr(geometry, name)(net, *args)


def test_observing_refuses_weights_that_do_not_fit_and_integer_scales():
    net = Network((3, 4, 2))
    params, _ = parameters(net)
    with pytest.raises(ValueError, match=r"geometry.observe: `where` must have shape \(7,\)"):
        geometry.observe(net, params, X, TARGETS, where=jnp.ones((7, 1)))
    params = (params[0]._replace(gamma=jnp.ones(4, int)), params[1])
    with pytest.raises(TypeError, match=r"geometry.observe: `params\[0\].gamma` must be floating"):
        geometry.observe(net, params, X, TARGETS)


@pytest.mark.parametrize("name", ["handed_to_gamma", "stopped", "synced", "removed"])
def test_readings_of_normalization_refuse_a_layer_without(name):
    angles = jax.eval_shape(partial(geometry.layer_angles, norm=False), *layer()[:3])
    with pytest.raises(
        ValueError, match=f"geometry.{name}: .* must be those of a normalized layer"
    ):
        getattr(geometry, name)(angles)


def test_without_normalization_an_input_stops_a_weight_only_if_it_is_zero():
    u, x, delta, _ = layer()
    u[:, 0], u[:, 1], delta[:, 1] = 0, 3, 0
    angles = geometry.layer_angles(u, x, delta, norm=False)
    W_bar = np.asarray(geometry.gradients(angles).W)
    np.testing.assert_array_equal(geometry.reasons(angles), [[2, 1], [0, 1], [0, 1]])
    np.testing.assert_array_equal(W_bar == 0, [[True, True], [False, True], [False, True]])


def test_an_identity_sees_a_planted_error(monkeypatch):
    right = parts_room.weight_parts

    def without_rho(angles):
        return right(angles._replace(rho=jnp.ones_like(angles.cos1)))

    monkeypatch.setattr(parts_room, "weight_parts", without_rho)
    one = {one.tag: one for one in identities.all()}["G.2"]
    # a shape that no other test has: what is compiled holds what it was traced with
    case = {"dtype": "float64", "eps": 0.37, "batch": 6, "width": 5, "key": jax.random.key(0)}
    assert identities.check(one, **case).error > 1e-3
