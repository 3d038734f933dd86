"""`geometry.observe_function`: the layers of any function, found in its program."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import quick_jit
from examples_of import example
from jax import lax

from bnjax import batch_norm, geometry, renorm


def observe(loss, *args, **options):
    """The layers of a function, in a program that is compiled quickly."""
    return quick_jit(partial(geometry.observe_function, loss, **options))(*args)


def gradient(loss, *args):
    return quick_jit(jax.grad(loss))(*args)


def gradient_of(name, grads):
    """The gradient in the parameter that a layer's name says."""
    return jnp.asarray(eval(name, {"params": grads}))


def assert_gradients(observed, grads, tolerance, neuron_axes=None):
    """Amplitudes times brackets (G.2, G.3) are the gradients in the weights."""
    for layer in observed.layers:
        wanted = gradient_of(layer.name, grads)
        wanted = jnp.moveaxis(wanted, (neuron_axes or {}).get(layer.name, -1), -1)
        wanted = wanted.reshape(-1, wanted.shape[-1])
        parts = geometry.weight_parts(layer.angles)
        found = parts.amplitude * parts.bracket + (0 if parts.means is None else parts.means)
        assert layer.unfollowed == "" and layer.W.shape == found.shape == wanted.shape
        assert np.max(np.abs(found - wanted)) <= tolerance * np.max(np.abs(wanted)), layer.name


# kernel's shape, options, layout; in groups each neuron has inputs of its own
CONVOLUTIONS = {
    "grouped": (
        (3, 2, 1, 6),
        dict(window_strides=(1, 1), padding="SAME", feature_group_count=3),
        ("NCHW", "HWIO", "NHWC"),
    ),
    "strided and padded": (
        (6, 3, 2, 3),
        dict(window_strides=(2, 1), padding=((1, 2), (0, 1)), rhs_dilation=(1, 2)),
        ("NCHW", "OIHW", "NCHW"),
    ),
    "transposed": (
        (2, 2, 3, 4),
        dict(window_strides=(1, 1), padding=((1, 1), (1, 1)), lhs_dilation=(2, 2)),
        ("NCHW", "HWIO", "HWNC"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_has_the_angles_of_its_patches(rng, kind):
    shape, options, layout = CONVOLUTIONS[kind]
    convolve = partial(lax.conv_general_dilated, dimension_numbers=layout, **options)
    channel, neuron = layout[2].index("C"), layout[1].index("O")
    x = rng.normal(size=(4, 3, 5, 4)) + 3  # a mean that the padding does not have
    params = {"kernel": rng.normal(size=shape), "gamma": rng.normal(size=shape[neuron])}
    out = jax.eval_shape(convolve, x, params["kernel"])
    error = rng.normal(size=out.shape)

    def loss(params, x, error):
        x = convolve(x, params["kernel"]) + 7
        return (batch_norm(x, params["gamma"], axis=channel, eps=0.1)[0] * error).sum()

    observed = observe(loss, params, x, error)
    (layer,) = observed.layers
    assert layer.name == "params['kernel']" and observed.skipped == ()
    grads = gradient(loss, params, x, error)
    assert_gradients(observed, grads, 1e-12, {layer.name: neuron})
    # what entry j of neuron i meets is the derivative of its output: the patches
    patches = jax.jacfwd(partial(convolve, x))(params["kernel"])
    patches = jnp.moveaxis(patches, out.ndim + neuron, -1)
    patches = jnp.moveaxis(patches, channel, -1 - (out.ndim - 1) - 1)
    for i in range(shape[neuron]):
        u = jnp.take(patches, i, axis=out.ndim - 1)[..., i]
        u = u.reshape(-1, layer.W.shape[0])
        rows = (
            jnp.take(a, i, axis=channel).reshape(-1, 1)
            for a in (convolve(x, params["kernel"]), error)
        )
        wanted = geometry.layer_angles(u, *rows, params["gamma"][i : i + 1], eps=0.1)
        for name in ("cos2", "cos3"):
            found = getattr(layer.angles, name)[:, i]
            np.testing.assert_allclose(found, getattr(wanted, name)[:, 0], atol=1e-12)
        for name in ("mean_u", "sd_u", "u_varies"):
            found = getattr(layer.angles, name)
            found = found if found.ndim == 1 else found[:, i]
            np.testing.assert_allclose(found, getattr(wanted, name), rtol=1e-11, atol=1e-12)
        for name in ("cos1", "sin1", "sd_x", "sd_delta", "rho", "scale"):
            found = getattr(layer.angles, name)[i]
            np.testing.assert_allclose(found, getattr(wanted, name)[0], rtol=1e-11, atol=1e-12)


def stacked_loss(params, x, targets):
    """Layers in a scan, rematerialized; rules, casts and jitted parts around them."""

    def body(h, p):
        def layer(h):
            return jnp.tanh(batch_norm(h @ p["W"] + p["b"][None], p["gamma"], rule="jvp")[0])

        return jax.checkpoint(layer)(h), None

    h = batch_norm(jnp.einsum("sj,ij->is", x, params["first"]), axis=0)[0].T
    h, _ = lax.scan(body, h, params["layers"])
    h = jax.jit(
        lambda h, W: batch_norm((h @ W).reshape(2, -1, 2, 1), axis=(2, 3), rule="autodiff")
    )(h, params["last"])[0]
    return ((h.reshape(-1, 2) @ params["head"] - targets) ** 2).mean()


def test_layers_are_found_in_jit_scan_and_remat(rng):
    shapes = {"first": (5, 4), "last": (5, 2), "head": (2, 3)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    params["layers"] = {"W": rng.normal(size=(2, 5, 5)), "b": rng.normal(size=(2, 5))}
    params["layers"]["gamma"] = rng.normal(size=(2, 5))
    batch = rng.normal(size=(12, 4)), rng.normal(size=(12, 3))
    observed = observe(stacked_loss, params, *batch, plain=True)
    names = [layer.name for layer in observed.layers]
    inner = [f"params['layers']['W'][{k}]" for k in range(2)]
    assert names == ["params['first']", *inner, "params['last']", "params['head']"]
    assert observed.skipped == () and observed["params['head']"].angles.rho is None
    grads = gradient(stacked_loss, params, *batch)
    assert_gradients(observed, grads, 1e-12, {"params['first']": 0})


def unfollowed_loss(params, x, flag):
    W, h = params["W"], x
    h = jnp.tanh(batch_norm(h, params["input"])[0])
    h = batch_norm(h + h @ W, params["sum"])[0]
    h = batch_norm(jax.nn.relu(h), params["relu"])[0]
    h = batch_norm(h @ (h.T @ h), params["product"])[0]
    h = batch_norm((h @ W).reshape(-1, 2, 2), params["heads"])[0].reshape(h.shape)
    h = batch_norm(h @ W, where=jnp.arange(len(x))[:, None] > 1)[0]
    h = renorm(h @ W, (jnp.zeros(4), jnp.ones(4)))[0]
    h = lax.cond(flag, lambda h: batch_norm(h @ W)[0], lambda h: h, h)
    h = jax.vmap(lambda V: batch_norm(h @ V, params["input"])[0])(params["V"]).sum(0)
    return (batch_norm(h @ W)[0] ** 3).mean()


def test_what_cannot_be_followed_is_listed_with_the_reason(rng):
    params = {name: rng.normal(size=4) for name in ("input", "sum", "relu", "product")}
    params |= {"heads": rng.normal(size=2), "W": rng.normal(size=(4, 4))}
    params["V"] = rng.normal(size=(2, 4, 4))
    observed = observe(unfollowed_loss, params, rng.normal(size=(9, 4)), True)
    assert {layer.name: layer.unfollowed for layer in observed.layers} == {
        "params['input']": "its input is part of the batch, not the output of a linear operation",
        "params['sum']": "its input is a sum of several arrays that depend on the batch",
        "params['relu']": "its input is the output of `relu`, not of a linear operation",
        "params['product']": "its input is the product of two arrays that both depend on the batch",
        "params['heads']": "a reshape before it mixes channels with samples",
        "params['W']": "",
    }
    assert observed.skipped == (
        ("params['W']", "it has sample weights or a mask"),
        ("params['W']", "it is batch renormalization"),
        ("params['W']", "it is inside `cond`, which is not entered"),
        ("params['input']", "it is mapped by `vmap`, and each element is normalized by itself"),
    )
    for name in ("input", "sum", "relu", "product"):  # without inputs, but with all else
        angles = observed[f"params['{name}']"].angles
        assert angles.cos2.shape == (0, 4) and np.all(angles.sd_x > 0)
        assert geometry.reasons(angles).shape == geometry.gradients(angles).W.shape == (0, 4)
        assert not np.any(geometry.synced(angles).size) and not np.any(
            geometry.removed(angles).share
        )


def cnn_loss(params, x, targets):
    """A CNN of three layers, in plain JAX."""
    h = x
    for name, activation in (("conv1", jax.nn.relu), ("conv2", lambda y: y)):
        p = params[name]
        h = lax.conv_general_dilated(
            h, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        h = activation(batch_norm(h, p["gamma"], p["beta"])[0])
    h = batch_norm(h.mean((1, 2)) @ params["dense"]["W"], params["dense"]["gamma"])[0]
    return ((h - targets) ** 2).sum()


@pytest.mark.slow
def test_each_constructed_fault_shows_in_its_numbers(rng):
    def convolution(n_in, n_out):
        kernel = rng.normal(size=(3, 3, n_in, n_out))
        return {"kernel": kernel, "gamma": np.ones(n_out), "beta": np.zeros(n_out)}

    params = {"conv1": convolution(4, 6), "conv2": convolution(6, 5)}
    params["dense"] = {"W": rng.normal(size=(5, 3)), "gamma": np.ones(3)}
    params["conv1"]["beta"][2] = -50.0  # dead behind relu
    params["conv2"]["gamma"][1] = 0.0
    params["conv2"]["kernel"][..., 3] *= 1e-6  # ε is far more than σ²
    x = rng.normal(size=(8, 4, 4, 4))
    x[..., 1] = 0.0  # constant, and so in the padding
    x[..., 3] = -2 * x[..., 2]  # copies of one another
    params["conv1"]["kernel"][:, :, :, 4] = 0
    params["conv1"]["kernel"][1, 1, 2:, 4] = 1.0  # a neuron that sees the copies alone
    observed = observe(cnn_loss, params, x, rng.normal(size=(8, 3)))
    first, second, _ = (layer.angles for layer in observed.layers)
    assert list(np.flatnonzero(geometry.dead(first))) == [2]
    assert not np.any(geometry.dead(second))
    assert list(np.flatnonzero(~first.u_varies.reshape(3, 3, 4)[1, 1])) == [1]
    assert np.all(~first.u_varies.reshape(3, 3, 4)[..., 1])
    assert np.all(~second.u_varies.reshape(3, 3, 6)[..., 2])  # the dead channel is a constant
    groups = geometry.synced(first, below=0.05)
    assert list(np.flatnonzero(groups.size)) == [4] and groups.size[4] == 2
    assert list(groups.sign.reshape(3, 3, 4, 6)[1, 1, :, 4]) == [0, 0, -1, 1]
    assert list(np.flatnonzero(second.scale == 0)) == [1]
    assert list(np.flatnonzero(second.eps_share > 0.5)) == [3]


@pytest.mark.slow
def test_a_plain_layer_whose_means_dominate_shows_by_name(rng):
    def loss(params, x, targets):
        h = jax.nn.sigmoid(batch_norm(x @ params["first"])[0])
        h = jnp.tanh(batch_norm((h + 20) @ params["normal"])[0] + h @ params["skip"])
        return ((h @ params["last"] - targets) ** 2).sum()

    shapes = {"first": (4, 6), "normal": (6, 5), "skip": (6, 5), "last": (5, 2)}
    params = {name: rng.normal(size=shape) / 2 for name, shape in shapes.items()}
    x, targets = rng.normal(size=(12, 4)), rng.normal(size=(12, 2)) + 9
    observed = observe(loss, params, x, targets, plain=True)
    parts = {layer.name: geometry.weight_parts(layer.angles) for layer in observed.layers}
    normalized = [name for name, part in parts.items() if part.means is None]
    assert normalized == ["params['first']", "params['normal']"]  # 20 is in no gradient
    skip = parts["params['skip']"]
    assert np.linalg.norm(skip.means) > 3 * np.linalg.norm(skip.amplitude * skip.bracket)
    assert_gradients(observed, gradient(loss, params, x, targets), 1e-12)


def test_marks_are_in_no_other_program():
    inner = jax.jit(lambda x: batch_norm(x)[0])

    def loss(params, x):
        return (inner(x * params[None]) ** 3).sum()

    x = jnp.arange(6.0).reshape(3, 2)
    geometry.observe_function(loss, jnp.ones(2), x)
    assert "bnjax" not in str(jax.make_jaxpr(loss)(jnp.ones(2), x))
    # and what was traced before has them where they are needed
    assert geometry.observe_function(loss, jnp.ones(2), x).layers[0].angles.count == 3


def test_a_batch_of_one_is_listed():
    def loss(params, x):
        return batch_norm(x @ params, allow_single_value=True)[0].sum()

    observed = geometry.observe_function(loss, jnp.ones((2, 2)), jnp.ones((1, 2)))
    assert observed.layers == ()
    assert observed.skipped == (("normalization", "each channel has one value"),)


def test_layers_in_nested_scans_and_what_plain_layers_hide(rng):
    def loss(params, x):
        def inner(h, W):
            return batch_norm(h @ W)[0], None

        def outer(h, W):
            return lax.scan(inner, h, W)[0], None

        h, _ = lax.scan(outer, x, params["W"])
        h = lax.cond(h[0, 0] > 0, lambda h: h @ params["V"], lambda h: h, h)
        return (jnp.einsum("hsj,hji->hsi", h.reshape(2, -1, 3), params["U"]) ** 3).sum()

    shapes = {"W": (2, 1, 3, 3), "V": (3, 3), "U": (2, 3, 3)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    x = rng.normal(size=(8, 3))
    observed = observe(loss, params, x, plain=True)
    names = [layer.name for layer in observed.layers]
    assert names == ["params['W'][0][0]", "params['W'][1][0]"]
    assert observed.skipped == (
        ("params['V']", "it is inside `cond`, which is not entered"),
        ("params['U']", "it is a batched product, in which each element has its own weights"),
    )
    assert_gradients(observed, gradient(loss, params, x), 1e-12)


@pytest.mark.parametrize(
    "loss, batch, error, message",
    [
        (lambda p, x: (x @ p).sum(), (np.ones((3, 2)),), ValueError, "no normalization in it"),
        (lambda p: p.sum(), (), ValueError, "must hold the arrays"),
        (lambda p, x: batch_norm(x @ p)[0], (np.ones((3, 2)),), TypeError, "floating scalar; got"),
    ],
)
def test_wrong_arguments_are_refused(loss, batch, error, message):
    with pytest.raises(error, match=f"^geometry.observe_function: .*{message}"):
        geometry.observe_function(loss, jnp.ones((2, 2)), *batch)


@pytest.mark.slow
def test_amplitudes_times_brackets_are_the_gradients_of_a_resnet(rng):
    resnet = example("resnet")
    params, _ = resnet.init(jax.random.key(0))
    params = jax.tree.map(
        lambda a: jnp.asarray(a + 0.1 * rng.normal(size=a.shape), jnp.float32), params
    )
    images = rng.normal(size=(32, 8, 8, 1)).astype(np.float32)
    labels = rng.integers(0, 10, 32)

    def loss(params, x, labels):
        with jax.numpy_rank_promotion("allow"):  # as in the example
            logits, moments = resnet.forward(params, {}, x, train=True)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -picked.mean(), moments

    observed = geometry.observe_function(loss, params, images, labels, has_aux=True, plain=True)
    grads, _ = jax.grad(loss, has_aux=True)(params, images, labels)
    kernels = [f"params['{name}']['kernel']" for name in params if name != "head"]
    names = [layer.name for layer in observed.layers]
    assert sorted(names) == sorted([*kernels, "params['head']['W']"]) and observed.skipped == ()
    assert_gradients(observed, grads, 1e-5)


@pytest.mark.peers
@pytest.mark.slow
def test_the_layers_of_an_nnx_model_are_found(rng):
    from flax import nnx

    from bnjax.layers.nnx import BatchNorm

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs, param_dtype=jnp.float64)
            self.norm = BatchNorm(4, rngs=rngs)
            self.dense = nnx.Linear(4, 3, rngs=rngs, param_dtype=jnp.float64)
            self.norm2 = BatchNorm(3, rngs=rngs)

        def __call__(self, x):
            h = nnx.relu(self.norm(self.conv(x))).mean((1, 2))
            return self.norm2(self.dense(h))

    model = Model(nnx.Rngs(0))
    model.norm.bias[...] = jnp.array([0, 0, -50, 0], jnp.float32)  # dead behind relu
    graph, weights, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, rest, x, targets):
        return ((nnx.merge(graph, params, rest, copy=True)(x) - targets) ** 2).mean()

    batch = rng.normal(size=(6, 5, 5, 2)), rng.normal(size=(6, 3))
    observed = geometry.observe_function(loss, weights, rest, *batch)
    assert [layer.name for layer in observed.layers] == [
        "params['conv']['kernel']",
        "params['dense']['kernel']",
    ]
    assert_gradients(observed, jax.grad(loss)(weights, rest, *batch), 1e-10)
    assert list(geometry.dead(observed.layers[0].angles)) == [False, False, True, False]


@pytest.mark.peers
@pytest.mark.slow
def test_the_layers_of_an_equinox_model_are_found(rng, key):
    import equinox as eqx

    from bnjax.layers.equinox import BatchNorm

    class Model(eqx.Module):
        conv: eqx.nn.Conv2d
        norms: list[BatchNorm]
        dense: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key)
            self.conv = eqx.nn.Conv2d(2, 4, 3, key=keys[0])
            self.norms = [BatchNorm(n, "batch", mode="batch") for n in (4, 3)]
            self.dense = eqx.nn.Linear(4, 3, key=keys[1])

        def __call__(self, x, state):
            x, state = self.norms[0](self.conv(x), state)
            return self.norms[1](self.dense(jax.nn.relu(x).mean((1, 2))), state)

    model, state = eqx.nn.make_with_state(Model)(key)
    gamma = jnp.array([1.0, 0.0, 1.0, 1.0])
    model = eqx.tree_at(lambda model: model.norms[0].weight, model, gamma)
    weights, rest = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, state, x, targets):
        model = eqx.combine(params, rest)
        over = partial(jax.vmap, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
        y, state = over(model)(x, state)
        return ((y - targets) ** 2).mean(), state

    batch = rng.normal(size=(6, 2, 5, 5)), rng.normal(size=(6, 3))
    observed = geometry.observe_function(loss, weights, state, *batch, has_aux=True)
    assert [layer.name for layer in observed.layers] == [
        "params.conv.weight",
        "params.dense.weight",
    ]
    grads, _ = jax.grad(loss, has_aux=True)(weights, state, *batch)
    assert_gradients(
        observed, grads, 1e-5, dict.fromkeys(("params.conv.weight", "params.dense.weight"), 0)
    )
    assert list(observed.layers[0].angles.scale == 0) == [False, True, False, False]


def activated_loss(params, x, mask):
    """Layers with an activation each, and some where none is known."""

    def layer(name, h):
        return batch_norm(h @ params[name], params["gamma"])[0]

    h = jax.nn.sigmoid(layer("sigmoid", x))
    h = jnp.clip(layer("clip", h), -1, 1).reshape(-1, 2, 2).transpose(0, 2, 1).reshape(x.shape)
    h = jax.nn.relu(h + layer("residual", h))
    h = jax.nn.gelu(layer("gelu", h)) * mask
    h = (h @ params["plain"] + params["bias"][None]) ** 3
    h = jnp.where(layer("where", h) > 0, h, 0.1 * h)  # depends on another value
    h = layer("none", h).mean(0, keepdims=True) + h
    return (jax.nn.sigmoid(layer("cost", h)) * x).mean()


def test_the_activation_behind_a_layer_is_found(rng):
    names = ("sigmoid", "clip", "residual", "gelu", "plain", "where", "none", "cost")
    params = {name: rng.normal(size=(4, 4)) for name in names}
    params |= {"gamma": np.full(4, 3.0), "bias": np.ones(4)}
    x, mask = rng.normal(size=(32, 4)), rng.normal(size=(32, 4)) > 0

    def activations(*args):
        observed = geometry.observe_function(activated_loss, *args, plain=True)
        return {layer.name[8:-2]: (layer.saturated, layer.bounded) for layer in observed.layers}

    found = quick_jit(activations)(params, x, mask)

    def flat(g, y):
        _, slope = jax.jvp(g, (y,), (jnp.ones_like(y),))
        return np.mean(np.abs(slope) < geometry.SATURATED)

    def layer(name, h):
        return batch_norm(h @ params[name], params["gamma"])[0]

    y = layer("sigmoid", x)
    wanted = {"sigmoid": (flat(jax.nn.sigmoid, y), 1)}
    y = layer("clip", jax.nn.sigmoid(y))
    wanted["clip"] = np.mean(np.abs(y) > 1), 1
    h = jnp.clip(y, -1, 1).reshape(-1, 2, 2).transpose(0, 2, 1).reshape(x.shape)
    y = h + layer("residual", h)
    wanted["residual"] = np.mean(y < 0), 0
    y = layer("gelu", jax.nn.relu(y))
    wanted["gelu"] = flat(jax.nn.gelu, y), 0
    y = jax.nn.gelu(y) * mask @ params["plain"]
    wanted["plain"] = flat(lambda y: (y + 1) ** 3, y), 0
    assert sorted(found) == sorted(names)
    for name, (saturated, bounded) in found.items():
        assert (saturated, bounded) == wanted.get(name, (None, None)), name
