import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnjax import Network, apply, bn_apply, fold, fold_affine, init, normalize

BOUNDS = {np.float32: 1e-6, np.float64: 1e-13}
DTYPES = pytest.mark.parametrize("dtype", BOUNDS)
NET = Network((6, 5), norm_output=True, eps=1e-3)
DEEP = Network((6, 5, 4, 3), norm_output=True, activation="tanh")


def trained(rng, net, dtype, offset=0.0):
    """Parameters and statistics as they could be, and inputs."""
    params, state = [], []
    for n_in, n in zip(net.sizes[:-1], net.sizes[1:], strict=True):
        # on a grid, so that u W is exact and all that is lost is lost after it
        W = np.round(8 * rng.normal(size=(n_in, n))) / 8
        W[0] += offset
        gamma, beta = rng.uniform(-2, 2, n), rng.normal(size=n)
        params.append((W, gamma, beta))
        mean = offset + rng.normal(size=n)
        state.append((mean, rng.uniform(0.1, 3, n), mean * rng.uniform(-1, 1, n) * 1e-9))
    drawn, seen = init(net, jax.random.key(0))
    params = tuple(
        type(d)(*(jnp.asarray(a, dtype) for a in p)) for d, p in zip(drawn, params, strict=True)
    )
    state = tuple(
        s._replace(
            mean=jnp.asarray(mean, dtype),
            var=jnp.asarray(var, dtype),
            remainder=jnp.asarray(remainder, dtype),
            batches=s.batches + 1,
        )
        for s, (mean, var, remainder) in zip(seen, state, strict=True)
    )
    u = np.round(4 * rng.normal(size=(20, net.sizes[0]))) / 4
    u[:, 0] = 1
    return params, state, jnp.asarray(u, dtype)


def exact(layer, state, eps):
    """W', b' and the size of the terms of b', as wide as this machine computes."""
    W, gamma, beta = (np.asarray(a, np.longdouble) for a in layer)
    mean, var, remainder = (
        np.asarray(a, np.longdouble) for a in (state.mean, state.var, state.remainder)
    )
    slope = gamma / np.sqrt(var + np.longdouble(eps))
    shift = slope * (mean + remainder)
    return W * slope, beta - shift, np.abs(beta) + np.abs(shift)


evaluated = jax.jit(lambda net, *args: bn_apply(net, *args, train=False)[0], static_argnums=0)
applied = jax.jit(apply, static_argnums=0)
folded = jax.jit(lambda params, state: fold(NET, params, state)[1])


@DTYPES
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_folded_layer_is_the_normalized_one_to_the_rounding_of_its_terms(dtype, offset, rng):
    params, state, u = trained(rng, NET, dtype, offset)
    W, b, terms = exact(params[0], state[0], NET.eps)
    wanted = np.asarray(u, np.longdouble) @ W + b
    y = evaluated(NET, params, state, u)
    baseline, at_once = fold(NET, params, state)
    # on the host; traced, in the arrays' own dtype
    for one in (at_once, folded(params, state)):
        terms = np.abs(u) @ np.abs(one[0].W) + np.abs(one[0].b)
        found = applied(baseline, one, u)
        assert np.max(np.abs(found - y) / terms) < BOUNDS[dtype]
    # beside y, the normalized layer loses nothing, the folded one what the docstring says
    lost = [np.abs(np.asarray(o) - wanted).max() / np.abs(wanted).max() for o in (y, found)]
    assert lost[0] < 4 * np.finfo(dtype).eps
    assert lost[1] < 4 * np.finfo(dtype).eps * (1 + offset)
    assert offset == 0 or lost[1] > 100 * lost[0]


@DTYPES
def test_folded_parameters_are_rounded_once(dtype, rng):
    params, state, _ = trained(rng, DEEP, dtype, 10.0)
    _, layers = fold(DEEP, params, state)
    # float64 itself is all there is for float64: a few roundings of its own
    ulps = 0.51 if dtype == np.float32 else 4
    for layer, before, seen in zip(layers, params, state, strict=True):
        W, b, terms = exact(before, seen, DEEP.eps)
        assert layer.W.dtype == layer.b.dtype == dtype
        assert np.all(
            np.abs(np.asarray(layer.W, np.longdouble) - W) <= ulps * np.spacing(np.abs(layer.W))
        )
        rounding = np.maximum(np.spacing(np.abs(layer.b)), np.finfo(np.float64).eps * terms)
        assert np.all(np.abs(np.asarray(layer.b, np.longdouble) - b) <= ulps * rounding)


@pytest.mark.parametrize("norm_output", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_folded_network_is_a_baseline_network_with_the_same_outputs(norm_output, key, rng):
    net = dataclasses.replace(DEEP, norm_output=norm_output)
    params, state = init(net, key)
    x = rng.normal(size=(20, 6)) + 2
    _, state = jax.jit(lambda: bn_apply(net, params, state, x, train=True))()
    baseline, layers = fold(net, params, state)
    assert baseline == dataclasses.replace(net, norm=False, norm_output=False)
    assert [type(layer).__name__ for layer in layers] == ["Dense"] * 3
    y = evaluated(net, params, state, x)
    np.testing.assert_allclose(applied(baseline, layers, x), y, rtol=1e-12, atol=1e-13)


def test_folding_is_traced_once_and_maps_and_scans(rng):
    chex.clear_trace_counter()
    many = [trained(rng, NET, np.float64)[:2] for _ in range(3)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *many)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def every_way(stacked):
        _, scanned = jax.lax.scan(lambda _, one: (None, fold(NET, *one)[1]), None, stacked)
        return scanned, jax.vmap(lambda one: fold(NET, *one)[1])(stacked)

    for _ in range(2):
        for found in every_way(stacked):
            for k, one in enumerate(many):
                for a, b in zip(
                    jax.tree.leaves(found), jax.tree.leaves(fold(NET, *one)[1]), strict=True
                ):
                    np.testing.assert_allclose(a[k], b, rtol=1e-13, atol=1e-14)


def kernel(rng, n_in, n, *, first):
    """A convolution's kernel with its output features first (OIHW) or last (HWIO)."""
    W = rng.normal(size=(n, n_in, 3, 3)) if first else rng.normal(size=(3, 3, n_in, n))
    return W.astype(np.float32), ("NCHW", "OIHW", "NCHW") if first else ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("first", [False, True], ids=["HWIO", "OIHW"])
def test_a_convolution_folds_along_its_output_features(first, rng):
    n_in, n = 2, 4
    W, numbers = kernel(rng, n_in, n, first=first)
    b, gamma, beta, mean = rng.normal(size=(4, n)).astype(np.float32)
    var = rng.uniform(0.5, 2, n).astype(np.float32)
    x = rng.normal(size=(3, n_in, 5, 5) if first else (3, 5, 5, n_in)).astype(np.float32)
    axis = 1 if first else -1
    along = (1, n, 1, 1) if first else (1, 1, 1, n)

    def convolve(W, b):
        y = jax.lax.conv_general_dilated(x, W, (1, 1), "SAME", dimension_numbers=numbers)
        return y + b.reshape(along)

    W_folded, b_folded = fold_affine(W, b, gamma, beta, mean, var, 1e-3, axis=0 if first else -1)
    assert W_folded.shape == W.shape and W_folded.dtype == b_folded.dtype == np.float32
    wanted = normalize(convolve(W, b), mean, var, gamma, beta, axis=axis, eps=1e-3)
    np.testing.assert_allclose(convolve(W_folded, b_folded), wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("without", ["b", "gamma", "beta"])
def test_what_is_left_out_is_zero_or_one(without, rng):
    W, mean, var = rng.normal(size=(3, 2)), rng.normal(size=2), rng.uniform(1, 2, 2)
    given = {"b": rng.normal(size=2), "gamma": rng.normal(size=2), "beta": rng.normal(size=2)}
    neutral = {**given, without: np.ones(2) if without == "gamma" else np.zeros(2)}
    left_out = {**given, without: None}
    a, b = (fold_affine(W, *some.values(), mean, var, 0.1, axis=1) for some in (left_out, neutral))
    chex.assert_trees_all_equal(a, b)


def test_a_constant_channel_at_eps_zero_gives_beta():
    W, b = fold_affine(
        np.ones((2, 1)), None, np.ones(1), np.full(1, 7.0), np.ones(1), np.zeros(1), 0.0, axis=-1
    )
    assert W.tolist() == [[0], [0]] and b.tolist() == [7]


def test_half_precision_weights_keep_a_bias_of_the_statistics_precision():
    W, beta, mean, var = jnp.ones((2, 1), jnp.bfloat16), *np.float32([[0.5], [1000.25], [1.0]])
    W, b = fold_affine(W, None, None, beta, mean, var, 0.0, axis=-1)
    assert W.dtype == jnp.bfloat16 and b.dtype == np.float32 and b.tolist() == [-999.75]


def test_float64_arrays_fold_exactly_without_x64():
    mean = np.array([1e4 + 1e-5])
    with jax.enable_x64(False):
        _, b = fold_affine(
            np.ones((1, 1)), mean, None, None, np.array([1e4]), np.ones(1), 0.0, axis=0
        )
        assert b.dtype == np.float32
        np.testing.assert_allclose(b, [1e-5], rtol=1e-6)


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_pytorch_folds_to_the_same_parameters(kind):
    torch = pytest.importorskip("torch")
    fusion = pytest.importorskip("torch.nn.utils.fusion")
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 4) if kind == "linear" else torch.nn.Conv2d(3, 4, 3)
    norm = torch.nn.BatchNorm1d(4) if kind == "linear" else torch.nn.BatchNorm2d(4)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(4) + 0.5)
    layer, norm = layer.double().eval(), norm.double().eval()
    fuse = fusion.fuse_linear_bn_eval if kind == "linear" else fusion.fuse_conv_bn_eval
    theirs = fuse(layer, norm)
    arrays = (layer.weight, layer.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    ours = fold_affine(*(a.detach().numpy() for a in arrays), norm.eps, axis=0)
    np.testing.assert_allclose(ours[0], theirs.weight.detach().numpy(), rtol=1e-14)
    np.testing.assert_allclose(ours[1], theirs.bias.detach().numpy(), rtol=1e-14, atol=1e-15)


def test_what_cannot_be_folded_is_refused(key):
    params, state = init(NET, key)
    baseline = dataclasses.replace(NET, norm=False, norm_output=False)
    with pytest.raises(
        ValueError, match="fold: `net` must be a normalized network.*got norm=False"
    ):
        fold(baseline, params, state)
    with pytest.raises(ValueError, match="fold: `params` must be what `init` gives"):
        fold(NET, init(baseline, key)[0], state)
    with pytest.raises(ValueError, match="one PopulationState per normalization: 1 in all; got 0"):
        fold(NET, params, ())
    with pytest.raises(
        ValueError, match="fold: `state` must hold statistics of at least one batch"
    ):
        fold(NET, params, state)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"axis": 2}, ValueError, "`axis` must name the axis of `W`.*-2 to 1.*got 2"),
        ({"axis": 0}, ValueError, r"`b` must have shape \(3,\) to match axis 0.*got \(2,\)"),
        ({"var": np.ones(3)}, ValueError, r"`var` must have shape \(2,\).*got \(3,\)"),
        ({"mean": np.ones(2, int)}, TypeError, "`mean` must be floating"),
        ({"eps": -1.0}, ValueError, "`eps` must be a static, finite Python number"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, kind, message):
    names = ("b", "gamma", "beta", "mean", "var")
    args = {"W": np.ones((3, 2)), **{name: np.ones(2) for name in names}, "eps": 0.1, "axis": -1}
    with pytest.raises(kind, match=f"fold_affine: {message}"):
        fold_affine(**{**args, **change})
