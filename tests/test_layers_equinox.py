"""bnjax.layers.equinox.BatchNorm in the place of equinox's."""

import doctest
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit
from examples_of import example, first_costs
from flax_layers import assert_alike
from layers_page import differences
from processes import check_on_eight_devices

pytestmark = pytest.mark.peers
eqx = pytest.importorskip("equinox", reason="pip install '.[equinox]'")
from bnjax.layers import equinox as ours  # noqa: E402
from bnjax.layers.equinox import batch_norm, inference  # noqa: E402

C = 3
LAYERS = ours.BatchNorm, eqx.nn.BatchNorm
MODES = "ema", "batch"


class Case(NamedTuple):
    options: dict[str, Any] = {}
    places: tuple[int, ...] = ()
    dtype: Any = "float32"


MATRIX = {
    "defaults": Case(),
    "images": Case({}, (2, 2)),
    "no parameters": Case({"channelwise_affine": False}),
    "short average": Case({"momentum": 0.5, "eps": 0.1}),
    "no average": Case({"momentum": 0.0}),
    "float64": Case({"dtype": "float64"}, (2,), "float64"),
    "names in a tuple": Case({"axis_name": ("batch",)}),
    "names in a list": Case({"axis_name": ["batch"]}),
    "integers": Case({}, (2,), "int32"),
}


def layer_and_state(layer, mode, **options):
    """A layer for float32 and its state; x64 would make it one for float64."""
    options = {"axis_name": "batch", "dtype": "float32"} | options
    return eqx.nn.make_with_state(layer)(C, mode=mode, **options)


def batched(layer, state, x, **more):
    def one(x, state):
        return layer(x, state, **more)

    return jax.vmap(one, (0, None), (0, None), axis_name="batch")(x, state)


def statistics(layer, state):
    index = layer.ema_state_index if layer.mode == "ema" else layer.batch_state_index
    return state.get(index)


def leaves(tree):
    """The arrays of a layer or a state, in order; a state's keys are objects of one layer."""
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


def trained(layer_class, case, mode, x, y_bar):
    """Two steps, the gradients of the second, and evaluation by flag and by mode."""
    layer, state = layer_and_state(layer_class, mode, **case.options)
    if layer.weight is not None:
        new = jnp.array([0.5, 1, 2], layer.weight.dtype), jnp.array([1, 2, 3], layer.weight.dtype)
        layer = eqx.tree_at(lambda n: (n.weight, n.bias), layer, new)
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    params = layer.weight, layer.bias

    def with_params(params):
        return eqx.tree_at(lambda n: (n.weight, n.bias), layer, params, is_leaf=lambda n: n is None)

    def cost(params, x, state):
        y, state = batched(with_params(params), state, x)
        return jnp.sum(jnp.real(y) * y_bar), (y, state)

    def run(x, state):
        first, state = batched(layer, state, 2 * x)
        floats = (0, 1) if inexact else 0
        grads, (y, state) = jax.grad(cost, floats, has_aux=True)(params, x, state)
        after = leaves(state)
        evaluated, state = batched(layer, state, x, inference=True)
        again, state = batched(eqx.nn.inference_mode(layer), state, x)
        return first, y, grads, after, evaluated, again, leaves(state)

    return quick_jit(run)(x, state)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MATRIX)
def test_an_option_means_the_same(name, mode, rng):
    case = MATRIX[name]
    x, y_bar = 3 * rng.normal(size=(2, 6, C, *case.places)) + 2
    x = jnp.asarray(x).astype(case.dtype)
    *got, evaluated, again, state = trained(ours.BatchNorm, case, mode, x, y_bar)
    *wanted, their_evaluated, their_again, their_state = trained(
        eqx.nn.BatchNorm, case, mode, x, y_bar
    )
    rounding = "float64" if case.dtype == "float64" else "float32"
    assert_alike(got, wanted, np.finfo(rounding).eps)
    assert_alike(state, their_state)
    if mode == "ema" or case.options.get("momentum") == 0:
        assert_alike((evaluated, again), (their_evaluated, their_again), np.finfo(rounding).eps)
    else:  # their variance is not that of any batch: a difference of its own
        assert_alike(evaluated, again)
        kinds = ((a.shape, a.dtype) for a in (evaluated, their_evaluated))
        assert next(kinds) == next(kinds)


@pytest.mark.parametrize("mode", MODES)
def test_complex_numbers_are_left_to_equinox(mode, rng):
    x, y_bar = 3 * rng.normal(size=(2, 6, C)) + 2
    x = jnp.asarray(x + 1j * y_bar, "complex64")

    def outcome(layer_class):
        try:
            return trained(layer_class, Case({"dtype": "complex64"}), mode, x, y_bar)
        except TypeError as error:  # equinox's own code, by newer releases of JAX
            return str(error)

    got, wanted = map(outcome, LAYERS)
    if isinstance(wanted, str):
        assert got == wanted
    else:
        assert_alike(got, wanted)


def after(layer_class, mode, batches, **options):
    """(layer, state, y of the last batch) after these batches."""
    layer, state = layer_and_state(layer_class, mode, **options)
    for x in batches:
        y, state = batched(layer, state, x)
    return layer, state, y


def large_means(rng):
    x = rng.normal(1e4, 1, (64, C)).astype("float32")
    wanted = reference.batch_norm(x)[0]
    for mode in MODES:
        y, theirs = (after(layer, mode, [x])[2] for layer in LAYERS)
        assert np.abs(y - wanted).max() < 2e-6
        assert np.abs(theirs - wanted).max() > 1e-4


def first_evaluations(rng):
    x = rng.normal(3, 2, (64, C)).astype("float32")
    x *= (4.08 / x.var(0)) ** 0.5
    scales = []
    for layer_class in LAYERS:
        layer, state, _ = after(layer_class, "batch", [x] * 10)
        far = jnp.full((1, C), 1e3)  # y there tells the variance
        y, _ = batched(layer, state, far, inference=True)
        scales.append(((1e3 - x.mean(0)) / y[0]) ** 2)
    np.testing.assert_allclose(scales[0], 4.08, rtol=1e-4)
    np.testing.assert_allclose(scales[1], 13.5, rtol=0.01)


def not_a_number(rng):
    x, again = rng.normal(size=(2, 8, C)).astype("float32")
    spoiled = again.copy()
    spoiled[2, 1] = np.nan
    for mode in MODES:
        states = []
        for batches in ([x, spoiled, x], [x, x], [x, again, x]):
            layer, state, _ = after(ours.BatchNorm, mode, batches)
            y, state = batched(layer, state, x, inference=True)
            states.append((y, statistics(layer, state)))
        (y, _), (twice, _), (thrice, _) = states
        assert_alike((y[:, 1], y[:, ::2]), (twice[:, 1], thrice[:, ::2]), 1e-6)
        layer, state, _ = after(eqx.nn.BatchNorm, mode, [x, spoiled, x])
        assert np.isnan(statistics(layer, state)[0]).tolist() == [False, True, False]


def empty(rng):
    x = rng.normal(size=(8, C, 2)).astype("float32")
    for mode in MODES:
        _, wanted, _ = after(ours.BatchNorm, mode, [x])
        _, state, _ = after(ours.BatchNorm, mode, [x[..., :0], x, x[..., :0]])
        assert_alike(leaves(state), leaves(wanted), 0)
        layer, state, _ = after(eqx.nn.BatchNorm, mode, [x, x[..., :0]])
        assert np.isnan(statistics(layer, state)[0]).all()


def narrow_ema(rng):
    x = jnp.asarray(rng.normal(size=(8, C)), jnp.bfloat16)
    with pytest.raises(TypeError, match="select"):
        after(eqx.nn.BatchNorm, "ema", [x])
    layer, state, y = after(ours.BatchNorm, "ema", [x, x])
    assert y.dtype == statistics(layer, state)[0].dtype == jnp.float32
    np.testing.assert_allclose(y, reference.batch_norm(np.asarray(x))[0], atol=1e-6)


def wide_batch(rng):
    x = rng.normal(size=(8, C))
    with pytest.raises(ValueError, match="different structures/shapes/dtypes"):
        after(eqx.nn.BatchNorm, "batch", [x])
    layer, state, y = after(ours.BatchNorm, "batch", [x])
    assert (y.dtype, statistics(layer, state)[0].dtype) == (jnp.float64, jnp.float32)
    np.testing.assert_allclose(y, reference.batch_norm(x)[0], atol=1e-14)


DIFFERENCES = {
    "mean of 1e4 standard deviations": large_means,
    'mode "batch", first evaluations': first_evaluations,
    "NaN in one channel": not_a_number,
    "no spatial places": empty,
    'mode "ema", x narrower than the layer': narrow_ema,
    'mode "batch", x wider than the layer': wide_batch,
}


@pytest.mark.parametrize("case", differences("equinox"))
def test_a_difference_of_the_documentation(case, rng):
    DIFFERENCES[case](rng)


def test_all_differences_are_documented():
    assert [*DIFFERENCES] == differences("equinox")


def test_evaluation_agrees_once_the_start_is_forgotten(rng):
    x = rng.normal(3, 2, (8, C)).astype("float32")
    found = []
    for layer_class in LAYERS:
        layer, state, _ = after(layer_class, "batch", [x] * 30, momentum=0.5)
        found.append(batched(layer, state, x, inference=True)[0])
    assert_alike(*found)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("written, read", [LAYERS[::-1], LAYERS], ids=["theirs", "ours"])
def test_a_checkpoint_is_read_by_the_other_layer(written, read, mode, rng, tmp_path):
    x = rng.normal(size=(6, C)).astype("float32")
    layer, state, _ = after(written, mode, [x, 2 * x], momentum=0.5)
    eqx.tree_serialise_leaves(tmp_path / "layer.eqx", (layer, state))
    other = layer_and_state(read, mode, momentum=0.5)
    other, other_state = eqx.tree_deserialise_leaves(tmp_path / "layer.eqx", other)
    assert_alike(leaves((other, other_state)), leaves((layer, state)), 0)
    y, state = batched(layer, state, 3 * x)
    other_y, other_state = batched(other, other_state, 3 * x)
    assert_alike((other_y, leaves(other_state)), (y, leaves(state)))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_an_ensemble_means_the_same(mode, rng):
    x = rng.normal(2, 3, (8, 2)).astype("float32")
    found = []
    for layer_class in LAYERS:

        def make(key, layer_class=layer_class):
            keys = jax.random.split(key)
            net = eqx.nn.make_with_state(eqx.nn.Sequential)
            return net(
                [
                    eqx.nn.Linear(2, C, key=keys[0], dtype="float32"),
                    layer_class(C, "batch", mode=mode, dtype="float32"),
                    eqx.nn.Linear(C, 1, key=keys[1], dtype="float32"),
                ]
            )

        models, states = eqx.filter_vmap(make)(jax.random.split(jax.random.key(0), 4))

        def one(model, state):
            def cost(model):
                y, new = batched(model, state, x)
                return jnp.sum(jnp.sin(y)), (y, new)

            return eqx.filter_value_and_grad(cost, has_aux=True)(model)

        (_, (y, states)), grads = eqx.filter_jit(eqx.filter_vmap(one))(models, states)
        found.append((y, leaves(states), leaves(grads)))
    assert_alike(*found, 4 * np.finfo("float32").eps)


@pytest.mark.parametrize("mode", MODES)
def test_two_batch_axes_are_one_batch(mode, rng):
    x = rng.normal(2, 3, (4, 2, C)).astype("float32")
    layer, state = layer_and_state(ours.BatchNorm, mode, axis_name=("outer", "inner"))
    inner = jax.vmap(layer, (0, None), (0, None), axis_name="inner")
    y, spread = jax.vmap(inner, (0, None), (0, None), axis_name="outer")(x, state)
    one, state = layer_and_state(ours.BatchNorm, mode)
    wanted, whole = batched(one, state, x.reshape(8, C))
    assert_alike((y.reshape(8, C), leaves(spread)), (wanted, leaves(whole)))


def test_a_vmap_without_the_name_is_refused_as_in_equinox(rng):
    x = rng.normal(size=(4, C)).astype("float32")
    for layer_class in LAYERS:
        layer, state = layer_and_state(layer_class, "batch")
        with pytest.raises(NameError, match="batch"):
            jax.vmap(layer, (0, None), (0, None))(x, state)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_differentiation_means_the_same(mode, rng):
    x = rng.normal(2, 3, (4, 2))
    found = []
    for layer_class in LAYERS:
        layer, state = eqx.nn.make_with_state(layer_class)(2, "batch", mode=mode)
        _, state = batched(layer, state, 2 * x)  # in mode "ema" the first batch is special

        def y(x, layer=layer, state=state):
            return batched(layer, jax.tree.map(lambda a: a, state), x)[0]

        def cost(x, y=y):
            return jnp.sum(jnp.sin(y(x)))

        modes = jax.jacfwd(y), jax.jacrev(y), jax.hessian(cost), jax.jacfwd(jax.jacfwd(cost))
        found.append(quick_jit(lambda x, modes=modes: [mode(x) for mode in modes])(x))
    assert_alike(*found, 1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_remat_and_scan_mean_the_same(mode, rng):
    x = rng.normal(2, 3, (3, 8, C)).astype("float32")
    found = []
    for layer_class in LAYERS:
        layer, state = layer_and_state(layer_class, mode)

        def cost(x, layer=layer, state=state):
            @eqx.filter_checkpoint
            def step(state, x):
                y, state = batched(layer, state, x)
                return state, y

            last, y = jax.lax.scan(step, state, x)
            return jnp.sum(jnp.sin(y)), (y, leaves(last))

        found.append(quick_jit(jax.grad(cost, has_aux=True))(x))
    assert_alike(*found, 4 * np.finfo("float32").eps)


@pytest.mark.parametrize("mode", MODES)
def test_weights_count_as_repetitions(mode, rng):
    x = rng.normal(2, 3, (4, C)).astype("float32")
    repeats = np.array([2, 0, 1, 3])
    layer, state = layer_and_state(ours.BatchNorm, mode)

    def one(x, state, weight):
        return layer(x, state, where=weight)

    weigh = jax.vmap(one, (0, None, 0), (0, None), axis_name="batch")
    y, new = weigh(x, state, repeats.astype("float32"))
    long = np.repeat(x, repeats, 0)
    layer, state = layer_and_state(ours.BatchNorm, mode)
    wanted, wanted_state = batched(layer, state, long)
    assert_alike((y[np.repeat(range(4), repeats)], leaves(new)), (wanted, leaves(wanted_state)))
    # what has no weight is normalized with the moments of the others
    total = long.var(0) + layer.eps
    np.testing.assert_allclose(y[1], (x[1] - long.mean(0)) / total**0.5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_channel_without_variance_has_finite_gradients(mode, rng):
    x = rng.normal(size=(4, C)).astype("float32")
    x[:, 1] = 3.3
    layer, state = layer_and_state(ours.BatchNorm, mode, eps=0.0)
    y, pull_back = jax.vjp(lambda x: batched(layer, state, x)[0], x)
    assert np.isfinite(pull_back(x)[0]).all() and (y[:, 1] == 0).all()


def test_the_layer_stands_where_equinox_s_stood():
    layer = ours.BatchNorm(C, "batch", mode="batch")
    assert isinstance(layer, eqx.nn.BatchNorm)
    assert type(layer).__name__ == "BatchNorm"
    assert eqx.nn.inference_mode(layer).inference
    with pytest.warns(UserWarning, match="defaults to 'ema'"):
        assert ours.BatchNorm(C, "batch").mode == "ema"
    for layer_class in LAYERS:
        with pytest.raises(ValueError, match="Invalid mode, must be 'ema' or 'batch'"):
            layer_class(C, "batch", mode="bach")


@pytest.mark.slow
def test_the_digits_are_learned_alike():
    found = []
    for layer_class in LAYERS:
        found.append(first_costs(example("equinox_digits", BatchNorm=layer_class)))
    np.testing.assert_allclose(*found, rtol=0, atol=1e-4)
    assert found[0][-1] < found[0][0]


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(batch_norm).failed == doctest.testmod(inference).failed == 0


@pytest.mark.slow
def test_all_checks_pass_on_eight_devices():
    check_on_eight_devices("equinox_device_checks.py")


class Net(eqx.Module):
    """Two convolutions, the first with a bias, and a head."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    norms: list[ours.BatchNorm]
    head: eqx.nn.Linear

    def __init__(self, key, mode):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(1, 2, 2, key=keys[0])
        self.second = eqx.nn.Conv2d(2, C, 2, use_bias=False, key=keys[1])
        self.norms = [ours.BatchNorm(n, "batch", mode=mode, momentum=0.5) for n in (2, C)]
        self.head = eqx.nn.Linear(C, 2, key=keys[2])

    def __call__(self, x, state):
        x, state = self.norms[0](self.first(x), state)
        x, state = self.norms[1](self.second(jax.nn.relu(x)), state)
        return self.head(x.mean((1, 2))), state

    def pairs(self):
        return zip((self.first, self.second), self.norms, strict=True)


@pytest.fixture(params=MODES)
def net_and_batches(request, rng):
    """A network whose parameters and statistics are not the first ones."""
    net, state = eqx.nn.make_with_state(Net)(jax.random.key(0), request.param)
    for i, n in enumerate((2, C)):
        new = jnp.asarray(rng.uniform(0.5, 2, (2, n)))
        net = eqx.tree_at(lambda net, i=i: (net.norms[i].weight, net.norms[i].bias), net, [*new])
    batches = [rng.normal(2, 3, (size, 1, 4, 4)) for size in (6, 4)]
    _, state = batched(net, state, batches[0])
    return net, state, batches


def test_measured_statistics_are_those_of_all_samples(net_and_batches):
    net, state, batches = net_and_batches
    measured = ours.measure_statistics(net, state, batches)
    x = jax.vmap(net.first)(np.concatenate(batches))
    mean, var = net.norms[0].running_statistics(measured)
    np.testing.assert_allclose(mean, x.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(var, x.var((0, 2, 3)), rtol=1e-12)
    assert_alike(leaves(ours.measure_statistics(net, measured, batches)), leaves(measured), 0)
    y, _ = batched(eqx.nn.inference_mode(net), measured, batches[1])
    assert np.isfinite(y).all()
    batched(net, state, batches[0])  # it is not used up


def test_equinox_reads_measured_statistics(rng, tmp_path):
    x = rng.normal(2, 3, (6, C)).astype("float32")
    for mode in MODES:
        layer, state, _ = after(ours.BatchNorm, mode, [2 * x])
        state = ours.measure_statistics(layer, state, [x])
        eqx.tree_serialise_leaves(tmp_path / "layer.eqx", (layer, state))
        theirs = layer_and_state(eqx.nn.BatchNorm, mode)
        theirs = eqx.tree_deserialise_leaves(tmp_path / "layer.eqx", theirs)
        y, _ = batched(*theirs, x, inference=True)
        np.testing.assert_allclose(y, reference.batch_norm(x)[0], atol=2e-6)


def test_a_folded_model_predicts_the_same(net_and_batches):
    net, state, batches = net_and_batches
    folded = ours.fold(net, state, Net.pairs, batches[0])
    wanted, state = batched(eqx.nn.inference_mode(net), state, batches[1])
    y, _ = batched(folded, state, batches[1])
    np.testing.assert_allclose(y, wanted, rtol=1e-12, atol=1e-12)
    assert not any(isinstance(norm, eqx.nn.BatchNorm) for norm in folded.norms)


def test_a_pair_that_does_not_belong_together_is_refused(net_and_batches):
    net, state, batches = net_and_batches
    with pytest.raises(ValueError, match="must predict what `model` does"):
        ours.fold(net, state, lambda net: [(net.head, net.norms[0])], batches[0])


def test_without_a_batch_or_a_layer_nothing_is_measured(net_and_batches):
    net, state, _ = net_and_batches
    with pytest.raises(ValueError, match="normalization at '.norms\\[0\\]' must see a batch"):
        ours.measure_statistics(net, state, [])
    with pytest.raises(ValueError, match="`model` must hold a BatchNorm of bnjax"):
        ours.measure_statistics(net.head, state, [])
