"""The normalization layers that are compared: bnjax, its peers and the plain formula.

Functions of arrays alone, for training and for evaluation. A peer is imported when it is called, so
that a benchmark runs without those that are not installed.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

import bnjax

EPS = 1e-5
LINEN = "bnjax.layers.linen"


class Layer(NamedTuple):
    """A normalization: by the mini-batch's own moments, and by given ones.

    Attributes:
        train: (x, gamma, beta, *, axis, axis_name=None) -> y.
        module: What must be installed.
        evaluate: (x, mean, var, gamma, beta, *, axis) -> y; None where it is another layer's.
    """

    train: Callable[..., Array]
    module: str
    evaluate: Callable[..., Array] | None


def ours(x, gamma, beta, *, axis, axis_name=None, rule="vjp", library=bnjax):
    options = {"axis": axis, "axis_name": axis_name, "rule": rule, "eps": EPS}
    return library.batch_norm(x, gamma, beta, **options)[0]


def renorm(x, gamma, beta, *, axis, axis_name=None, rule="vjp", library=bnjax):
    options = {"axis": axis, "axis_name": axis_name, "rule": rule, "eps": EPS}
    # whatever is known when the program runs
    return library.renorm(x, (beta, gamma**2), gamma, beta, **options)[0]


def ghosts(x, gamma, beta, *, axis, axis_name=None, groups=8):
    """Groups of an eighth of the batch, each device's by themselves whatever the axis name."""
    options = {"size": -(-len(x) // groups), "axis": axis, "eps": EPS}
    return bnjax.ghost_batch_norm(x, gamma, beta, **options)[0]


def evaluate_ours(x, mean, var, gamma, beta, *, axis):
    return bnjax.normalize(x, mean, var, gamma, beta, axis=axis, eps=EPS)


def flax_linen(x, gamma, beta, *, axis, axis_name=None, fast=True, module="flax.linen"):
    layer = import_module(module).BatchNorm(
        use_running_average=False,
        axis=axis,
        axis_name=axis_name,
        use_fast_variance=fast,
        dtype=x.dtype,
        epsilon=EPS,
    )
    # any running statistics will do: y does not depend on them
    variables = _flax_variables(beta, gamma, gamma, beta)
    return layer.apply(variables, x, mutable=["batch_stats"])[0]


def evaluate_flax(x, mean, var, gamma, beta, *, axis, module="flax.linen"):
    layer = import_module(module).BatchNorm(
        use_running_average=True, axis=axis, dtype=x.dtype, epsilon=EPS
    )
    return layer.apply(_flax_variables(mean, var, gamma, beta), x)


def _flax_variables(mean, var, gamma, beta):
    return {
        "params": {"scale": gamma, "bias": beta},
        "batch_stats": {"mean": mean, "var": var},
    }


def haiku(x, gamma, beta, *, axis, axis_name=None):
    layer, state = _haiku(x, gamma, beta, axis, axis_name, training=True)
    return layer.apply({}, state, None, x)[0]


def evaluate_haiku(x, mean, var, gamma, beta, *, axis):
    layer, state = _haiku(x, gamma, beta, axis, None, training=False)
    for name, average in (("mean", mean), ("var", var)):
        own = state[f"batch_norm/~/{name}_ema"]
        own["average"] = average.reshape(own["average"].shape)
    return layer.apply({}, state, None, x)[0]


def _haiku(x, gamma, beta, axis, axis_name, *, training):
    import haiku as hk

    kept = [1] * x.ndim
    kept[axis] = -1
    reduced = [a for a in range(x.ndim) if a != axis % x.ndim]

    def layer(x, training=training):
        norm = hk.BatchNorm(False, False, 0.9, eps=EPS, axis=reduced, cross_replica_axis=axis_name)
        scale, offset = (v.reshape(kept).astype(x.dtype) for v in (gamma, beta))
        return norm(x, training, scale=scale, offset=offset)

    transformed = hk.transform_with_state(layer)
    # the statistics' shapes are known once a training step was traced
    _, state = transformed.init(jax.random.key(0), x, True)
    return transformed, state


def equinox(x, gamma, beta, *, axis, axis_name=None):
    names = ("batch",) if axis_name is None else ("batch", axis_name)
    layer, state = _equinox(x, gamma, beta, names)
    return _apply_equinox(layer, state, x, axis)


def evaluate_equinox(x, mean, var, gamma, beta, *, axis):
    import equinox as eqx

    layer, state = _equinox(x, gamma, beta, ("batch",))
    statistics = mean.astype(x.dtype), var.astype(x.dtype)
    state = state.set(layer.batch_state_index, statistics)
    return _apply_equinox(eqx.nn.inference_mode(layer), state, x, axis)


def _equinox(x, gamma, beta, names):
    import equinox as eqx

    layer, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
        gamma.shape[0], axis_name=names, mode="batch", dtype=x.dtype, eps=EPS
    )
    affine = gamma.astype(x.dtype), beta.astype(x.dtype)
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, affine), state


def _apply_equinox(layer, state, x, axis):
    # equinox takes one sample at a time, channels first
    first = jnp.moveaxis(x, axis, 1)
    y = jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(first, state)[0]
    return jnp.moveaxis(y, 1, axis)


def two_pass(x, gamma, beta, *, axis, axis_name=None):
    """The mean, then the mean square around it, in float32; differentiated by JAX."""
    others = tuple(a for a in range(x.ndim) if a != axis % x.ndim)

    def mean(t):
        found = jnp.mean(t, others)
        return found if axis_name is None else lax.pmean(found, axis_name)

    wide = x.astype(jnp.float32)
    center = mean(wide)
    var = mean((wide - lax.expand_dims(center, others)) ** 2)
    return evaluate_plain(x, center, var, gamma, beta, axis=axis)


def evaluate_plain(x, mean, var, gamma, beta, *, axis):
    others = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    mean, scale, beta = (
        lax.expand_dims(v, others) for v in (mean, gamma * lax.rsqrt(var + EPS), beta)
    )
    return ((x.astype(jnp.float32) - mean) * scale + beta).astype(x.dtype)


LAYERS = {
    "bnjax": Layer(ours, "bnjax", evaluate_ours),
    "bnjax, rule jvp": Layer(partial(ours, rule="jvp"), "bnjax", None),
    "bnjax.renorm": Layer(renorm, "bnjax", None),
    "bnjax, ghosts": Layer(ghosts, "bnjax", None),
    "bnjax.layers.linen": Layer(
        partial(flax_linen, module=LINEN), "flax", partial(evaluate_flax, module=LINEN)
    ),
    "flax": Layer(flax_linen, "flax", evaluate_flax),
    "haiku": Layer(haiku, "haiku", evaluate_haiku),
    "equinox": Layer(equinox, "equinox", evaluate_equinox),
    "two passes": Layer(two_pass, "jax", evaluate_plain),
}


def missing() -> list[str]:
    """Return the modules that are not installed, in alphabetical order."""
    modules = {layer.module for layer in LAYERS.values()}
    return sorted(name for name in modules if find_spec(name) is None)
