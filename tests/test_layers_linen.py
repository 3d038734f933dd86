"""bnjax.layers.linen.BatchNorm in the place of flax.linen's."""

import doctest
from functools import partial

import flax_layers
import jax
import jax.numpy as jnp
import layers_page
import numpy as np
import pytest
import reference
from compiling import quick_flags, quick_jit
from flax_layers import CASES, INITIALIZERS, C, Case, assert_alike
from processes import check_on_eight_devices
from reference import relative

pytestmark = pytest.mark.peers
linen = pytest.importorskip("flax.linen", reason="pip install '.[flax]'")
import orbax.checkpoint as orbax  # noqa: E402
from flax import serialization  # noqa: E402

from bnjax.layers import common, inference  # noqa: E402
from bnjax.layers import linen as ours  # noqa: E402
from examples import linen_digits  # noqa: E402

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
    assert serialization.to_bytes(variables) == serialization.to_bytes(their_variables)
    assert_alike(now, theirs[0], case.eps)
    assert_alike(later, theirs[1])  # they keep statistics in float32


def both(x, mask=None, **options):
    """(y, running mean, running variance) of their layer and of ours."""

    def outcome(layer_class):
        layer = layer_class(use_running_average=False, **options)
        name = options.get("axis_name")
        variables = layer.init(jax.random.key(0), x[0] if name else x)

        def run(x, mask):
            y, new = layer.apply(variables, x, mask=mask, mutable=["batch_stats"])
            return y, new["batch_stats"]["mean"], new["batch_stats"]["var"]

        run = jax.vmap(run, out_axes=(0, None, None), axis_name=name) if name else run
        return jax.tree.map(np.asarray, run(x, mask))

    return outcome(linen.BatchNorm), outcome(ours.BatchNorm)


def floating_mask(both, rng):
    x, w = rng.normal(size=(8, C)), rng.uniform(0.5, 3, (8, 1))
    (theirs, *_), (weighted, *_) = both(x, w)
    assert relative(theirs, reference.batch_norm(x)[0]) < 1e-6
    assert relative(weighted, reference.batch_norm(x, weights=w)[0]) < 1e-6


def sums_in_bfloat16(both, rng):
    x = jnp.asarray(rng.normal(size=(512, C)) + 4, jnp.bfloat16)
    _, mean, var = (part.reshape(-1) for part in reference.batch_norm(x)[:3])
    options = {"force_float32_reductions": False, "momentum": 0.0}
    (_, _, theirs), (_, *running) = both(x, **options)
    assert relative(theirs, var) > 0.01
    assert relative(running[0], mean) < 1e-6 and relative(running[1], var) < 1e-6


DIFFERENCES = flax_layers.DIFFERENCES | {
    "floating mask": floating_mask,
    "`force_float32_reductions=False`, bfloat16": sums_in_bfloat16,
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_is_as_the_page_says(name, rng):
    DIFFERENCES[name](both, rng)


def test_the_page_lists_these_differences():
    assert sorted(layers_page.differences("linen")) == sorted(DIFFERENCES)


class Block(linen.Module):
    """A linear layer and its normalization."""

    norm: type

    @linen.compact
    def __call__(self, x, _=None):
        return self.norm(use_running_average=False)(linen.Dense(C, use_bias=False)(x)), None


TRANSFORMS = {
    "vmap": lambda block: linen.vmap(
        block, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}
    ),
    "scan": lambda block: linen.scan(
        block,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        length=2,
    ),
    "remat": linen.remat,
    "jit": linen.jit,
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_of_linen_transforms_both_alike(name, rng):
    x = rng.normal(size=(2, 6, C) if name == "vmap" else (6, C)).astype("float32")
    y_bar = rng.normal(size=x.shape)

    def outcome(norm):
        model = TRANSFORMS[name](Block)(norm)

        @quick_jit
        def run(key, x):
            variables = model.init(key, x)

            def cost(params):
                both = {**variables, "params": params}
                (y, _), new = model.apply(both, x, mutable=["batch_stats"])
                return jnp.sum(y * y_bar), new

            return variables, jax.grad(cost, has_aux=True)(variables["params"])

        return run(jax.random.key(0), x)

    got = outcome(ours.BatchNorm)
    assert "BatchNorm_0" in got[0]["params"]
    assert_alike(got, outcome(linen.BatchNorm))


def test_rules_are_differentiated_in_the_modes_they_have(rng):
    x = rng.normal(size=(6, C))

    def f(x, rule):
        layer = ours.BatchNorm(use_running_average=False, rule=rule)
        return layer.apply(layer.init(jax.random.key(0), x), x, mutable=["batch_stats"])[0]

    backward = [jax.jacrev(f)(x, rule) for rule in ("jvp", "vjp", "autodiff")]
    for other in (jax.jacfwd(f)(x, "jvp"), *backward[1:]):
        np.testing.assert_allclose(other, backward[0], atol=1e-12)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jacfwd(f)(x, "vjp")


@pytest.mark.parametrize("writer", [linen, ours], ids=["theirs", "ours"])
@pytest.mark.parametrize("form", ["msgpack", "orbax"])
def test_the_other_reads_the_checkpoint(writer, form, rng, tmp_path):
    x = rng.normal(size=(6, C)).astype("float32")
    reader = linen if writer is ours else ours

    def trained(module, seed):
        layer = module.BatchNorm(use_running_average=False, **INITIALIZERS)
        variables = layer.init(jax.random.key(seed), x)
        return variables | layer.apply(variables, x, mutable=["batch_stats"])[1]

    written, fresh = trained(writer, 0), trained(reader, 1)
    if form == "msgpack":
        read = serialization.from_bytes(fresh, serialization.to_bytes(written))
    else:
        with orbax.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "layer", written)
            checkpointer.wait_until_finished()
            read = checkpointer.restore(tmp_path / "layer", fresh)
    jax.tree.map(np.testing.assert_array_equal, read, written)
    evaluated = (
        module.BatchNorm(use_running_average=True).apply(read, x) for module in (linen, ours)
    )
    np.testing.assert_allclose(*evaluated, atol=1e-5)


def test_the_digits_are_learned_alike(monkeypatch):
    def curve(norm):
        monkeypatch.setattr(linen_digits, "BatchNorm", norm)
        (x, labels), _ = linen_digits.load_data()
        variables = linen_digits.CNN().init(jax.random.key(0), x[:1], train=True)
        opt_state = linen_digits.OPTIMIZER.init(variables["params"])
        step = quick_jit(linen_digits.train_step.__wrapped__)
        losses = []
        for batch in np.arange(800).reshape(10, 80):
            variables, opt_state, loss = step(variables, opt_state, x[batch], labels[batch])
            losses.append(loss)
        return losses

    got, wanted = curve(ours.BatchNorm), curve(linen.BatchNorm)
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    assert got[-1] < 0.7 * got[0]


def test_both_of_flax_s_layers_on_eight_devices():
    check_on_eight_devices("flax_device_checks.py", flags=quick_flags())


class Network(linen.Module):
    """A convolution and a normalized residual step, whose inner product is used twice."""

    @linen.compact
    def __call__(self, x, train):
        x = linen.Conv(4, (2, 2))(x)
        x = linen.relu(ours.BatchNorm(use_running_average=not train)(x))
        x = linen.Dense(C)(x)
        return x + ours.BatchNorm(use_running_average=not train)(x)


@pytest.fixture
def network(rng):
    """A network, its variables, and three batches, the last one smaller."""
    batches = [rng.normal(size=(n, 3, 3, 2)) * 3 + 1 for n in (6, 6, 2)]
    return Network(), Network().init(jax.random.key(0), batches[0], train=True), batches


def test_statistics_of_a_model_are_those_of_all_samples(network):
    model, variables, batches = network
    variables = ours.measure_statistics(model, variables, batches, train=False)
    outputs = [
        model.apply(variables, x, train=True, mutable=True, capture_intermediates=True)[1]
        for x in batches
    ]
    for number, product in enumerate(("Conv_0", "Dense_0")):
        x = np.concatenate([o["intermediates"][product]["__call__"][0] for o in outputs])
        _, mean, var = (part.reshape(-1) for part in reference.batch_norm(x)[:3])
        found = variables["batch_stats"][f"BatchNorm_{number}"]
        assert set(found) == {"mean", "var"} and found["mean"].dtype == jnp.float32
        np.testing.assert_allclose(found["mean"], mean, rtol=1e-5)
        np.testing.assert_allclose(found["var"], var, rtol=1e-5)


def test_statistics_are_measured_under_a_transform(rng):
    x = rng.normal(size=(6, C)).astype("float32")
    model = TRANSFORMS["scan"](Block)(ours.BatchNorm)
    variables = ours.measure_statistics(model, model.init(jax.random.key(0), x), [x])
    single = Block(ours.BatchNorm)
    for number in range(2):
        own = jax.tree.map(lambda a, i=number: a[i], variables)
        wanted = ours.measure_statistics(single, own, [x])
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), own, wanted)
        (x, _), _ = single.apply(own, x, mutable=["batch_stats"])


def test_statistics_of_no_batch_are_refused(network):
    with pytest.raises(ValueError, match="the normalization at 'BatchNorm_0' must see a batch"):
        ours.measure_statistics(*network[:2], [], train=False)


def test_a_folded_model_predicts_the_same(network):
    model, variables, (x, *batches) = network
    variables = ours.measure_statistics(model, variables, batches, train=False)
    folded = ours.fold(model, variables, x, train=False)
    assert set(folded["batch_stats"]["BatchNorm_0"]) == {"offset"}
    assert set(folded["batch_stats"]["BatchNorm_1"]) == {"mean", "var"}  # Dense feeds the sum, too
    got, wanted = (model.apply(v, x, train=False) for v in (folded, variables))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    stacked = TRANSFORMS["vmap"](Block)(ours.BatchNorm)
    x = x[..., 0]
    with pytest.raises(ValueError, match="no Dense or Conv of `model` feeds"):
        ours.fold(stacked, stacked.init(jax.random.key(0), x), x, mutable=True)


def test_a_folded_model_is_not_trained(network):
    model, variables, (x, *_) = network
    folded = ours.fold(model, variables, x, train=False)
    with pytest.raises(ValueError, match="a folded layer has no statistics to train with"):
        model.apply(folded, x, train=True, mutable=["batch_stats"])


def test_the_examples_of_the_docstrings():
    for module in (common, inference, ours.batch_norm, ours.inference):
        assert doctest.testmod(module).failed == 0
