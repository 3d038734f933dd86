"""One CNN in five frameworks, with the framework's own normalization or with bnjax's.

Each function takes a class of layers and a batch of images (N, H, W, 3), and returns
(loss, params, state) with loss(params, state, x, labels) -> (cost, new state): pytrees of arrays.
The frameworks are imported when they are asked for.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

CHANNELS = ((32, 1), (64, 2), (128, 2))  # and the stride of each convolution
CLASSES = 10

os.environ.setdefault("KERAS_BACKEND", "jax")


class CNN(NamedTuple):
    """A network of a framework: its cost, and what it starts from."""

    loss: Callable[..., tuple[Array, Any]]
    params: Any
    state: Any


def _cost(logits: Array, labels: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def linen(norm: type, x: Array) -> CNN:
    from flax import linen as nn

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            for channels, stride in CHANNELS:
                x = nn.Conv(channels, (3, 3), stride, use_bias=False)(x)
                x = nn.relu(norm(use_running_average=False)(x))
            return nn.Dense(CLASSES)(x.mean((1, 2)))

    def loss(params, state, x, labels):
        variables = {"params": params, "batch_stats": state}
        logits, new = network.apply(variables, x, mutable=["batch_stats"])
        return _cost(logits, labels), new["batch_stats"]

    network = Network()
    variables = network.init(jax.random.key(0), x)
    return CNN(loss, variables["params"], variables["batch_stats"])


def nnx(norm: type, x: Array) -> CNN:
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs):
            inputs, stages = x.shape[-1], []
            for channels, stride in CHANNELS:
                conv = nnx.Conv(inputs, channels, (3, 3), stride, use_bias=False, rngs=rngs)
                stages.append(nnx.Sequential(conv, norm(channels, rngs=rngs), nnx.relu))
                inputs = channels
            self.stages = nnx.Sequential(*stages)
            self.linear = nnx.Linear(inputs, CLASSES, rngs=rngs)

        def __call__(self, x):
            return self.linear(self.stages(x).mean((1, 2)))

    def loss(params, state, x, labels):
        model = nnx.merge(graph, params, state, copy=True)  # within this trace
        cost = _cost(model(x), labels)
        return cost, nnx.state(model, nnx.Not(nnx.Param))

    graph, params, state = nnx.split(Network(nnx.Rngs(0)), nnx.Param, ...)
    return CNN(loss, params, state)


def haiku(norm: type, x: Array) -> CNN:
    import haiku as hk

    def network(x):
        for channels, stride in CHANNELS:
            x = hk.Conv2D(channels, 3, stride, with_bias=False)(x)
            x = jax.nn.relu(norm(True, True, 0.99)(x, is_training=True))
        return hk.Linear(CLASSES)(x.mean((1, 2)))

    def loss(params, state, x, labels):
        logits, state = transformed.apply(params, state, None, x)
        return _cost(logits, labels), state

    transformed = hk.transform_with_state(network)
    return CNN(loss, *transformed.init(jax.random.key(0), x))


def equinox(norm: type, x: Array) -> CNN:
    import equinox as eqx

    class Network(eqx.Module):
        convs: list
        norms: list
        linear: eqx.nn.Linear

        def __init__(self, key):
            keys = iter(jax.random.split(key, len(CHANNELS) + 1))
            inputs, self.convs, self.norms = x.shape[-1], [], []
            for channels, stride in CHANNELS:
                conv = eqx.nn.Conv2d(inputs, channels, 3, stride, 1, use_bias=False, key=next(keys))
                self.convs.append(conv)
                self.norms.append(norm(channels, "batch", mode="batch"))
                inputs = channels
            self.linear = eqx.nn.Linear(inputs, CLASSES, key=next(keys))

        def __call__(self, x, state):
            x = jnp.moveaxis(x, -1, 0)
            for conv, normalize in zip(self.convs, self.norms, strict=True):
                x, state = normalize(conv(x), state)
                x = jax.nn.relu(x)
            return self.linear(x.mean((1, 2))), state

    def loss(params, state, x, labels):
        model = eqx.combine(params, static)
        batched = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        logits, state = batched(x, state)
        return _cost(logits, labels), state

    model, state = eqx.nn.make_with_state(Network)(jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return CNN(loss, params, state)


def keras(norm: type, x: Array) -> CNN:
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.Input(x.shape[1:])]
    for channels, stride in CHANNELS:
        conv = keras.layers.Conv2D(channels, 3, stride, padding="same", use_bias=False)
        layers += [conv, norm(), keras.layers.ReLU()]
    pool = keras.layers.GlobalAveragePooling2D()
    model = keras.Sequential([*layers, pool, keras.layers.Dense(CLASSES)])

    def loss(params, state, x, labels):
        logits, state = model.stateless_call(params, state, x, training=True)
        return _cost(logits, labels), state

    values = ([v.value for v in variables] for variables in _variables(model))
    return CNN(loss, *values)


def _variables(model: Any) -> Iterator[Any]:
    yield model.trainable_variables
    yield model.non_trainable_variables


# the CNN, and where its framework's own layer is
FRAMEWORKS = {
    "linen": (linen, "flax.linen", "BatchNorm"),
    "nnx": (nnx, "flax.nnx", "BatchNorm"),
    "haiku": (haiku, "haiku", "BatchNorm"),
    "equinox": (equinox, "equinox.nn", "BatchNorm"),
    "keras": (keras, "keras.layers", "BatchNormalization"),
}


def installed() -> list[str]:
    """Return the frameworks that can be imported."""
    return [name for name, (_, module, _) in FRAMEWORKS.items() if find_spec(module.split(".")[0])]


def both(framework: str, x: Array, rule: str) -> dict[str, CNN]:
    """Return the CNN with the framework's own layer, "theirs", and with bnjax's, "ours"."""
    build, module, name = FRAMEWORKS[framework]
    own = getattr(importlib.import_module(f"bnjax.layers.{framework}"), name)
    theirs = getattr(importlib.import_module(module), name)

    def with_rule(*args, **options):
        return own(*args, rule=rule, **options)

    return {"theirs": build(theirs, x), "ours": build(own if rule == "jvp" else with_rule, x)}
