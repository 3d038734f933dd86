"""bnjax.layers.nnx.BatchNorm in the place of flax.nnx's."""

import doctest
import math

import flax_layers
import jax
import jax.numpy as jnp
import layers_page
import numpy as np
import pytest
import reference
from compiling import quick_jit
from flax_layers import CASES, INITIALIZERS, C, Case, assert_alike
from reference import relative

pytestmark = pytest.mark.peers
nnx = pytest.importorskip("flax.nnx", reason="pip install '.[flax]'")
import orbax.checkpoint as orbax  # noqa: E402

from bnjax.layers import nnx as ours  # noqa: E402
from examples import nnx_digits  # noqa: E402


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


def both(x, mask=None, **options):
    """(y, running mean, running variance) of their layer and of ours."""

    def outcome(layer_class):
        graphdef, state = nnx.split(layer_class(C, rngs=nnx.Rngs(0), **options))

        def run(x, mask):
            layer = nnx.merge(graphdef, state, copy=True)
            return layer(x, mask=mask), layer.mean[...], layer.var[...]

        name = options.get("axis_name")
        run = jax.vmap(run, out_axes=(0, None, None), axis_name=name) if name else run
        return jax.tree.map(np.asarray, run(x, mask))

    return outcome(nnx.BatchNorm), outcome(ours.BatchNorm)


def other_masks(_, rng):
    x, w = rng.normal(size=(8, C)).astype("float32"), rng.uniform(0.5, 3, (8, 1))
    for mask in (w, np.arange(8)[:, None] % 3):

        def call(layer_class, mask=mask):
            return layer_class(C, rngs=nnx.Rngs(0))(x, mask=mask)

        with pytest.raises(ValueError, match="where must be None or a boolean"):
            call(nnx.BatchNorm)
        weights = mask if mask is w else mask > 0
        wanted = np.where(weights > 0, 1, 1e-30) * weights
        wanted = reference.batch_norm(x, weights=np.maximum(wanted, 1e-30))[0]
        assert relative(call(ours.BatchNorm), wanted) < 1e-6


def several_feature_axes(_, rng):
    x = rng.normal(size=(8, C, 2)).astype("float32")

    def call(layer_class):
        layer = layer_class(2 * C, axis=(1, 2), rngs=nnx.Rngs(0))
        return layer(x), layer.mean[...]

    with pytest.raises((TypeError, ValueError)):
        call(nnx.BatchNorm)
    y, mean = call(ours.BatchNorm)
    assert relative(y, reference.batch_norm(x, axis=(1, 2))[0]) < 1e-6
    assert mean.shape == (2 * C,)


def rounded_statistics(_, rng):
    x = jnp.asarray(1000 + rng.normal(size=(8, C)), jnp.bfloat16)

    def call(layer_class):
        layer = layer_class(C, dtype=jnp.bfloat16, use_running_average=True, rngs=nnx.Rngs(0))
        layer.mean[...] = jnp.full(C, 1001.0)
        return layer(x)

    wanted = (np.asarray(x, "float64") - 1001) / np.sqrt(1 + 1e-5)
    assert (
        relative(call(nnx.BatchNorm), wanted) > 0.1
        and relative(call(ours.BatchNorm), wanted) < 0.01
    )


DIFFERENCES = flax_layers.DIFFERENCES | {
    "floating or integer mask": other_masks,
    "several feature axes": several_feature_axes,
    "`dtype=bfloat16` in evaluation": rounded_statistics,
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_is_as_the_page_says(name, rng):
    DIFFERENCES[name](both, rng)


def test_the_page_lists_these_differences():
    assert sorted(layers_page.differences("nnx")) == sorted(DIFFERENCES)


class Block(nnx.Module):
    """A linear layer and its normalization."""

    def __init__(self, norm, rngs):
        self.linear = nnx.Linear(C, C, use_bias=False, rngs=rngs)
        self.norm = norm(C, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.linear(x))


def one(norm, call):
    model = Block(norm, nnx.Rngs(0))
    return model, lambda model, x: call(model, x)


def stacked(norm, axes, transform):
    """Two blocks whose variables are stacked, and their call."""
    make = nnx.vmap(lambda rngs: Block(norm, rngs), in_axes=0, out_axes=0)
    return make(nnx.Rngs(0).split(2)), transform(lambda model, x: model(x), **axes)


TRANSFORMS = {
    "jit": lambda norm: one(norm, nnx.jit(lambda model, x: model(x))),
    "remat": lambda norm: one(norm, nnx.remat(lambda model, x: model(x))),
    "vmap": lambda norm: stacked(norm, {"in_axes": (0, 0)}, nnx.vmap),
    "scan": lambda norm: stacked(
        norm, {"in_axes": (0, nnx.Carry), "out_axes": nnx.Carry}, nnx.scan
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_of_nnx_transforms_both_alike(name, rng):
    x = rng.normal(size=(2, 6, C) if name == "vmap" else (6, C)).astype("float32")
    y_bar = rng.normal(size=x.shape)

    def outcome(norm):
        model, call = TRANSFORMS[name](norm)

        @nnx.jit
        def run(model, x):
            return nnx.grad(lambda model: jnp.sum(call(model, x) * y_bar))(model)

        grads = run(model, x)
        return nnx.to_pure_dict(grads), nnx.to_pure_dict(nnx.state(model))

    assert_alike(outcome(ours.BatchNorm), outcome(nnx.BatchNorm))


def test_rules_are_differentiated_in_the_modes_they_have(rng):
    x = rng.normal(size=(6, C))

    def f(x, rule):
        return ours.BatchNorm(C, rule=rule, rngs=nnx.Rngs(0))(x)

    backward = [jax.jacrev(f)(x, rule) for rule in ("jvp", "vjp", "autodiff")]
    for other in (jax.jacfwd(f)(x, "jvp"), *backward[1:]):
        np.testing.assert_allclose(other, backward[0], atol=1e-12)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jacfwd(f)(x, "vjp")


@pytest.mark.parametrize("writer", [nnx, ours], ids=["theirs", "ours"])
def test_the_other_reads_the_checkpoint(writer, rng, tmp_path):
    x = rng.normal(size=(6, C)).astype("float32")
    written, read = (
        module.BatchNorm(C, **INITIALIZERS, rngs=nnx.Rngs(seed))
        for seed, module in enumerate((writer, nnx if writer is ours else ours))
    )
    written(x)
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "layer", nnx.state(written))
        checkpointer.wait_until_finished()
        nnx.update(read, checkpointer.restore(tmp_path / "layer", nnx.state(read)))
    evaluated = (layer(x, use_running_average=True) for layer in (written, read))
    np.testing.assert_allclose(*evaluated, atol=1e-5)
    assert_alike(nnx.to_pure_dict(nnx.state(read)), nnx.to_pure_dict(nnx.state(written)))


def test_a_missing_choice_of_statistics_is_refused_as_theirs_is():
    for module in (nnx, ours):
        layer = module.BatchNorm(C, use_running_average=None, rngs=nnx.Rngs(0))
        with pytest.raises(ValueError, match="No `use_running_average` argument"):
            layer(jnp.ones((2, C)))


def test_the_digits_are_learned_alike(monkeypatch):
    def curve(norm):
        monkeypatch.setattr(nnx_digits, "BatchNorm", norm)
        (x, labels), _ = nnx_digits.load_data()
        model = nnx_digits.CNN(nnx.Rngs(0))
        optimizer = nnx_digits.make_optimizer(model)
        batches = np.arange(800).reshape(10, 80)
        return [nnx_digits.train_step(model, optimizer, x[b], labels[b]) for b in batches]

    got, wanted = curve(ours.BatchNorm), curve(nnx.BatchNorm)
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    assert got[-1] < 0.7 * got[0]


class Network(nnx.Module):
    """Two products, each normalized, and a sum with the second."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, 4, (2, 2), rngs=rngs)
        self.norms = nnx.List([ours.BatchNorm(4, rngs=rngs), ours.BatchNorm(C, rngs=rngs)])
        self.linear = nnx.Linear(4, C, use_bias=False, rngs=rngs)

    def products(self, x):
        first = self.conv(x)
        return first, self.linear(nnx.relu(self.norms[0](first)))

    def __call__(self, x):
        product = self.products(x)[1]
        return product + self.norms[1](product)


def test_statistics_of_a_model_are_those_of_all_samples_and_it_folds(rng):
    model = Network()
    batches = [rng.normal(size=(n, 3, 3, 2)) * 3 + 1 for n in (6, 6, 2)]
    with pytest.raises(ValueError, match="the normalization at 'norms/0' must see a batch"):
        ours.measure_statistics(model, [])
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    ours.measure_statistics(nnx.view(model, use_running_average=True), batches)
    jax.tree.map(
        np.testing.assert_array_equal, before, nnx.to_pure_dict(nnx.state(model, nnx.Param))
    )
    found = [(norm.mean[...], norm.var[...]) for norm in model.norms]
    outputs = zip(*(model.products(x) for x in batches), strict=True)
    for (mean, var), parts in zip(found, outputs, strict=True):
        wanted = [part.reshape(-1) for part in reference.batch_norm(np.concatenate(parts))[1:3]]
        np.testing.assert_allclose(mean, wanted[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(var, wanted[1], rtol=1e-5)

    x = batches[0]
    folded = ours.fold(model, lambda model: [(model.conv, model.norms[0])], x)
    evaluated = nnx.view(model, use_running_average=True)(x)
    np.testing.assert_allclose(folded(x), evaluated, rtol=1e-4, atol=1e-5)
    assert folded.norms[0].offset is not None and model.norms[0].offset is None
    with pytest.raises(ValueError, match="the folded model must predict what `model` does"):
        ours.fold(model, lambda model: [(model.linear, model.norms[1])], x)
    with pytest.raises(ValueError, match="a folded layer has no statistics to train with"):
        nnx.view(folded, use_running_average=False)(x)


def test_the_examples_of_the_docstrings():
    for module in (ours.batch_norm, ours.inference):
        assert doctest.testmod(module).failed == 0
