"""bnjax.layers.linen.BatchNorm in the place of flax.linen's."""

import doctest
from functools import partial

import flax_layers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import quick_jit
from flax_layers import CASES, INITIALIZERS, Case, assert_alike

pytestmark = pytest.mark.peers
linen = pytest.importorskip("flax.linen", reason="pip install '.[flax]'")
from bnjax.layers import linen as ours  # noqa: E402

MATRIX = CASES | {
    "two axes": Case({"axis": (0, -1)}, (3, 5, 2)),
    "every axis": Case({"axis": (0, 1)}, (2, 3)),
    "statistics of bfloat16": Case(
        {"force_float32_reductions": False, "param_dtype": jnp.bfloat16}, (1, 3), jnp.bfloat16
    ),
    "sums of x's dtype": Case({"force_float32_reductions": False}, dtype="float64"),
}


def step(layer, variables, x, y_bar, mask=None):
    """(y and gradients), (the new statistics and y in evaluation) of a training step."""

    def cost(params, x):
        options = {"use_running_average": False, "mask": mask, "mutable": ["batch_stats"]}
        y, new = layer.apply({**variables, "params": params}, x, **options)
        return jnp.sum(jnp.real(y) * y_bar), (y, new)

    params = variables.get("params", {})
    both = (0, 1) if jnp.issubdtype(x.dtype, jnp.inexact) else 0
    grads, (y, new) = jax.grad(cost, both, has_aux=True)(params, x)
    evaluated = layer.apply({"params": params, **new}, x, use_running_average=True)
    return (y, grads), (new, evaluated)


@pytest.mark.parametrize("name", MATRIX)
def test_an_option_means_the_same(name, rng):
    case = MATRIX[name]
    x, y_bar, mask = flax_layers.draw(case, rng)
    found = []
    for layer_class in (ours.BatchNorm, linen.BatchNorm):
        layer = layer_class(**INITIALIZERS, **case.options)
        variables = layer.init(jax.random.key(1), x, use_running_average=False)
        found.append((variables, *quick_jit(partial(step, layer))(variables, x, y_bar, mask)))
    (variables, now, later), (their_variables, *theirs) = found
    jax.tree.map(np.testing.assert_array_equal, variables, their_variables)
    assert_alike(now, theirs[0], case.eps)
    assert_alike(later, theirs[1])  # they keep statistics in float32


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(ours).failed == 0
