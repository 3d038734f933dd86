"""A PyTorch model's normalizations, filled into models of flax and Keras."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnjax.conversion import from_torch

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")


@pytest.fixture
def resnet18(torch):
    pytest.importorskip("flax", reason="flax is not installed: pip install '.[peers]'")
    return importlib.import_module("resnet18")


def filled_at_random(torch, module, rng):
    """Random γ, β and statistics in all normalizations; their names."""
    names = [n for n, m in module.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for name in names:
            layer = module.get_submodule(name)
            for tensor, low in (
                *((layer.weight, 0.5), (layer.bias, -0.5)),
                *((layer.running_mean, -0.5), (layer.running_var, 0.5)),
            ):
                tensor[:] = torch.tensor(rng.uniform(low, low + 1, tensor.shape))
    return names


@pytest.mark.parametrize("ours", [True, False])
def test_resnet18_in_flax_predicts_as_in_torch(ours, torch, resnet18, rng):
    layers = importlib.import_module("bnjax.layers.linen" if ours else "flax.linen")
    torch.manual_seed(0)
    theirs = resnet18.TorchResNet18(classes=10).eval()
    names = {name: resnet18.flax_path(name) for name in filled_at_random(torch, theirs, rng)}
    assert len(names) == 20
    model = resnet18.FlaxResNet18(layers.BatchNorm, classes=10)
    x = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    blank = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(model.init, jax.random.key(0), x),
    )
    variables = from_torch(theirs, into=blank, names=names)
    variables["params"] = resnet18.with_products(variables["params"], theirs)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(variables))
    with torch.no_grad():
        expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    with jax.numpy_rank_promotion("allow"):  # flax's own layers add vectors
        predicted = jax.jit(model.apply)(variables, x)
    assert expected.std() > 0.01
    np.testing.assert_allclose(predicted, expected, rtol=1e-5, atol=1e-5)


BUFFERS = {
    "norm.weight": np.array([1.0, 2.0], np.float32),
    "norm.bias": np.array([3.0, 4.0], np.float32),
    "norm.running_mean": np.array([5.0, 6.0], np.float32),
    "norm.running_var": np.array([7.0, 8.0], np.float32),
    "norm.num_batches_tracked": np.array(9),
}


def test_a_state_of_nnx_is_filled():
    nnx = pytest.importorskip("flax.nnx", reason="pip install '.[peers]'")
    model = nnx.Dict(
        bn=nnx.BatchNorm(2, rngs=nnx.Rngs(0)), other=nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    )
    kernel = model.other.kernel[...]
    nnx.update(model, from_torch(BUFFERS, into=nnx.state(model), names={"norm": "bn"}))
    found = model.bn.scale, model.bn.bias, model.bn.mean, model.bn.var
    np.testing.assert_array_equal([v[...] for v in found], np.arange(1, 9).reshape(4, 2))
    np.testing.assert_array_equal(model.other.kernel[...], kernel)


def test_variables_of_keras_are_filled(keras_on_jax):
    keras = pytest.importorskip("keras", reason="pip install '.[peers]'")
    layer = keras.layers.BatchNormalization(name="bn")
    layer.build((None, 2))
    values = {v.path: v.value for v in layer.variables}
    filled = from_torch(BUFFERS, into=values, names={"norm": "bn"})
    found = [filled[v.path] for v in layer.variables]
    np.testing.assert_array_equal(found, np.arange(1, 9).reshape(4, 2))


def variables(**changes):
    leaves = {key: jnp.zeros(2) for key in ("scale", "bias", "mean", "var")}
    return {"bn": {k: v for k, v in (leaves | changes).items() if v is not None}, "x": {"bias": 1}}


NAMES = {"norm": "bn"}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: from_torch([1.0], into={}, names=NAMES), TypeError, "got list and dict"),
        (lambda: from_torch(BUFFERS, into=variables(), names={}), ValueError, "'norm' is missing"),
        (
            lambda: from_torch(BUFFERS, into=variables(), names=NAMES | {"nrom": "x"}),
            ValueError,
            "`names` must be one of norm; got 'nrom'; did you mean 'norm'",
        ),
        (
            lambda: from_torch(BUFFERS, into=variables(), names={"norm": "b"}),
            ValueError,
            "`into` has no place for `running_mean` of the layer 'b'",
        ),
        (
            lambda: from_torch(BUFFERS, into=variables(bias=None), names=NAMES),
            ValueError,
            "`into` has no place for `bias`",
        ),
        (
            lambda: from_torch(
                {k: v for k, v in BUFFERS.items() if "weight" not in k},
                **{"into": variables(), "names": NAMES},
            ),
            ValueError,
            "the `weight` of .bn. in `into` has no counterpart in PyTorch's layer",
        ),
        (
            lambda: from_torch(BUFFERS, into=variables(mean=jnp.zeros(3)), names=NAMES),
            ValueError,
            r"`running_mean` of 'bn' must have shape \(3,\), as in `into`; got \(2,\)",
        ),
        (
            lambda: from_torch(
                BUFFERS | {f"b.{k[5:]}": v for k, v in BUFFERS.items()},
                **{"into": variables(), "names": NAMES | {"b": "bn"}},
            ),
            ValueError,
            "`names` must map layers to different paths",
        ),
        (
            lambda: from_torch(
                BUFFERS | {"norm.running_var": np.array([-1.0, 1.0])},
                **{"into": variables(), "names": NAMES},
            ),
            ValueError,
            "`norm.running_var` must be >= 0.*got -1.0",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
