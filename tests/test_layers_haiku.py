"""bnjax.layers.haiku.BatchNorm in the place of haiku's."""

import doctest
import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit
from examples_of import first_costs
from flax_layers import assert_alike
from layers_page import differences
from processes import check_on_eight_devices, cpus, ended, python

pytestmark = pytest.mark.peers
hk = pytest.importorskip("haiku", reason="pip install '.[haiku]'")
from bnjax.layers import haiku as ours  # noqa: E402

C = 3


class Case(NamedTuple):
    options: dict[str, Any] = {}
    shape: tuple[int, ...] = (6, C)
    dtype: Any = "float32"
    passed: dict[str, tuple[int, ...]] = {}  # the shapes of scale and offset at the call


FREE = {"create_scale": False, "create_offset": False}
MATRIX = {
    "defaults": Case(),
    "no scale": Case({"create_scale": False}),
    "no offset": Case({"create_offset": False}),
    "neither": Case(FREE),
    "short average": Case({"decay_rate": 0.5, "eps": 0.1}),
    "no average": Case({"decay_rate": 0.0}),
    "images": Case({}, (2, 3, 2, C)),
    "channels first": Case({"data_format": "channels_first"}, (2, C, 4)),
    "a named format": Case({"data_format": "NCHW"}, (2, C, 2, 2)),
    "channels first of a vector": Case({"data_format": "NC..."}, (4,)),
    "several feature axes": Case({"axis": [0]}, (4, 2, C)),
    "another feature axis": Case({"axis": (0, 2)}, (4, 2, C)),
    "axes from the end": Case({"axis": [0, -2]}, (4, 2, C)),
    "every axis": Case({"axis": [0, 1]}),
    "no axis": Case({"axis": []}),
    "one sample": Case({}, (1, C)),
    "a single number": Case({}, ()),
    "float64": Case({}, dtype="float64"),
    "integers": Case(FREE, dtype="int32"),
    "integers and their parameters": Case({"scale_init": None, "offset_init": None}, dtype="int32"),
    "complex": Case({}, dtype="complex64"),
    "scale passed": Case(FREE, (2, 4, C), passed={"scale": (1, 1, C)}),
    "offset passed": Case(FREE, (2, 4, C), passed={"offset": (1, 1, C)}),
    "per sample": Case(FREE, (2, 4, C), passed={"scale": (2, 1, C), "offset": (2, 1, 1)}),
    "scale passed, offset owned": Case(
        {"create_scale": False}, (2, 4, C), passed={"scale": (2, 1, C)}
    ),
    "offset passed, scale owned": Case(
        {"create_offset": False}, (2, 4, C), passed={"offset": (2, 1, C)}
    ),
}


def initializers(options):
    """Random parameters, where the case does not say otherwise and the layer has them."""
    found = {}
    for name in ("scale", "offset"):
        if options.get(f"create_{name}", True):
            found[f"{name}_init"] = hk.initializers.RandomUniform(0.5, 2.0)
    return found


def module(layer, options):
    """The transformed layer: options, x and whether it trains to y."""
    arguments = {"create_scale": True, "create_offset": True, "decay_rate": 0.9}
    arguments |= initializers(options) | options
    return hk.transform_with_state(lambda *args, **more: layer(**arguments)(*args, **more))


def trained(layer, case, x, y_bar, passed):
    """What is initialized, and two steps, their gradients, local statistics and evaluation."""
    f = module(layer, case.options)
    params, state = f.init(jax.random.key(0), x, True, **passed)

    def cost(params, passed, x, state):
        y, state = f.apply(params, state, None, x, True, **passed)
        return jnp.sum(jnp.real(y) * y_bar), (y, state)

    def run(params, state):
        floats = (0, 1, 2) if jnp.issubdtype(x.dtype, jnp.inexact) else 1
        grads, (y, new) = jax.grad(cost, floats, has_aux=True)(params, passed, x, state)
        _, new = f.apply(params, new, None, 3 * x, True, **passed)
        local, same = f.apply(params, new, None, x, False, True, **passed)
        evaluated, _ = f.apply(params, new, None, x, False, **passed)
        return y, grads, new, local, same, evaluated

    return params, state, *quick_jit(run)(params, state)


@pytest.mark.parametrize("name", MATRIX)
def test_an_option_means_the_same(name, rng):
    case = MATRIX[name]
    x, y_bar = 3 * rng.normal(size=(2, *case.shape)) + 2
    x = jnp.asarray(x + 1j * y_bar if case.dtype == "complex64" else x).astype(case.dtype)
    passed = {n: jnp.asarray(rng.uniform(1, 2, s), "float32") for n, s in case.passed.items()}
    got, wanted = (trained(b, case, x, y_bar, passed) for b in (ours.BatchNorm, hk.BatchNorm))
    rounding = "float64" if case.dtype == "float64" else "float32"
    assert_alike(got, wanted, 4 * np.finfo(rounding).eps)  # E[x²] − E[x]² loses some digits here


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_has_the_same_dtypes(dtype, rng):
    x = jnp.asarray(rng.normal(size=(64, C)), dtype)
    got, wanted = (trained(b, Case(), x, 1.0, {}) for b in (ours.BatchNorm, hk.BatchNorm))
    jax.tree.map(lambda a, b: np.testing.assert_equal((a.dtype, a.shape), (b.dtype, b.shape)), got, wanted)
