"""`bnjax.layers.keras` beside Keras' own layer: options, differences, files, training."""

import doctest
import importlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers_page import differences
from processes import check_on_eight_devices, ended, python

pytestmark = [
    pytest.mark.peers,
    # where Keras reads a variable as a NumPy array
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def keras(keras_on_jax):
    pytest.importorskip("keras", reason="keras is not installed: pip install '.[keras]'")
    return importlib.import_module("keras")


@pytest.fixture
def module(keras):
    return importlib.import_module("bnjax.layers.keras")


@pytest.fixture
def both(keras, module):
    """Keras' class and ours."""
    return keras.layers.BatchNormalization, module.BatchNormalization


@pytest.fixture
def broadcasting():
    with jax.numpy_rank_promotion("allow"):  # Keras' Dense adds vectors to matrices
        yield


def built(layers, options, shape, rng):
    """One layer of each class, with the same weights, all of them random and positive."""
    pair = [layer(**options) for layer in layers]
    for layer in pair:
        layer.build(shape)
    for theirs, own in zip(*(layer.weights for layer in pair), strict=True):
        assert (theirs.name, theirs.dtype, theirs.trainable) == (own.name, own.dtype, own.trainable)
        theirs.assign(rng.uniform(0.5, 1.5, theirs.shape))
        own.assign(theirs.value)
    return pair


def values(variables):
    return [variable.value for variable in variables]


def trained(layer, x, y_bar=None, mask=None):
    """y, what the variables become, and the cotangents of the trainable ones and of x."""
    fixed = values(layer.non_trainable_variables)

    def call(trainable, x):
        return layer.stateless_call(trainable, fixed, x, training=True, mask=mask)

    arguments = values(layer.trainable_variables), x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        arguments, call = arguments[:1], lambda trainable, call=call: call(trainable, x)

    @jax.jit
    def forward_and_back(arguments, y_bar):
        y, pull_back, state = jax.vjp(call, *arguments, has_aux=True)
        y_bar = jnp.ones_like(y) if y_bar is None else y_bar
        return y, state, pull_back(y_bar.astype(y.dtype))

    return forward_and_back(arguments, y_bar)


def assert_alike(theirs, own, tolerance):
    assert jax.tree.structure(theirs) == jax.tree.structure(own)
    for a, b in zip(*map(jax.tree.leaves, (theirs, own)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = (np.asarray(v, np.float64) for v in (a, b))
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance * (1 + np.abs(a).max()))


IMAGES = (3, 4, 2, 5)
SEQUENCES = (4, 3, 2)
CLIPPING = {"rmax": 1.5, "rmin": 0.8, "dmax": 0.3}
# options, shape of x, dtype of x, mask
CASES = {
    "defaults": ({}, (6, 4), "float32", None),
    "images": ({"momentum": 0.5, "epsilon": 0.1}, IMAGES, "float32", None),
    "axis 1": ({"axis": 1}, IMAGES, "float32", None),
    "axis -2": ({"axis": -2, "center": False}, SEQUENCES, "float32", None),
    "axis 0": ({"axis": 0, "scale": False}, (4, 3), "float32", None),
    "neither": ({"scale": False, "center": False, "momentum": 0.0}, (6, 4), "float32", None),
    "momentum 1": ({"momentum": 1.0}, (6, 4), "float32", None),
    "frozen": ({"trainable": False}, IMAGES, "float32", None),
    "mask": ({}, SEQUENCES, "float32", np.array([[1, 1, 0]] * 3 + [[0, 1, 0]], bool)),
    "mask, broadcast": ({}, IMAGES, "float32", np.array([[[1, 1], [1, 0], [0, 0], [1, 1]]])),
    "mask, axis 1": ({"axis": 1}, SEQUENCES, "float32", np.arange(12).reshape(4, 3) % 4 > 0),
    "renorm": ({"renorm": True}, IMAGES, "float32", None),
    "renorm, clipped": (
        {"renorm": True, "renorm_clipping": CLIPPING, "renorm_momentum": 0.7, "axis": 1},
        *(SEQUENCES, "float32", np.arange(12).reshape(4, 3) % 4 > 0),
    ),
    "renorm, half": (
        {"renorm": True, "scale": False, "center": False, "dtype": "mixed_bfloat16"},
        *(IMAGES, "bfloat16", None),
    ),
    "mixed_bfloat16": ({"dtype": "mixed_bfloat16"}, IMAGES, "bfloat16", None),
    "mixed_float16": ({"dtype": "mixed_float16"}, (6, 4), "float16", None),
    "bfloat16": ({"dtype": "bfloat16"}, (6, 4), "bfloat16", None),
    "float64": ({"dtype": "float64"}, (6, 4), "float64", None),
    "integers": ({}, (6, 4), "int32", None),
    "booleans": ({"autocast": False}, (6, 4), "bool", None),
    "uint8": ({"dtype": "mixed_bfloat16"}, (6, 4), "uint8", None),
    "one sample": ({}, (1, 4), "float32", None),
    "no sample axis": ({}, (4,), "float32", None),
}
TOLERANCES = {"float16": 4e-3, "bfloat16": 3e-2}


@pytest.mark.parametrize("case", CASES)
def test_every_option_is_theirs(case, both, rng):
    options, shape, dtype, mask = CASES[case]
    layers = built(both, options, shape, rng)
    x, y_bar = rng.normal(1, 2, (2, *shape))
    x, mask = jnp.asarray(x).astype(dtype), None if mask is None else jnp.asarray(mask)
    tolerance = TOLERANCES.get(layers[0].compute_dtype, 2e-5)
    passes = [trained(layer, x, jnp.asarray(y_bar), mask) for layer in layers]
    assert_alike(*passes, tolerance)
    evaluated = [
        jax.jit(partial(layer.stateless_call, values(layer.trainable_variables)))(state, x)[0]
        for layer, (_, state, _) in zip(layers, passes, strict=True)
    ]
    assert_alike(*evaluated, tolerance)
    theirs, own = (layer.get_config() for layer in layers)
    assert theirs | {"name": None} == own | {"name": None}


def test_initializers_regularizers_and_constraints_are_theirs(both):
    options = {
        "gamma_initializer": {"class_name": "Constant", "config": {"value": 2.0}},
        "beta_initializer": "ones",
        "moving_mean_initializer": "ones",
        "moving_variance_initializer": {"class_name": "Constant", "config": {"value": 4.0}},
        "gamma_regularizer": "l2",
        "beta_regularizer": "l1",
        "gamma_constraint": "non_neg",
        "renorm": True,
    }
    layers = [layer(**options) for layer in both]
    for layer in layers:
        layer.build((None, 3))
    assert_alike(*(values(layer.weights) for layer in layers), 0)
    assert_alike(*([jnp.asarray(v) for v in layer.losses] for layer in layers), 1e-7)
    assert len(layers[1].losses) == 2 and layers[1].gamma.constraint is not None


@pytest.mark.parametrize(
    "options",
    [
        {"synchronized": True},
        {"renorm": True, "renorm_clipping": {"rmax": 0.0, "rmin": 1.0}},
        {"renorm": True, "renorm_clipping": {"largest": 1.0}},
    ],
)
def test_what_they_refuse_is_refused(options, both):
    messages = []
    for layer in both:
        with pytest.raises(ValueError) as refused:
            layer(**options)
        messages.append(str(refused.value))
    assert messages[0] == messages[1]


def test_a_mask_of_another_rank_is_refused_in_their_words(both):
    for layer in both:
        with pytest.raises(ValueError, match="mask provided should be one dimension less"):
            layer()(jnp.ones((2, 3)), mask=jnp.ones((2, 3)), training=True)


def test_a_frozen_layer_learns_again_when_it_is_thawed(both, rng):
    layers = built(both, {"trainable": False}, (6, 4), rng)
    x = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    assert_alike(*(layer(x) for layer in layers), 1e-6)
    before = layers[1].moving_mean.value
    layers[1](x, training=True)
    assert (layers[1].moving_mean.value == before).all()
    for layer in layers:
        layer.trainable = True
    assert_alike(*(trained(layer, x) for layer in layers), 2e-5)


@pytest.mark.parametrize("rule", ["vjp", "jvp", "autodiff"])
def test_the_rule_chooses_how_it_is_differentiated(rule, both, rng):
    theirs, own = built(both, {}, (6, 4), rng)
    own = type(own).from_config(own.get_config() | {"rule": rule})
    own.build((6, 4))
    own.set_weights(theirs.get_weights())
    assert own.rule == rule
    x = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    assert_alike(trained(theirs, x), trained(own, x), 2e-5)
    push = (lambda x: own(x, training=True)), (x,), (jnp.ones_like(x),)
    if rule == "vjp":
        with pytest.raises(TypeError, match="custom_vjp"):
            jax.jvp(*push)
    else:
        jax.jvp(*push)


@pytest.mark.parametrize("renorm", [False, True])
def test_half_precision_under_strict_promotion(renorm, both):
    with jax.numpy_dtype_promotion("strict"):
        for dtype in ("mixed_bfloat16", "float16"):
            both[1](renorm=renorm, dtype=dtype)(jnp.ones((3, 2)), training=True)


def test_an_unknown_rule_is_refused(module, keras):
    with pytest.raises(ValueError, match="`rule` must be one of .*; got 'jvpp'; did you mean"):
        module.BatchNormalization(rule="jvpp")
    with pytest.raises(ValueError, match="convert: `rule` must be one of"):
        module.convert(keras.Sequential(), rule="jvpp")


def test_the_examples_run(module):
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def test_another_backend_is_refused_with_the_way_out(keras):
    process = python("-c", "import bnjax.layers.keras", KERAS_BACKEND="numpy")
    assert (
        "Keras runs on 'numpy'. Set the environment variable KERAS_BACKEND=jax"
        in (ended(process, code=1)[1])
    )


# the differences, each a row of docs/differences.md


def relative_error(y, exact):
    return float(np.linalg.norm(np.asarray(y, np.float64) - exact) / np.linalg.norm(exact))


def a_large_mean(both, rng):
    x = jnp.asarray(1e4 + rng.normal(size=(256, 4)), jnp.float32)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(0)) / exact.std(0)
    theirs, own = (layer(epsilon=0.0, momentum=0.0) for layer in both)
    errors = [relative_error(layer(x, training=True), exact) for layer in (theirs, own)]
    assert errors[0] > 1e-4 and errors[1] < 5e-7


def a_large_mean_in_evaluation(both, rng):
    x = jnp.asarray(1e4 + rng.normal(size=(256, 4)), jnp.float32)
    layers = [layer(epsilon=0.0) for layer in both]
    for layer in layers:
        layer.build(x.shape)
        layer.moving_mean.assign(jnp.full(4, 1e4))
    errors = [relative_error(layer(x), np.asarray(x, np.float64) - 1e4) for layer in layers]
    assert errors[0] > 1e-4 or errors[0] == 0
    assert errors[1] < 1e-7


def a_constant_channel(both, rng):
    x = jnp.full((1000, 1), 0.1, jnp.float32)
    theirs, own = (layer(epsilon=1e-12)(x, training=True) for layer in both)
    assert (theirs != 0).any() and (own == 0).all()


def a_nan_sample(both, rng):
    x = jnp.ones((3, 2), jnp.float32).at[0, 0].set(jnp.nan)
    theirs, own = (layer(momentum=0.0) for layer in both)
    for layer in (theirs, own):
        assert jnp.isnan(layer(x, training=True)[:, 0]).all()
    assert jnp.isnan(theirs.moving_mean.value[0])
    np.testing.assert_array_equal(own.moving_mean.value, [0, 1])
    np.testing.assert_array_equal(own.moving_variance.value, [1, 0])


def nan_under_the_mask(both, rng):
    x = jnp.asarray(rng.normal(size=(3, 2, 2)), jnp.float32).at[0, 0].set(jnp.nan)
    mask = jnp.ones((3, 2), bool).at[0, 0].set(False)
    y_bar = jnp.ones_like(x).at[0, 0].set(0)
    for layer, finite in zip(built(both, {}, x.shape, rng), (False, True), strict=True):
        _, state, (_, x_bar) = trained(layer, x, y_bar, mask)
        assert all(jnp.isfinite(s).all() for s in state)
        assert jnp.isfinite(x_bar[1:]).all() == finite


def an_empty_batch(both, rng):
    theirs, own = (layer() for layer in both)
    for layer in (theirs, own):
        layer(jnp.ones((0, 2), jnp.float32), training=True)
    assert jnp.isnan(theirs.moving_mean.value).all()
    np.testing.assert_array_equal(own.moving_mean.value, [0, 0])
    np.testing.assert_array_equal(own.moving_variance.value, [1, 1])


def everything_masked(both, rng):
    x = jnp.full((3, 2, 2), 7, jnp.float32)
    for renorm in (False, True):
        theirs, own = (layer(momentum=0.0, renorm=renorm) for layer in both)
        y, ours = (layer(x, mask=jnp.zeros((3, 2)), training=True) for layer in (theirs, own))
        assert (y > 1).all() and (theirs.moving_variance.value < 1e-9).all()
        assert (ours == 0).all()
        start = type(own).from_config(own.get_config())
        start.build(x.shape)
        assert_alike(values(start.weights), values(own.weights), 0)


def a_mask_of_real_weights(both, rng):
    x = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    weights = jnp.asarray([0.5, 2.0, 0.0, 1.0], jnp.float32)
    theirs, own = (layer(momentum=0.0) for layer in both)
    for layer in (theirs, own):
        layer(x, mask=weights, training=True)
    averages = np.average(x, axis=0, weights=weights), np.mean(x[weights > 0], axis=0)
    np.testing.assert_allclose(own.moving_mean.value, averages[0], rtol=1e-6)
    np.testing.assert_allclose(theirs.moving_mean.value, averages[1], rtol=1e-6)


def a_mask_and_one_channel(both, rng):
    x, mask = jnp.asarray(rng.normal(size=(4, 3, 1)), jnp.float32), jnp.ones((4, 3), bool)
    theirs, own = (layer() for layer in both)
    with pytest.raises(IndexError):
        theirs(x, mask=mask, training=True)
    whole = both[0]()(x, training=True)
    np.testing.assert_allclose(own(x, mask=mask, training=True), whole, rtol=1e-5, atol=1e-6)


def float64(both, rng):
    x = rng.normal(3, 1, (50, 4))
    exact = (x - x.mean(0)) / x.std(0)
    theirs, own = (layer(dtype="float64", epsilon=0.0)(x, training=True) for layer in both)
    assert theirs.dtype == own.dtype == jnp.float64
    assert relative_error(theirs, exact) > 1e-8 and relative_error(own, exact) < 1e-14


def a_standard_deviation_beyond_1e19(both, rng):
    x = jnp.asarray(1e25 * rng.normal(size=(50, 4)), jnp.float32)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(0)) / exact.std(0)
    theirs, own = (layer() for layer in both)
    assert (theirs(x, training=True) == 0).all()
    assert relative_error(own(x, training=True), exact) < 5e-7
    assert jnp.isinf(theirs.moving_variance.value).all()
    assert (own.moving_variance.value == 1).all()


DIFFERENCES = {
    "mean of 1e4 standard deviations": a_large_mean,
    "the same in evaluation": a_large_mean_in_evaluation,
    "constant channel": a_constant_channel,
    "NaN or infinity in a batch": a_nan_sample,
    "NaN where the mask is 0": nan_under_the_mask,
    "empty batch": an_empty_batch,
    "channel without a place in the mask": everything_masked,
    "floating mask": a_mask_of_real_weights,
    "mask, one channel": a_mask_and_one_channel,
    "dtype float64": float64,
    "standard deviation of 1e25": a_standard_deviation_beyond_1e19,
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_difference(case, both, rng):
    DIFFERENCES[case](both, rng)


def test_the_page_lists_the_differences():
    assert differences("keras") == list(DIFFERENCES)


def model_of(keras, layer, seed=1):
    keras.utils.set_random_seed(seed)
    block = keras.Sequential(
        [keras.layers.Conv2D(6, 3, use_bias=False), layer(renorm=True), keras.layers.ReLU()]
    )
    x = keras.Input((8, 8, 1))
    y = keras.layers.Conv2D(4, 3, use_bias=False, name="first")(x)
    y = keras.layers.ReLU()(layer(name="norm")(y))
    y = keras.layers.GlobalAveragePooling2D()(block(y))
    return keras.Model(x, keras.layers.Dense(10)(y))


def layers_of(model, parent):
    return [layer for layer in model._flatten_layers() if isinstance(layer, parent)]


def test_files_are_read_by_both(keras, module, both, rng, tmp_path, broadcasting):
    """Weights, either way; whole models, ours as ours and theirs as theirs or converted."""
    x = rng.normal(size=(4, 8, 8, 1)).astype(np.float32)
    models = [model_of(keras, layer, seed) for seed, layer in enumerate(both)]
    for model in models:
        model(x, training=True)
    theirs, own = (np.asarray(model(x)) for model in models)
    for model, other, y in zip(models, reversed(models), (theirs, own), strict=True):
        model.save_weights(tmp_path / "a.weights.h5")
        held = other.get_weights()
        other.load_weights(tmp_path / "a.weights.h5")
        np.testing.assert_allclose(other(x), y, atol=1e-5)
        other.set_weights(held)
    files = [tmp_path / "theirs.keras", tmp_path / "ours.keras"]
    for model, file in zip(models, files, strict=True):
        model.save(file)
    again = keras.models.load_model(files[1])
    assert [type(layer) for layer in layers_of(again, both[0])] == [both[1]] * 2
    np.testing.assert_array_equal(again(x), own)
    converted = module.convert(keras.models.load_model(files[0]))
    assert [type(layer) for layer in layers_of(converted, both[0])] == [both[1]] * 2
    np.testing.assert_allclose(converted(x), theirs, atol=1e-5)
    # without bnjax the registered name stands for their class
    names = {"bnjax>BatchNormalization": both[0]}
    back = keras.models.load_model(files[1], custom_objects=names)
    np.testing.assert_allclose(back(x), own, atol=1e-5)


def test_convert_reaches_every_depth_and_keeps_weights_names_and_policies(
    keras, module, both, rng, broadcasting
):
    class Block(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.norms = [both[0](name="inside")]

        def build(self, shape):
            self.norms[0].build(shape)

        def call(self, x, training=None):
            return self.norms[0](x, training=training)

    class Derived(both[0]):
        pass

    x = keras.Input((5, 3))
    y = keras.layers.TimeDistributed(both[0]())(x)
    y = keras.Sequential([keras.layers.Dense(4), both[0](axis=1)])(Block()(y))
    model = keras.Model(x, Derived()(both[0](dtype="mixed_bfloat16", trainable=False)(y)))
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    converted = module.convert(model, rule="vjp")
    before, after = (layers_of(m, both[0]) for m in (model, converted))
    assert [layer.name for layer in before if layer.name != "inside"] == [
        layer.name for layer in after if layer.name != "inside"
    ]
    assert [type(layer) for layer in before].count(both[0]) == 4
    assert [type(layer) for layer in after].count(both[1]) == 4
    assert {layer.rule for layer in after if type(layer) is both[1]} == {"vjp"}
    policies = [
        [(layer.dtype_policy.name, layer.trainable) for layer in m] for m in (before, after)
    ]
    assert policies[0] == policies[1]
    x = rng.normal(size=(7, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-5, atol=1e-5)


def test_convert_refuses_what_it_cannot_copy(keras, module, both):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = both[0]()

        def call(self, x):
            return self.norm(x)

    model = Own()
    with pytest.raises(ValueError, match="convert: `model` must be built"):
        module.convert(model)
    model(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"cannot copy `model`, of class Own.*set_weights"):
        module.convert(model)


def test_the_digits_are_learned_alike(keras, both, monkeypatch, broadcasting):
    pytest.importorskip("sklearn", reason="pip install '.[cli]'")
    keras_digits = importlib.import_module("examples.keras_digits")
    (x, targets), _ = keras_digits.load_data()
    curves = []
    for layer in both:
        monkeypatch.setattr(keras_digits, "BatchNormalization", layer)
        keras.utils.set_random_seed(0)
        model = keras_digits.make_model()
        batches = (slice(k, k + 80) for k in range(0, 800, 80))
        curves.append([model.train_on_batch(x[batch], targets[batch])[0] for batch in batches])
    assert curves[0][-1] < 0.7 * curves[0][0]
    np.testing.assert_allclose(*curves, rtol=1e-4)


@pytest.mark.slow
def test_all_checks_pass_on_eight_devices(keras):
    check_on_eight_devices("keras_distribution_checks.py")


# runs Keras' own test files, with a module that replaces the class where tests look it up
THEIR_TESTS = """
import sys, keras, keras.src.layers as layers, pytest
from bnjax.layers.keras import BatchNormalization
keras.layers.BatchNormalization = layers.BatchNormalization = BatchNormalization
sys.exit(pytest.main(["-q", "-n0", "-c", "/dev/null", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_their_own_tests_pass_with_our_class(keras, in_tmp_path):
    file = Path(keras.src.__file__).parent / "layers/normalization/batch_normalization_test.py"
    if not file.exists():
        pytest.skip("this Keras ships no tests")
    out, _ = ended(python("-c", THEIR_TESTS, file, cwd=in_tmp_path))
    assert " passed" in out
