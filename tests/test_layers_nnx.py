"""bnjax.layers.nnx.BatchNorm in the place of flax.nnx's."""

import doctest
import math

import flax_layers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import quick_jit
from flax_layers import CASES, INITIALIZERS, Case, assert_alike

pytestmark = pytest.mark.peers
nnx = pytest.importorskip("flax.nnx", reason="pip install '.[flax]'")
from bnjax.layers import nnx as ours  # noqa: E402


def rounded(arrays, *, dtype):
    """A `promote_dtype` of one's own."""
    return tuple(a if a is None else a.astype(jnp.bfloat16).astype("float32") for a in arrays)


MATRIX = CASES | {"promotion by hand": Case({"promote_dtype": rounded})}
del MATRIX["mask of integers"]  # which theirs refuses


def make(layer_class, case):
    axis = case.options.get("axis", -1)
    axes = axis if isinstance(axis, tuple) else (axis,)
    features = math.prod(case.shape[a] for a in axes)
    return layer_class(features, **INITIALIZERS, **case.options, rngs=nnx.Rngs(1))


def step(layer, x, y_bar, mask=None):
    """(y and gradients), (the new statistics and y in evaluation) of a training step."""
    graphdef, params, statistics = nnx.split(layer, nnx.Param, nnx.BatchStat)
    both = (0, 1) if jnp.issubdtype(x.dtype, jnp.inexact) else 0

    @quick_jit
    def run(params, statistics, x, mask):
        def cost(params, x):
            layer = nnx.merge(graphdef, params, statistics, copy=True)
            y = layer(x, mask=mask)
            return jnp.sum(jnp.real(y) * y_bar), (y, nnx.state(layer, nnx.BatchStat))

        grads, (y, new) = jax.grad(cost, both, has_aux=True)(params, x)
        evaluated = nnx.merge(graphdef, params, new, copy=True)(x, use_running_average=True)
        return (y, grads), (new, evaluated)

    return run(params, statistics, x, mask)


# theirs writes float64 and complex statistics into float32
@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types:FutureWarning")
@pytest.mark.parametrize("name", MATRIX)
def test_an_option_means_the_same(name, rng):
    case = MATRIX[name]
    x, y_bar, mask = flax_layers.draw(case, rng)
    layers = [make(layer_class, case) for layer_class in (ours.BatchNorm, nnx.BatchNorm)]
    jax.tree.map(np.testing.assert_array_equal, *map(nnx.state, layers))
    (now, later), theirs = (step(layer, x, y_bar, mask) for layer in layers)
    assert_alike(now, theirs[0], max(case.eps, jnp.finfo(now[0].dtype).eps))
    assert_alike(later, theirs[1])  # they keep statistics in float32


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(ours).failed == 0
