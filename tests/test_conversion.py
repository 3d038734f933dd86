"""Statistics and options of other libraries: theirs and ours evaluate, and go on, alike."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnjax import Moments, Network, conversion, normalize, population
from bnjax.conversion import Options, options_from, options_to

pytestmark = pytest.mark.usefixtures("keras_on_jax")
rng = np.random.default_rng(0)
C = 3
GAMMA, BETA = np.array([0.5, 1.0, -2.0]), np.array([0.1, -0.2, 3.0])
OPTIONS = Options(decay=0.75, eps=0.1)
# in all libraries' terms the same layer: images, channels last, of unlike batches
IMAGES = [
    rng.normal(size=(4, 2, 1, C)) * (1 + k) + np.array([3.0, -20.0, 0.1]) * k for k in range(5)
]
COUNT = 8
PROBE = rng.normal(size=(1, 2, 1, C)) * 5
MANY = 10**6  # d^k = 0: a batch weighs 1 − d
STATE = conversion.from_flax(np.array([1.0, -2.0, 3.0]), np.array([4.0, 0.5, 9.0]), batches=7)


class Torch:
    """One layer of PyTorch; the others below have the same methods."""

    library = "torch"
    unequal = True  # batches: it corrects each one's variance by its own count
    debiased = False
    tolerance = 1e-12

    def __init__(self, settings):
        self.torch = pytest.importorskip("torch", reason="pip install '.[peers]'")
        self.layer = self.torch.nn.BatchNorm2d(C, **settings, dtype=self.torch.float64)
        with self.torch.no_grad():
            self.layer.weight[:] = self.torch.tensor(GAMMA)
            self.layer.bias[:] = self.torch.tensor(BETA)

    @property
    def settings(self):
        return vars(self.layer)

    def _run(self, x):
        y = self.layer(self.torch.tensor(np.moveaxis(x, -1, 1)))
        return np.moveaxis(y.detach().numpy(), 1, -1)

    def train(self, x):
        self.layer.train()
        self._run(x)

    def evaluate(self, x):
        self.layer.eval()
        return self._run(x)

    def read(self, batches=None, count=None):
        buffers = dict(self.layer.named_buffers())
        if batches is not None:
            buffers["num_batches_tracked"] = batches
        return conversion.from_torch(**buffers)

    def load(self, state, count=None):
        buffers = conversion.to_torch(state)
        tensors = {name: self.torch.tensor(np.asarray(b)) for name, b in buffers.items()}
        self.layer.load_state_dict(self.layer.state_dict() | tensors)


def initializers():
    return {
        "scale_init": lambda *_: jnp.asarray(GAMMA),
        "bias_init": lambda *_: jnp.asarray(BETA),
    }


class Linen:
    library, unequal, debiased, tolerance = "flax", False, False, 1e-12

    def __init__(self, settings):
        linen = pytest.importorskip("flax.linen", reason="pip install '.[peers]'")
        self.layer = linen.BatchNorm(**settings, **initializers())
        self.variables = self.layer.init(jax.random.key(0), PROBE, use_running_average=True)

    @property
    def settings(self):
        return vars(self.layer)

    def train(self, x):
        _, new = self.layer.apply(
            self.variables, x, use_running_average=False, mutable=["batch_stats"]
        )
        self.variables |= new

    def evaluate(self, x):
        return self.layer.apply(self.variables, x, use_running_average=True)

    def read(self, batches, count=None):
        return conversion.from_flax(**self.variables["batch_stats"], batches=batches, count=count)

    def load(self, state, count=None):
        self.variables |= {"batch_stats": conversion.to_flax(state, count=count)}


class Nnx:
    library, unequal, debiased, tolerance = "flax", False, False, 1e-12

    def __init__(self, settings):
        self.nnx = pytest.importorskip("flax.nnx", reason="pip install '.[peers]'")
        self.layer = self.nnx.BatchNorm(C, **settings, **initializers(), rngs=self.nnx.Rngs(0))
        # it starts them in float32, whatever comes
        self.layer.mean = self.nnx.BatchStat(jnp.zeros(C, jnp.float64))
        self.layer.var = self.nnx.BatchStat(jnp.ones(C, jnp.float64))

    @property
    def settings(self):
        return vars(self.layer)

    def train(self, x):
        self.layer(x, use_running_average=False)

    def evaluate(self, x):
        return self.layer(x, use_running_average=True)

    def read(self, batches, count=None):
        mean, var = self.layer.mean, self.layer.var
        return conversion.from_flax(mean[...], var[...], batches=batches, count=count)

    def load(self, state, count=None):
        stats = conversion.to_flax(state, count=count)
        self.layer.mean = self.nnx.BatchStat(stats["mean"])
        self.layer.var = self.nnx.BatchStat(stats["var"])


class Keras:
    library, unequal, debiased = "keras", False, False
    tolerance = 1e-5  # on JAX it computes in float32, whatever its dtype, and forms x r − μ r

    def __init__(self, settings):
        keras = pytest.importorskip("keras", reason="pip install '.[peers]'")
        self.layer = keras.layers.BatchNormalization(**settings, dtype="float64")
        self.layer.build(PROBE.shape)
        self.layer.gamma.assign(GAMMA)
        self.layer.beta.assign(BETA)

    @property
    def settings(self):
        return self.layer.get_config()

    def train(self, x):
        self.layer(x, training=True)

    def evaluate(self, x):
        return self.layer(x, training=False)

    def read(self, batches, count=None):
        mean, var = self.layer.moving_mean.value, self.layer.moving_variance.value
        return conversion.from_keras(mean, var, batches=batches, count=count)

    def load(self, state, count=None):
        stats = conversion.to_keras(state, count=count)
        self.layer.moving_mean.assign(stats["moving_mean"])
        self.layer.moving_variance.assign(stats["moving_variance"])


class Haiku:
    library, unequal, debiased, tolerance = "haiku", False, True, 1e-12

    def __init__(self, settings):
        hk = pytest.importorskip("haiku", reason="pip install '.[peers]'")
        init, self.apply = hk.without_apply_rng(
            hk.transform_with_state(
                lambda x, training: hk.BatchNorm(True, True, **settings)(x, training)
            )
        )
        self.settings = settings
        _, self.state = init(None, PROBE, training=True)
        shape = (1, 1, 1, C)
        self.params = {"batch_norm": {"scale": GAMMA.reshape(shape), "offset": BETA.reshape(shape)}}

    def train(self, x):
        _, self.state = self.apply(self.params, self.state, x, training=True)

    def evaluate(self, x):
        return self.apply(self.params, self.state, x, training=False)[0]

    def emas(self):
        return {name: self.state[f"batch_norm/~/{name}"] for name in ("mean_ema", "var_ema")}

    def read(self, batches=None, count=None):
        return conversion.from_haiku(**self.emas(), count=count)

    def load(self, state, count=None):
        decay = self.settings["decay_rate"]
        emas = conversion.to_haiku(state, decay=decay, count=count, shape=(1, 1, 1, C))
        self.state = {f"batch_norm/~/{name}": ema for name, ema in emas.items()}


CASES = {
    "torch": (Torch, OPTIONS),
    "torch, cumulative": (Torch, OPTIONS._replace(decay=None)),
    "linen": (Linen, OPTIONS),
    "nnx": (Nnx, OPTIONS),
    "keras": (Keras, OPTIONS),
    "haiku": (Haiku, OPTIONS),
}


@pytest.fixture(params=CASES)
def case(request):
    peer, options = CASES[request.param]
    return partial(peer, options_to(peer.library, options)), options, peer


def batches(peer):
    return [x[: 4 - k % 2] if peer.unequal else x for k, x in enumerate(IMAGES)]


def trained(new, data):
    layer = new()
    for x in data:
        layer.train(x)
    return layer


def moments(x):
    samples = x.reshape(-1, C)
    n = np.full(C, float(len(samples)))
    return Moments(*map(jnp.asarray, (samples.mean(0), samples.var(0), n)))


def evaluate(state, eps, x=PROBE):
    return normalize(x, *population.statistics(state), GAMMA, BETA, eps=eps)


def same(got, wanted, tolerance=1e-12):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


peers = pytest.mark.peers


@peers
def test_what_is_imported_evaluates_as_there(case):
    new, _, peer = case
    layer = trained(new, batches(peer))
    options = options_from(peer.library, layer.settings)
    state = layer.read(batches=len(IMAGES))
    assert state.batches.tolist() == [len(IMAGES)] * C
    same(evaluate(state, options.eps), layer.evaluate(PROBE), peer.tolerance)


@peers
def test_what_is_exported_evaluates_there_as_before(case):
    new, _, peer = case
    layer, fresh = trained(new, batches(peer)), new()
    fresh.load(layer.read(batches=len(IMAGES)))
    same(fresh.evaluate(PROBE), layer.evaluate(PROBE), peer.tolerance)


@peers
def test_what_was_gathered_here_evaluates_there_as_here(case):
    new, options, peer = case
    state = population.init(C, jnp.float64)
    for x in batches(peer):
        state = population.update(state, moments(x), decay=options.decay)
    layer = new()
    layer.load(state)
    same(layer.evaluate(PROBE), evaluate(state, options.eps), peer.tolerance)


@peers
def test_one_more_batch_here_is_one_more_batch_there(case):
    new, options, peer = case
    *before, last = batches(peer)
    layer, back = trained(new, before), new()
    # cumulative and zero-debiased averages go on from their k, the others from a k so large
    k = None if options.decay is None or peer.debiased else MANY
    state = layer.read(batches=k, count=COUNT)
    back.load(population.update(state, moments(last), decay=options.decay), count=COUNT)
    layer.train(last)
    same(back.evaluate(PROBE), layer.evaluate(PROBE), peer.tolerance)
    # and so it stays, there too
    for each in (layer, back):
        each.train(IMAGES[0])
    same(back.evaluate(PROBE), layer.evaluate(PROBE), peer.tolerance)


@peers
def test_the_options_come_back(case):
    new, options, peer = case
    assert options_from(peer.library, new().settings) == options


@peers
@pytest.mark.parametrize(
    "peer, defaults",
    [
        (Torch, Options(0.9, 1e-5)),
        (Linen, Options(0.99, 1e-5)),
        (Nnx, Options(0.99, 1e-5)),
        (Keras, Options(0.99, 1e-3)),
    ],
)
def test_the_defaults_are_those_of_the_table(peer, defaults):
    assert options_from(peer.library, peer({}).settings) == defaults


@peers
def test_from_a_small_k_a_batch_weighs_more_here_than_in_torch():
    new = partial(Torch, options_to("torch", OPTIONS))
    layer = trained(new, IMAGES[:2])
    state, k, d = layer.read(), 3, OPTIONS.decay
    here = population.update(state, moments(IMAGES[2]), decay=d)
    layer.train(IMAGES[2])
    step = moments(IMAGES[2]).mean - state.mean
    more = (1 - d) / (1 - d**k) - (1 - d)  # P.7
    same(here.mean - layer.read().mean, more * step)


@peers
def test_torch_goes_on_without_moving_what_was_imported():
    torch = pytest.importorskip("torch", reason="pip install '.[peers]'")
    mean, var = torch.zeros(1024), torch.ones(1024)
    shared = [jnp.from_dlpack(buffer) for buffer in (mean, var)]
    state = conversion.from_torch(*shared, 3)
    for buffer in (mean, var):
        buffer.add_(1)
    assert shared[0][0] == 1  # the test's premise
    assert not np.any(state.mean) and np.all(state.var == 1)


@peers
def test_haikus_hidden_average_is_rebuilt():
    layer = trained(partial(Haiku, options_to("haiku", OPTIONS)), IMAGES)
    wanted, fresh = layer.emas(), Haiku(layer.settings)
    fresh.load(layer.read(count=COUNT), count=COUNT)
    for name, ema in fresh.emas().items():
        for part in ("hidden", "average", "counter"):
            assert ema[part].shape == wanted[name][part].shape
            same(ema[part], wanted[name][part])


@peers
def test_the_unbiased_variance_of_the_others_is_that_of_torch():
    # P.2 for the same batches, once the start is forgotten
    torch = trained(partial(Torch, {"momentum": 1.0, "eps": 0.1}), IMAGES[:1]).read()
    for peer in (Linen, Nnx, Keras, Haiku):
        layer = trained(partial(peer, options_to(peer.library, Options(0.0, 0.1))), IMAGES[:1])
        state = layer.read(batches=1, count=COUNT)
        same(state.mean, torch.mean, peer.tolerance)
        same(state.var, torch.var, peer.tolerance)
    same(torch.var, IMAGES[0].reshape(-1, C).var(0, ddof=1))


def test_conversions_run_in_jit_and_undo_each_other():
    @jax.jit
    def around(state, count):
        state = conversion.from_torch(**conversion.to_torch(state))
        emas = conversion.to_haiku(state, decay=0.9, count=count)
        state = conversion.from_haiku(**emas, count=count)
        stats = conversion.to_flax(state, count=count)
        state = conversion.from_flax(**stats, batches=state.batches)
        stats = conversion.to_keras(state)
        return conversion.from_keras(**stats, batches=state.batches)

    state = around(STATE, 4.0)
    # the one n that was not given twice: biased it stays
    for got, wanted, factor in zip(state, STATE, (1, 3 / 4, 1, 1, 1, 1), strict=True):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        same(got, wanted * factor)


def test_an_unseen_state_stays_unseen():
    state = population.init(C)
    emas = conversion.to_haiku(state, decay=0.9)
    for back in (
        conversion.from_torch(**conversion.to_torch(state)),
        conversion.from_haiku(**emas),
    ):
        for got, wanted in zip(back, state, strict=True):
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)
    assert not emas["var_ema"]["hidden"].any()


def test_half_precision_statistics_come_in_as_single():
    half = jnp.array([1.5, -2.0], jnp.bfloat16)
    state = conversion.from_flax(half, half**2, batches=3)
    assert state.mean.dtype == state.var.dtype == state.remainder.dtype == jnp.float32
    assert state.batches.dtype == state.skipped.dtype == jnp.int32


def test_a_library_with_one_k_gets_the_largest():
    state = STATE._replace(batches=jnp.array([5, 7, 6]))
    assert conversion.to_torch(state)["num_batches_tracked"] == 7
    mean_ema = conversion.to_haiku(state, decay=0.5)["mean_ema"]
    assert mean_ema["counter"] == 7
    same(mean_ema["hidden"][0], state.mean * (1 - 0.5**7))


def test_what_comes_out_can_be_donated_and_what_went_in_stays():
    emas = conversion.to_haiku(STATE, decay=0.9)
    k = jnp.full(C, 7, jnp.int32)
    stats = {"mean": STATE.mean, "var": STATE.var, "batches": k}
    imported = (stats, conversion.from_flax(**stats))
    for tree in (conversion.from_haiku(**emas), emas, imported):
        buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]
        assert len(set(buffers)) == len(buffers)


def test_a_network_takes_the_options():
    options = options_from("keras", {"momentum": 0.99, "epsilon": 1e-3, "axis": -1})
    net = Network((2, 2), **options._asdict())
    assert (net.decay, net.eps) == (0.99, 1e-3)


def test_torchs_cumulative_average_is_decay_none_and_no_other_library_has_one():
    settings = {"momentum": None, "eps": 1e-5}
    assert options_from("torch", settings).decay is None
    assert options_to("torch", Options(None, 1e-5)) == settings
    for library in ("flax", "keras", "haiku"):
        with pytest.raises(ValueError, match=f"options_to: `decay` must be a number for {library}"):
            options_to(library, Options(None, 1e-5))


ONE, EMA = np.ones(2), {"average": np.ones((1, 2)), "counter": 3}


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: conversion.from_torch(None, None, None), TypeError, "`running_mean`.*got None"),
        (lambda: conversion.from_torch(ONE, ONE, None), TypeError, "`num_batches_tracked`.*None"),
        (lambda: conversion.from_torch(ONE, ONE, 2.0), TypeError, "must be an integer; got float"),
        (lambda: conversion.from_torch(ONE, ONE, -1), ValueError, "_tracked` must be >= 0; got -1"),
        (
            lambda: conversion.from_torch(ONE, np.ones(3), 1),
            ValueError,
            r"from_torch: `running_var` must have shape \(2,\).*`running_mean`; got \(3,\)",
        ),
        (
            lambda: conversion.from_torch(ONE, np.array([1.0, -0.5]), 1),
            ValueError,
            "`running_var` must be >= 0.*got -0.5",
        ),
        (
            lambda: conversion.from_keras(np.array([1.0, np.nan]), ONE, batches=1),
            ValueError,
            "from_keras: `moving_mean` must be finite.*got nan",
        ),
        (
            lambda: conversion.from_flax(np.ones((1, 2)), np.ones((1, 2)), batches=1),
            ValueError,
            r"from_flax: `mean` must have shape \(n,\); got \(1, 2\)",
        ),
        (
            lambda: conversion.from_flax(np.arange(2), ONE, batches=1),
            TypeError,
            "`mean` must be floating",
        ),
        (
            lambda: conversion.from_flax(ONE, ONE, batches=np.ones(3, int)),
            ValueError,
            r"`batches` must be one number or have shape \(2,\); got \(3,\)",
        ),
        (
            lambda: conversion.from_flax(ONE, ONE, batches=1, count=1),
            ValueError,
            "`count` must be > 1.*got 1.0",
        ),
        (
            lambda: conversion.to_keras(STATE, count=np.ones(2)),
            ValueError,
            r"to_keras: `count` must be a number or have shape \(3,\); got \(2,\)",
        ),
        (
            lambda: conversion.from_haiku(EMA, {"counter": 3}),
            ValueError,
            "`var_ema` must have 'average' and 'counter'; got 'counter'",
        ),
        (
            lambda: conversion.from_haiku(EMA, EMA | {"counter": 4}),
            ValueError,
            "`counter` must be the same.*got 3 and 4",
        ),
        (
            lambda: conversion.from_haiku(EMA | {"average": np.ones((2, 2))}, EMA),
            ValueError,
            r"`average` of `mean_ema` must have one feature axis.*got shape \(2, 2\)",
        ),
        (
            lambda: conversion.to_haiku(STATE, decay=0.9, shape=(1, 4)),
            ValueError,
            r"`shape` must hold the state's 3 channels.*got \(1, 4\)",
        ),
        (
            lambda: conversion.to_haiku(STATE, decay=1.0),
            ValueError,
            r"to_haiku: `decay`.*\[0, 1\); got 1.0",
        ),
        (
            lambda: options_from("troch", {}),
            ValueError,
            "options_from: `library` must be one of flax, haiku.*did you mean 'torch'",
        ),
        (
            lambda: options_from("keras", {"momentum": 0.9, "eps": 1e-3}),
            ValueError,
            "`settings` must have 'momentum' and 'epsilon'; got 'momentum', 'eps'",
        ),
        (
            lambda: options_from("torch", {"momentum": 1.5, "eps": 1e-5}),
            ValueError,
            r"`momentum` of torch.*the new value.*\(0, 1\]; got 1.5",
        ),
        (
            lambda: options_from("haiku", {"decay_rate": 1.0, "eps": 1e-5}),
            ValueError,
            r"`decay_rate` of haiku.*the old value.*\[0, 1\); got 1.0",
        ),
        (
            lambda: options_from("flax", {"momentum": None, "epsilon": 1e-5}),
            ValueError,
            "`momentum` of flax.*got None",
        ),
        (lambda: options_to("flax", Options(0.9, -1.0)), ValueError, "`eps`.*got -1.0"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
