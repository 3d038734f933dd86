"""The faults of `geometry.faults` in CNNs and MLPs, in plain JAX, flax.nnx and equinox."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bnjax import batch_norm, geometry

KINDS = {"mlp": (), "cnn": (3, 3)}  # and the size of the kernels
LAYERS = "relu", "sigmoid", "plain", "head"


def healthy(kind):
    """Values of the parameters, inputs and targets that nothing is wrong with."""
    rng, window = np.random.default_rng(0), KINDS[kind]
    space = (6, 6) if window else ()

    def layer(n_in, n_out, window=window):
        kernel = rng.normal(size=(*window, n_in, n_out)) / np.sqrt(n_in)
        return {"kernel": kernel, "gamma": np.ones(n_out), "beta": np.zeros(n_out)}

    values = {"relu": layer(6, 8), "sigmoid": layer(8, 8)}
    values |= {"plain": layer(8, 8, [1] * len(window)), "head": layer(8, 2, ())}
    values["mean"] = np.array(0.5)
    x, targets = rng.normal(size=(64, *space, 6)), rng.normal(size=(64, 2))
    return jax.tree.map(partial(np.asarray, dtype=np.float32), (values, x, targets))


def plain_jax(kind, values):
    """A model as (loss, params, state), and the names of its layers."""

    def linear(h, kernel):
        if kind == "mlp":
            return h @ kernel
        numbers = "NHWC", "HWIO", "NHWC"
        return lax.conv_general_dilated(h, kernel, (1, 1), "SAME", dimension_numbers=numbers)

    def loss(params, state, x, targets):
        h = x
        for name in ("relu", "sigmoid"):
            p = params[name]
            h = linear(h, p["kernel"])
            h = getattr(jax.nn, name)(batch_norm(h, p["gamma"], p["beta"])[0])
        h = jnp.tanh(linear(h - params["mean"], params["plain"]["kernel"]))
        h = h.mean(tuple(range(1, h.ndim - 1))) @ params["head"]["kernel"]
        return ((h - targets) ** 2).mean(), state

    return (loss, values, {}), [f"params['{name}']['kernel']" for name in LAYERS]


def flax_nnx(kind, values):
    """The same in flax.nnx."""
    from flax import nnx

    from bnjax.layers.nnx import BatchNorm

    class Model(nnx.Module):
        def __init__(self, rngs):
            for name in LAYERS:
                *window, n_in, n_out = values[name]["kernel"].shape
                options = {"use_bias": False, "rngs": rngs}
                conv = partial(nnx.Conv, kernel_size=window) if window else nnx.Linear
                setattr(self, name, conv(n_in, n_out, **options))
                getattr(self, name).kernel[...] = jnp.asarray(values[name]["kernel"])
            for name in ("relu", "sigmoid"):
                norm = BatchNorm(8, rngs=rngs)
                norm.scale[...] = jnp.asarray(values[name]["gamma"])
                norm.bias[...] = jnp.asarray(values[name]["beta"])
                setattr(self, f"{name}_norm", norm)

        def __call__(self, x):
            h = nnx.relu(self.relu_norm(self.relu(x)))
            h = nnx.sigmoid(self.sigmoid_norm(self.sigmoid(h)))
            h = nnx.tanh(self.plain(h - values["mean"]))
            return self.head(h.mean(tuple(range(1, h.ndim - 1))))

    graph, params, state = nnx.split(Model(nnx.Rngs(0)), nnx.Param, ...)

    def loss(params, state, x, targets):
        model = nnx.merge(graph, params, state, copy=True)
        cost = ((model(x) - targets) ** 2).mean()
        return cost, nnx.state(model, nnx.Not(nnx.Param))

    return (loss, params, state), [f"params['{name}']['kernel']" for name in LAYERS]


def in_equinox(kind, values):
    """The same in equinox."""
    import equinox as eqx

    from bnjax.layers.equinox import BatchNorm

    class Model(eqx.Module):
        relu: eqx.Module
        sigmoid: eqx.Module
        plain: eqx.Module
        head: eqx.Module
        norms: dict[str, BatchNorm]

        def __init__(self, key):
            for name in LAYERS:
                kernel = jnp.asarray(values[name]["kernel"])
                n_in, n_out = kernel.shape[-2:]
                if kernel.ndim == 4:
                    size = kernel.shape[0]
                    layer = eqx.nn.Conv2d(n_in, n_out, size, 1, size // 2, use_bias=False, key=key)
                    kernel = kernel.transpose(3, 2, 0, 1)
                else:
                    layer = eqx.nn.Linear(n_in, n_out, use_bias=False, key=key)
                    kernel = kernel.T
                setattr(self, name, eqx.tree_at(lambda one: one.weight, layer, kernel))
            self.norms = {}
            for name in ("relu", "sigmoid"):
                norm = BatchNorm(8, "batch", mode="batch")
                new = jnp.asarray(values[name]["gamma"]), jnp.asarray(values[name]["beta"])
                self.norms[name] = eqx.tree_at(lambda one: (one.weight, one.bias), norm, new)

        def __call__(self, h, state):
            h = jnp.moveaxis(h, -1, 0)
            for name in ("relu", "sigmoid"):
                h, state = self.norms[name](getattr(self, name)(h), state)
                h = getattr(jax.nn, name)(h)
            h = jnp.tanh(self.plain(h - values["mean"]))
            return self.head(h.mean(tuple(range(1, h.ndim)))), state

    model, state = eqx.nn.make_with_state(Model)(jax.random.key(0))
    params, rest = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, state, x, targets):
        model = eqx.combine(params, rest)
        over = partial(jax.vmap, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
        out, state = over(model)(x, state)
        return ((out - targets) ** 2).mean(), state

    return (loss, params, state), [f"params.{name}.weight" for name in LAYERS]


def dead(values, x):
    values["relu"]["beta"][2] = -50
    return {("relu", "dead neurons"), ("sigmoid", "constant inputs")}


def constant_inputs(values, x):
    x[..., 1] = 0  # as the padding
    return {("relu", "constant inputs")}


def copies(values, x):
    values["relu"]["kernel"][..., 3] = 2 * values["relu"]["kernel"][..., 5]
    return {("relu", "copies of neurons"), ("sigmoid", "copies of inputs")}


def synced_inputs(values, x):
    x[..., 1] = -3 * x[..., 0]
    kernel = values["relu"]["kernel"]
    kernel[..., 4] = 0
    kernel[(1,) * (kernel.ndim - 2)][:2, 4] = 1, -1  # sees the two alone
    return {("relu", "copies of inputs"), ("relu", "synced inputs")}


def constant_neuron(values, x):
    values["sigmoid"]["kernel"][..., 0] = 0
    return {("sigmoid", "constant neurons"), ("plain", "constant inputs")}


def zero_gamma(values, x):
    values["sigmoid"]["gamma"][[1, 2]] = 0
    return {("sigmoid", "γ is zero"), ("plain", "constant inputs")}


def swallowing_eps(values, x):
    values["sigmoid"]["kernel"][..., 7] *= 1e-4
    return {("sigmoid", "ε exceeds the variance")}


def saturated(values, x):
    values["sigmoid"]["gamma"][:] = 100
    return {("sigmoid", "saturated activation")}


def dominating_means(values, x):
    values["plain"]["kernel"] -= values["plain"]["kernel"].mean(-2, keepdims=True)
    values["mean"][...] = -20  # changes no output
    return {("plain", "the means dominate")}


FAULTS = (None, dead, constant_inputs, copies, synced_inputs, constant_neuron, zero_gamma)
FAULTS += (swallowing_eps, saturated, dominating_means)


@pytest.fixture
def in_float32():
    """Frameworks make parameters of JAX's default dtype."""
    with jax.enable_x64(False):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize(
    "build",
    [plain_jax, *(pytest.param(f, marks=pytest.mark.peers) for f in (flax_nnx, in_equinox))],
)
@pytest.mark.parametrize("kind", KINDS)
def test_each_constructed_fault_is_found_by_name_and_nothing_else(kind, build):
    for fault in FAULTS:
        values, x, targets = healthy(kind)
        wanted = set() if fault is None else fault(values, x)
        (loss, params, state), names = build(kind, values)
        with geometry.Recorder(loss, every=1, has_aux=True) as recorder:
            recorder.look(0, params, state, jnp.asarray(x), jnp.asarray(targets))
        assert recorder.recording.names == tuple(names)
        found = geometry.faults(recorder.recording)
        layers = dict(zip(names, LAYERS, strict=True))
        assert {(layers[one.layer], one.fault.name) for one in found} == wanted, fault
