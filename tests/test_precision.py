"""Products in full precision, in the programs that NVIDIA GPUs and TPUs would get.

By default they multiply float32 in TF32 and in bfloat16. `jax.export` lowers for them anywhere.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

from bnjax import backprop, folding, geometry, identities, jacobian, network, training
from bnjax.app.measures import evaluation, gradients
from bnjax.identities import flows
from bnjax.identities.quick import quick

PLATFORMS = ("tpu", "cuda")
PRODUCT = re.compile(r"stablehlo\.(?:dot|dot_general|convolution)\b.*")
NET = network.Network((3, 5, 4, 2))
BASELINE = network.Network((3, 5, 2), norm=False)


def products(function, *args, **kwargs):
    """The products of a jitted function's programs, one line each."""
    for platform in PLATFORMS:
        text = export.export(function, platforms=[platform])(*args, **kwargs).mlir_module()
        yield from PRODUCT.findall(text)


def coarse(lines):
    """The products that do not ask for the highest precision of both operands."""
    return [line for line in lines if line.count("HIGHEST") < 2]


def drawn(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def of_a_network(function, net):
    """A function of (net, params, x, targets), on a small float32 batch."""
    params, _ = network.init(net, jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    return (lambda *args: function(net, *args)), params, drawn(6, 3), drawn(6, 2)


def weight_jacobians(u, W):
    return jacobian.weight_jacobian(u, W), jacobian.frozen_weight_jacobian(u, W)


PROGRAMS = {
    "backprop.value_and_grad": of_a_network(backprop.value_and_grad, NET),
    "backprop.value_and_grad of the baseline": of_a_network(backprop.value_and_grad, BASELINE),
    "backprop.intermediates": of_a_network(backprop.intermediates, NET),
    "geometry.observe": of_a_network(geometry.observe, NET),
    "geometry.summarize": of_a_network(geometry.summarize, NET),
    "geometry.spread": (geometry.spread, drawn(6, 3)),
    "geometry.rank": (geometry.rank, drawn(6, 3)),
    "jacobian": (weight_jacobians, drawn(6, 3), drawn(3, 2)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_claims_exactness_multiplies_in_full_precision(name):
    function, *args = PROGRAMS[name]
    lines = list(products(jax.jit(function), *args))
    assert lines and not coarse(lines)


class Recorded:
    """A jitted function that keeps the products of its programs, as it is first traced."""

    def __init__(self, jitted, lines):
        self.jitted, self.lines = jitted, lines

    def record(self, *args, **kwargs):
        self.lines.extend(products(self.jitted, *args, **kwargs))

    def __call__(self, *args, **kwargs):
        self.record(*args, **kwargs)
        return self.jitted(*args, **kwargs)

    def trace(self, *args, **kwargs):
        self.record(*args, **kwargs)
        return self.jitted.trace(*args, **kwargs)

    def lower(self, *args, **kwargs):
        self.record(*args, **kwargs)
        return self.jitted.lower(*args, **kwargs)


@pytest.fixture
def jitted(monkeypatch):
    """The products of all programs that the test compiles with `jax.jit`."""
    lines, jit = [], jax.jit
    monkeypatch.setattr(jax, "jit", lambda f, **more: Recorded(jit(f, **more), lines))
    return lines


@pytest.mark.parametrize(
    ("function", "static", "net"),
    [(flows.library_flow, "net", BASELINE), (flows.hand_flow, "net", NET)],
    ids=["by autodiff", "by hand"],
)
def test_the_identities_multiply_in_full_precision(function, static, net, jitted):
    _, params, *batch = of_a_network(None, net)
    state = [()] if function is flows.library_flow else []
    quick(static)(function.__wrapped__)(net, params, *state, *batch)
    assert jitted and not coarse(jitted)


def test_the_identities_compile_in_one_place():
    folder = Path(identities.__file__).parent
    assert [file.name for file in folder.glob("*.py") if "jax.jit(" in file.read_text()] == [
        "quick.py"
    ]


def test_the_comparison_while_training_multiplies_in_full_precision():
    _, params, *batch = of_a_network(None, NET)
    state = network.init(NET, jax.random.key(0))[1]
    train_state = training.TrainState(params, state, (), jnp.zeros((), jnp.int32))
    lines = list(products(gradients._gradients, NET, train_state, *batch, np.ones(6, bool)))
    assert len(lines) > 10 and not coarse(lines)


def test_folding_is_checked_in_full_precision(monkeypatch):
    seen, y = [], jnp.ones((6, 2))

    def called(result):
        def record(*args, **kwargs):
            seen.append(jax.config.jax_default_matmul_precision)
            return result

        return record

    monkeypatch.setattr(folding, "fold", lambda *args: (BASELINE, ()))
    monkeypatch.setattr(network, "bn_apply", called((y, ())))
    monkeypatch.setattr(network, "apply", called(y))
    assert evaluation.fold(NET, (), (), y, classify=True)[1:] == (0, 0.0)
    assert seen == ["highest", "highest"]


@pytest.mark.parametrize(
    "gradient", ["rule", "hand", pytest.param("autodiff", marks=pytest.mark.slow)]
)
def test_a_training_step_keeps_the_platform_s_default(gradient):
    step = training.make_step(NET, optax.sgd(0.5), gradient=gradient)
    start = training.init(NET, optax.sgd(0.5), jax.random.key(0))
    x, targets = jnp.asarray(drawn(6, 3)), jnp.asarray(drawn(6, 2))
    for precision, asked in ((None, 0), ("highest", 2)):
        with jax.default_matmul_precision(precision):
            lines = list(products(jax.jit(step), start, x, targets))
        assert lines and all(line.count("HIGHEST") == asked for line in lines)


def test_a_planted_coarse_product_is_found():
    a = drawn(3, 3)
    one = jnp.ones((1, 1, 3, 3), jnp.float32)

    def planted(a, image):
        return (
            a @ a,
            jnp.matmul(a, a, precision="highest"),
            jax.lax.conv(image, image, (1, 1), "SAME"),
        )

    lines = list(products(jax.jit(planted), a, one))
    assert len(lines) == 3 * len(PLATFORMS) and len(coarse(lines)) == 2 * len(PLATFORMS)
