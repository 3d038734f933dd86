"""What is compiled for accelerators, with any of the layers of `_layers`.

Arguments are shapes: nothing is ever run. A barrier stands between a forward and a backward pass,
as in a training step a network lies between them; without it XLA reads x once for both.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _layers import Layer
from jax import Array, ShapeDtypeStruct, lax
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

SHAPES = (  # and the feature axis
    ((8192, 512), -1),
    ((32, 28, 28, 128), -1),
    ((64, 56, 56, 64), -1),
    ((256, 56, 56, 256), -1),
    ((65536, 32), -1),
    ((262144, 3), -1),
    ((32, 128, 28, 28), 1),
    ((64, 64, 56, 56), 1),
    ((256, 256, 56, 56), 1),
)
MATRIX, IMAGES, LARGE_IMAGES = (8192, 512), (32, 28, 28, 128), (64, 56, 56, 64)
CLASSES = 10


class Workload(NamedTuple):
    """A function of arrays, with a layer inside, and what it is called with.

    Attributes:
        function: layer -> the function.
        arguments: dtype of the batch -> the function's arguments.
        shape: The normalized array's.
        parts: How the arguments and results lie on four devices; None for one device.
        mapped: Whether the function is mapped over the devices, with an axis name.
    """

    function: Callable[[Layer], Callable[..., Any]]
    arguments: Callable[[Any], tuple[Any, ...]]
    shape: tuple[int, ...]
    parts: tuple[Any, Any] | None = None
    mapped: bool = False

    def unit(self, dtype: str, devices: int) -> float:
        """Return the bytes of the normalized array on each device, without padding."""
        share = 1 if self.parts is None else devices
        return math.prod(self.shape) * jnp.dtype(dtype).itemsize / share

    def lower(self, layer: Layer, dtype: str, devices: Sequence[jax.Device]) -> jax.stages.Lowered:
        """Lower the workload with a layer for these devices, the first or all of them."""
        function, arguments = self.function(layer), self.arguments(jnp.dtype(dtype))
        if self.parts is None:
            one = SingleDeviceSharding(devices[0])
            placed = jax.tree.map(partial(_place, sharding=one), arguments)
            return jax.jit(function).lower(*placed)
        mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
        ins, outs = self.parts
        placed = tuple(
            _place(argument, sharding=NamedSharding(mesh, part))
            for argument, part in zip(arguments, ins, strict=True)
        )
        if self.mapped:
            function = jax.shard_map(function, mesh=mesh, in_specs=ins, out_specs=outs)
        return jax.jit(function).lower(*placed)


def _place(argument: ShapeDtypeStruct, *, sharding: jax.sharding.Sharding) -> ShapeDtypeStruct:
    return ShapeDtypeStruct(argument.shape, argument.dtype, sharding=sharding)


def _vector(channels: int) -> ShapeDtypeStruct:
    return ShapeDtypeStruct((channels,), jnp.float32)


def _there_and_back(f: Callable[..., Array], *args: Any, y_bar: Array) -> tuple[Array, Any]:
    """Return y and the cotangents of all arguments, with a barrier between the passes."""
    y, pull_back = jax.vjp(f, *args)
    y, y_bar = lax.optimization_barrier((y, y_bar))
    return y, pull_back(y_bar)


def _standalone(shape: tuple[int, ...], axis: int) -> dict[str, Workload]:
    """Normalization by itself: with its backward pass, without, and evaluation before a ReLU."""

    def both(layer: Layer):
        def run(x, gamma, beta, y_bar):
            return _there_and_back(partial(layer.train, axis=axis), x, gamma, beta, y_bar=y_bar)

        return run

    def forward(layer: Layer):
        return lambda x, gamma, beta: layer.train(x, gamma, beta, axis=axis)

    def evaluation(layer: Layer):
        return lambda x, *vectors: jax.nn.relu(layer.evaluate(x, *vectors, axis=axis))

    def arguments(dtype, vectors, arrays=1):
        x = ShapeDtypeStruct(shape, dtype)
        return x, *[_vector(shape[axis])] * vectors, *[x] * (arrays - 1)

    name = "x".join(map(str, shape)) + (", axis 1" if axis == 1 else "")
    return {
        name: Workload(both, partial(arguments, vectors=2, arrays=2), shape),
        f"{name}: forward": Workload(forward, partial(arguments, vectors=2), shape),
        f"{name}: evaluation": Workload(evaluation, partial(arguments, vectors=4), shape),
    }


def _sharded() -> dict[str, Workload]:
    """Normalization of a batch that lies on four devices."""
    x, c = P("data"), P()
    parts = (x, c, c, x), (x, (x, c, c))
    whole = _standalone(MATRIX, -1)["8192x512"]

    def named(layer: Layer):
        return whole.function(layer._replace(train=partial(layer.train, axis_name="data")))

    size = "x".join(map(str, MATRIX))
    return {
        f"{size} on 4 devices, jit": whole._replace(parts=parts),
        f"{size} on 4 devices, shard_map": whole._replace(function=named, parts=parts, mapped=True),
    }


def _convolve(x: Array, kernel: Array) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def _stages(linear: Callable, normalize: Callable, stages: Any, x: Array) -> Array:
    for weights, vectors in stages:
        x = jax.nn.relu(normalize(linear(x, weights), *vectors, axis=-1))
    return x


def _network(shape: tuple[int, ...], linear: Callable, kernel: tuple[int, ...]):
    """Two stages of product or convolution, normalization, ReLU; then a linear classifier."""

    def logits(normalize, params, x):
        stages, last = params
        x = _stages(linear, normalize, stages, x)
        return jnp.mean(x, tuple(range(1, x.ndim - 1))) @ last

    def gradient(layer: Layer):
        def loss(params, x, targets):
            scores = logits(layer.train, params, x).astype(jnp.float32)
            return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(scores), -1))

        return jax.value_and_grad(loss)

    def evaluation(layer: Layer):
        return partial(logits, layer.evaluate)

    def arguments(dtype, vectors, targets):
        stage = ShapeDtypeStruct(kernel, dtype), (_vector(shape[-1]),) * vectors
        params = (stage, stage), ShapeDtypeStruct((shape[-1], CLASSES), dtype)
        found = params, ShapeDtypeStruct(shape, dtype)
        return (*found, ShapeDtypeStruct((shape[0], CLASSES), jnp.float32)) if targets else found

    return (
        Workload(gradient, partial(arguments, vectors=2, targets=True), shape),
        Workload(evaluation, partial(arguments, vectors=4, targets=False), shape),
    )


def _residual_block(shape: tuple[int, ...]):
    """relu(x + two convolutions, each normalized): y and all gradients."""

    def block(normalize, stages, x):
        first, (weights, vectors) = stages
        inner = _stages(_convolve, normalize, (first,), x)
        return jax.nn.relu(x + normalize(_convolve(inner, weights), *vectors, axis=-1))

    def both(layer: Layer):
        def run(stages, x, y_bar):
            return _there_and_back(partial(block, layer.train), stages, x, y_bar=y_bar)

        return run

    def evaluation(layer: Layer):
        return partial(block, layer.evaluate)

    def arguments(dtype, vectors, arrays):
        kernel = ShapeDtypeStruct((3, 3, shape[-1], shape[-1]), dtype)
        stage = kernel, (_vector(shape[-1]),) * vectors
        return (stage, stage), *[ShapeDtypeStruct(shape, dtype)] * arrays

    return (
        Workload(both, partial(arguments, vectors=2, arrays=2), shape),
        Workload(evaluation, partial(arguments, vectors=4, arrays=1), shape),
    )


def _networks() -> dict[str, Workload]:
    channels = MATRIX[-1], IMAGES[-1]
    found = {
        "two products": _network(MATRIX, jnp.matmul, (channels[0],) * 2),
        "two convolutions": _network(IMAGES, _convolve, (3, 3, channels[1], channels[1])),
        "residual block": _residual_block(LARGE_IMAGES),
    }
    return {
        f"{name}{suffix}": workload
        for name, pair in found.items()
        for suffix, workload in zip(("", ": evaluation"), pair, strict=True)
    }


WORKLOADS: dict[str, Workload] = {
    name: workload
    for room in (*(_standalone(*case) for case in SHAPES), _networks(), _sharded())
    for name, workload in room.items()
}
