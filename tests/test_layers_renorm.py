"""bnjax.layers' BatchRenorm, of linen and of nnx: the paper's formula, under sbx's names."""

import doctest
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit
from examples_of import example

pytestmark = pytest.mark.peers
linen = pytest.importorskip("flax.linen", reason="pip install '.[flax]'")
from flax import nnx, serialization  # noqa: E402

import bnjax.layers.linen as of_linen  # noqa: E402
import bnjax.layers.nnx as of_nnx  # noqa: E402
from bnjax.renormalization import relaxed_bounds  # noqa: E402

C = 3
SCALE, BIAS = np.array([0.5, -2.0, 1.5]), np.array([0.3, 0.1, -0.2])
OPTIONS = {"momentum": 0.8, "warm_up_steps": 2}


def train_linen(batches, mask=None, **options):
    """y of each step, and the statistics after the last."""
    layer = of_linen.BatchRenorm(use_running_average=False, **options)
    stats = layer.init(jax.random.key(0), batches[0])["batch_stats"]
    params = {"scale": jnp.asarray(SCALE, jnp.float32), "bias": jnp.asarray(BIAS, jnp.float32)}

    def step(stats, x):
        variables = {"params": params, "batch_stats": stats}
        y, new = layer.apply(variables, x, mask=mask, mutable=["batch_stats"])
        return new["batch_stats"], y

    stats, ys = quick_jit(lambda *args: jax.lax.scan(step, *args))(stats, batches)
    return ys, stats


def train_nnx(batches, mask=None, **options):
    layer = of_nnx.BatchRenorm(C, rngs=nnx.Rngs(0), **options)
    layer.scale[...], layer.bias[...] = (jnp.asarray(v, jnp.float32) for v in (SCALE, BIAS))
    ys = [layer(x, mask=mask) for x in batches]
    names = ("mean", "var", "r_max", "d_max", "steps")
    return jnp.stack(ys), {name: getattr(layer, name)[...] for name in names}


TRAIN = pytest.mark.parametrize("train", [train_linen, train_nnx])


def by_hand(batches, bounds, momentum=0.8, eps=1e-3):
    """The same in NumPy, with the bounds of each step."""
    mean, var, ys = np.zeros(C), np.ones(C), []
    for x, (r_max, d_max) in zip(np.asarray(batches, float), bounds, strict=True):
        options = {"r_max": r_max, "d_max": d_max, "eps": eps}
        ys.append(reference.renorm(x, mean, var, SCALE, BIAS, **options)[0])
        mean = momentum * mean + (1 - momentum) * x.mean(0)
        var = momentum * var + (1 - momentum) * x.var(0)
    return np.stack(ys), mean, var


def draw(rng, steps=6):
    return jnp.asarray(3 * rng.normal(size=(steps, 8, C)) + [4, -1, 0], jnp.float32)


@TRAIN
def test_it_warms_up_as_batch_norm_and_then_renormalizes(train, rng):
    batches = draw(rng)
    ys, stats = train(batches, **OPTIONS)
    wanted, mean, var = by_hand(batches, [(1, 0)] * 2 + [(3, 5)] * 4)
    for got, right in ((ys, wanted), (stats["mean"], mean), (stats["var"], var)):
        np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-5)
    assert (stats["steps"], stats["r_max"], stats["d_max"]) == (6, 3, 5)


@TRAIN
def test_the_bounds_may_be_relaxed_step_by_step(train, rng):
    batches = draw(rng)
    ys, _ = train(batches, **OPTIONS, r_max=2.0, d_max=1.0, r_max_steps=5, d_max_steps=4)
    bounds = [(1, 0), (1, 0), (1, 0), (4 / 3, 0.5), (5 / 3, 1), (2, 1)]
    np.testing.assert_allclose(ys, by_hand(batches, bounds)[0], rtol=1e-5, atol=1e-5)


def test_the_schedule_of_the_paper():
    found = [relaxed_bounds(k) for k in (0, 4_999, 5_000, 15_000, 25_000, 40_000, 10**6)]
    wanted = [(1, 0), (1, 0), (1, 0), (1 + 4 / 7, 2.5), (1 + 8 / 7, 5), (3, 5), (3, 5)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    at_once = {"r_max_steps": None, "d_max_steps": None}
    none = [relaxed_bounds(k, np.inf, np.inf, **at_once) for k in (4_999, 5_000)]
    assert np.array_equal(none, [(1, 0), (np.inf, np.inf)])


@TRAIN
def test_one_bad_batch_does_not_end_a_run(train, rng):
    batches = draw(rng).at[3, 0, 1].set(jnp.nan)
    ys, stats = train(batches, **OPTIONS)
    assert np.isfinite(stats["mean"]).all() and np.isfinite(stats["var"]).all()
    assert np.isfinite(ys[4:]).all() and np.isnan(ys[3, :, 1]).all()


@TRAIN
def test_a_mask_leaves_samples_out_of_moments_and_statistics(train, rng):
    batches = draw(rng)
    mask = np.arange(8)[:, None] < 5
    ys, stats = train(batches, mask=jnp.asarray(mask), **OPTIONS)
    wanted, mean, _ = by_hand(batches[:, :5], [(1, 0)] * 2 + [(3, 5)] * 4)
    np.testing.assert_allclose(ys[:, :5], wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-5)


def test_a_checkpoint_of_sbx_is_read(rng):
    """Its variables start as Python's integers, and are integers for good."""
    x = draw(rng, 1)[0]
    ones, zeros = np.ones(C, "float32"), np.zeros(C, "float32")
    stats = {"mean": zeros + 2, "var": 4 * ones, "r_max": 3, "d_max": 5, "steps": 100_001}
    stored = serialization.msgpack_serialize(
        {"batch_stats": stats, "params": {"scale": ones, "bias": zeros}}
    )
    layer = of_linen.BatchRenorm()
    start = layer.init(jax.random.key(0), x, use_running_average=False)
    assert {c: set(v) for c, v in start.items()} == {
        "batch_stats": set(stats),
        "params": {"scale", "bias"},
    }
    loaded = serialization.from_bytes(start, stored)
    options = {"use_running_average": False, "mutable": ["batch_stats"]}
    y, new = layer.apply(loaded, x, **options)
    wanted = reference.renorm(x, stats["mean"], stats["var"], eps=1e-3)[0]
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)
    assert new["batch_stats"]["steps"] == 100_002
    evaluated = layer.apply(loaded, x, use_running_average=True)
    np.testing.assert_allclose(evaluated, (x - 2.0) / np.sqrt(4.001), rtol=1e-5, atol=1e-6)


def test_it_takes_the_arguments_of_sbx():
    """As in sbx.common.jax_layers, with the same defaults."""
    theirs = {
        "use_running_average": None,
        "axis": -1,
        "momentum": 0.99,
        "epsilon": 0.001,
        "warm_up_steps": 100_000,
        "dtype": None,
        "param_dtype": jnp.float32,
        "use_bias": True,
        "use_scale": True,
        "axis_name": None,
        "axis_index_groups": None,
        "use_fast_variance": True,
    }
    layer = of_linen.BatchRenorm()
    assert {name: getattr(layer, name) for name in theirs} == theirs
    defaults = inspect.signature(of_nnx.BatchRenorm.__init__).parameters
    for name in ("momentum", "epsilon", "warm_up_steps"):
        assert defaults[name].default == theirs[name]


class Net(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        return of_linen.BatchRenorm(not train, warm_up_steps=0)(linen.Dense(C)(x))


def test_its_statistics_are_measured_and_folded(rng):
    batches = draw(rng)
    net = Net()
    variables = net.init(jax.random.key(0), batches[0], train=False)
    variables = of_linen.measure_statistics(net, variables, batches, train=False)
    stats = variables["batch_stats"]["BatchRenorm_0"]
    dense = variables["params"]["Dense_0"]["kernel"]
    every = np.asarray(batches, float).reshape(-1, C) @ np.asarray(dense, float)
    np.testing.assert_allclose(stats["mean"], every.mean(0), rtol=1e-5)
    assert stats["steps"] == 0
    folded = of_linen.fold(net, variables, batches[0], train=False)
    wanted = net.apply(variables, batches[0], train=False)
    np.testing.assert_allclose(net.apply(folded, batches[0], train=False), wanted, atol=1e-5)


def test_gradients_are_finite_where_one_pass_variances_are_0(rng):
    x = jnp.asarray(2 + 1e-4 * rng.normal(size=(256, 16)), jnp.float32)
    layer = of_linen.BatchRenorm(use_running_average=False, warm_up_steps=0)
    variables = layer.init(jax.random.key(0), x)

    y, pull_back = jax.vjp(lambda x: layer.apply(variables, x, mutable=["batch_stats"])[0], x)
    y_bar = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    wanted, (x_bar, *_), *_ = reference.renorm(x, np.zeros(16), np.ones(16), y_bar=y_bar, eps=1e-3)
    assert reference.relative(y, wanted) < 1e-6
    assert reference.relative(pull_back(y_bar)[0], x_bar) < 1e-6


def test_complex_numbers_are_refused():
    x = jnp.ones((4, C), jnp.complex64)
    with pytest.raises(TypeError, match="must be real"):
        of_linen.BatchRenorm(use_running_average=False).init(jax.random.key(0), x)
    with pytest.raises(TypeError, match="must be real"):
        of_nnx.BatchRenorm(C, rngs=nnx.Rngs(0))(x)


@pytest.mark.slow
def test_the_example_learns_to_swing_up():
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        before, *_, after = example("crossq").main(rounds=4)
    assert before < -1000 and after > -400


def test_the_examples_in_the_docstrings_run():
    with jax.enable_x64(False):
        for layer in (of_linen.BatchRenorm, of_nnx.BatchRenorm):
            module = inspect.getmodule(layer)
            assert doctest.testmod(module).failed == 0
