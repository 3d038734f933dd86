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
from examples_of import example, first_costs
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
    "integers and their parameters": Case({}, dtype="int32"),
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


def initializers(options, dtype):
    """Random parameters, where the case does not say otherwise and the layer has them."""
    random = (
        hk.initializers.RandomUniform(0.5, 2.0)
        if "float" in str(dtype)
        else hk.initializers.Constant(2)
    )
    names = [name for name in ("scale", "offset") if options.get(f"create_{name}", True)]
    return {f"{name}_init": random for name in names}


def module(layer, dtype, **options):
    """The transformed layer: options, x and whether it trains to y."""
    arguments = {"create_scale": True, "create_offset": True, "decay_rate": 0.9}
    arguments |= initializers(options, dtype) | options
    return hk.transform_with_state(lambda *args, **more: layer(**arguments)(*args, **more))


def trained(layer, case, x, y_bar, passed):
    """What is initialized, and two steps, their gradients, local statistics and evaluation."""
    f = module(layer, case.dtype, **case.options)
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)

    def cost(params, passed, x, state):
        y, state = f.apply(params, state, None, x, True, **passed)
        return jnp.sum(jnp.real(y) * y_bar), (y, state)

    def run(key):
        params, state = f.init(key, x, True, **passed)
        grads, (y, new) = jax.grad(cost, (0, 1, 2) if inexact else 1, has_aux=True)(
            params, passed, x, state
        )
        local, new = f.apply(params, new, None, 3 * x, True, True, **passed)
        evaluated = f.apply(params, new, None, x, False, **passed)[0] if inexact else None
        return params, state, y, grads, new, local, evaluated

    return quick_jit(run)(jax.random.key(0))


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
    kinds = [jax.tree.map(lambda a: (a.dtype, a.shape), tree) for tree in (got, wanted)]
    assert kinds[0] == kinds[1]


def averages(state):
    """The running statistics that a state evaluates with."""
    return [state[f"batch_norm/~/{name}"]["average"] for name in ("mean_ema", "var_ema")]


def steps(layer, batches, **options):
    """(y of the last batch, the state after all, y of the last batch in evaluation)."""
    f = module(layer, "float32", **FREE | options)
    params, state = f.init(None, batches[0], True)
    for x in batches:
        y, state = f.apply(params, state, None, x, True)
    return y, state, f.apply(params, state, None, batches[-1], False)[0]


def large_means(rng):
    x = rng.normal(1e4, 1, (64, C)).astype("float32")
    wanted = reference.batch_norm(x)[0]
    (y, *_), (theirs, *_) = (steps(layer, [x]) for layer in (ours.BatchNorm, hk.BatchNorm))
    assert np.abs(y - wanted).max() < 2e-6
    assert not np.abs(theirs - wanted).max() < 1


def half_statistics(rng):
    x = rng.normal(3, 1, (4096, C))
    x = jnp.asarray(x, jnp.bfloat16)
    wanted = np.var(np.asarray(x, float), 0)
    found = [averages(steps(layer, [x])[1])[1] for layer in (ours.BatchNorm, hk.BatchNorm)]
    errors = [np.abs(np.asarray(var, float) - wanted).max() for var in found]
    assert errors[0] < 2**-8 < 0.02 < errors[1]


def half_decay(rng):
    x = jnp.asarray(rng.normal(3, 1, (64, C)), jnp.bfloat16)
    mine, theirs = (
        averages(steps(layer, [x], decay_rate=0.999)[1])[0]
        for layer in (ours.BatchNorm, hk.BatchNorm)
    )
    np.testing.assert_allclose(np.asarray(mine, float)[0], np.mean(x, 0, dtype=float), rtol=2**-8)
    assert np.isnan(np.asarray(theirs, float)).all()


def not_a_number(rng):
    x, again = rng.normal(size=(2, 8, C)).astype("float32")
    spoiled = again.copy()
    spoiled[2, 1] = np.nan
    _, state, y = steps(ours.BatchNorm, [x, spoiled, x])
    assert np.isnan(averages(steps(hk.BatchNorm, [x, spoiled, x])[1])[0][0]).tolist() == [0, 1, 0]
    # the spoiled channel has seen x twice, the others all three
    assert_alike([a[0, 1] for a in averages(state)], [f(x[:, 1]) for f in (np.mean, np.var)])
    wanted = averages(steps(ours.BatchNorm, [x, again, x])[1])
    assert_alike(*([a[0, ::2] for a in found] for found in (averages(state), wanted)))


def empty(rng):
    x = rng.normal(size=(8, C)).astype("float32")
    _, wanted, _ = steps(ours.BatchNorm, [x])
    _, state, _ = steps(ours.BatchNorm, [x[:0], x, x[:0]])
    assert_alike(state, wanted, 0)
    with np.errstate(invalid="ignore"):
        assert np.isnan(averages(steps(hk.BatchNorm, [x, x[:0]])[1])[0]).all()


def integers(rng):
    x = rng.integers(-9, 9, (8, C))
    y, _, evaluated = steps(ours.BatchNorm, [x])
    assert_alike(y, evaluated)
    with pytest.raises(TypeError, match="rsqrt does not accept dtype int"):
        steps(hk.BatchNorm, [x])


DIFFERENCES = {
    "mean of 1e4 standard deviations": large_means,
    "bfloat16, variance": half_statistics,
    "bfloat16, decay_rate 0.999": half_decay,
    "NaN in one channel": not_a_number,
    "an empty batch": empty,
    "integers in evaluation": integers,
}


@pytest.mark.parametrize("case", differences("haiku"))
def test_a_difference_of_the_documentation(case, rng):
    DIFFERENCES[case](rng)


def test_all_differences_are_documented():
    assert [*DIFFERENCES] == differences("haiku")


@pytest.mark.parametrize("written, read", [(hk, ours), (ours, hk)], ids=["theirs", "ours"])
def test_a_checkpoint_is_read_by_the_other_layer(written, read, rng):
    x = rng.normal(size=(6, C)).astype("float32")
    f, g = (module(m.BatchNorm, "float32") for m in (written, read))
    params, state = f.init(jax.random.key(0), x, True)
    for _ in range(3):
        _, state = f.apply(params, state, None, x, True)
    wanted = f.apply(params, state, None, x, True), f.apply(params, state, None, 2 * x, False)
    params, state = pickle.loads(pickle.dumps(jax.device_get((params, state))))
    got = g.apply(params, state, None, x, True), g.apply(params, state, None, 2 * x, False)
    assert_alike(got, wanted)


TRANSFORMS = {
    "remat": hk.remat,
    "vmap": lambda f: hk.vmap(f, in_axes=1, out_axes=1, axis_name="i", split_rng=False),
    "scan": lambda f: lambda x: hk.scan(lambda carry, _: (f(carry), ()), x, None, 2)[0],
    "fori_loop": lambda f: lambda x: hk.fori_loop(0, 2, lambda _, carry: f(carry), x),
    "layer_stack": lambda f: hk.experimental.layer_stack(2)(f),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_of_haiku_means_the_same(name, rng):
    x = rng.normal(2, 3, (8, 2, C)).astype("float32")
    found = []
    for layer in (ours.BatchNorm, hk.BatchNorm):
        options = {"cross_replica_axis": "i" if name == "vmap" else None}

        def net(x, layer=layer, options=options):
            norm = None if name == "layer_stack" else layer(True, True, 0.9, **options)
            return TRANSFORMS[name](lambda x: (norm or layer(True, True, 0.9))(x, True))(x)

        f = hk.transform_with_state(net)

        def run(x, f=f):
            params, state = f.init(jax.random.key(0), x)
            y, pull_back, new = jax.vjp(
                lambda params, x: f.apply(params, state, None, x), params, x, has_aux=True
            )
            return params, state, new, y, pull_back(jnp.sin(y))

        found.append(quick_jit(run)(x))
    assert_alike(*found, 4 * np.finfo("float32").eps)


def test_every_mode_of_differentiation_means_the_same(rng):
    x = rng.normal(2, 3, (5, 2))
    found = []
    for layer in (ours.BatchNorm, hk.BatchNorm):
        f = module(layer, "float64", scale_init=None, offset_init=None)
        params, state = f.init(None, x, True)

        def y(x, f=f, params=params, state=state):
            return f.apply(params, state, None, x, True)[0]

        def cost(x, y=y):
            return jnp.sum(jnp.sin(y(x)))

        modes = jax.jacfwd(y), jax.jacrev(y), jax.hessian(cost), jax.jacfwd(jax.jacfwd(cost))
        found.append(quick_jit(lambda x, modes=modes: [mode(x) for mode in modes])(x))
    assert_alike(*found, 1e-13)


def test_an_ensemble_by_vmap_has_statistics_of_its_own(rng):
    x = rng.normal(2, 3, (3, 8, C)).astype("float32")
    f = module(ours.BatchNorm, "float32")
    keys = jax.random.split(jax.random.key(0), 3)
    init = jax.vmap(lambda key, x: f.init(key, x, True))
    params, state = init(keys, x)
    got = jax.vmap(lambda *args: f.apply(*args, None, x[0], True))(params, state)
    for i in range(3):
        mine = jax.tree.map(lambda a, i=i: a[i], (params, state))
        one = f.apply(*mine, None, x[0], True)
        assert_alike(jax.tree.map(lambda a, i=i: a[i], got), one)


def test_a_batch_spread_over_a_vmap_is_one_batch(rng):
    x = rng.normal(2, 3, (4, 2, C)).astype("float32")
    spread = module(ours.BatchNorm, "float32", cross_replica_axis="i", **FREE)
    whole = module(ours.BatchNorm, "float32", **FREE)

    def run(x):
        params, state = spread.init(None, x, True)
        return spread.apply(params, state, None, x, True)

    y, state = jax.vmap(run, axis_name="i", out_axes=(0, None))(x)
    flat = x.reshape(8, C)
    wanted, wanted_state = whole.apply({}, whole.init(None, flat, True)[1], None, flat, True)
    assert_alike((y.reshape(8, C), state), (wanted, wanted_state))


def test_weights_count_as_repetitions(rng):
    x = rng.normal(2, 3, (4, C)).astype("float32")
    repeats = np.array([2, 0, 1, 3])
    f = module(ours.BatchNorm, "float32", **FREE)
    _, state = f.init(None, x, True)
    y, new = f.apply({}, state, None, x, True, where=repeats[:, None].astype("float32"))
    long = np.repeat(x, repeats, 0)
    wanted, wanted_state = f.apply({}, state, None, long, True)
    assert_alike(y[np.repeat(range(4), repeats)], wanted)
    assert_alike(new, wanted_state)
    # what has no weight is normalized with the moments of the others
    np.testing.assert_allclose(y[1], (x[1] - long.mean(0)) / long.std(0), rtol=1e-5)


def test_rule_is_the_core_s(rng):
    x = rng.normal(size=(8, C)).astype("float32")
    f = module(ours.BatchNorm, "float32", rule="vjp", **FREE)
    _, state = f.init(None, x, True)

    def y(x):
        return f.apply({}, state, None, x, True)[0]

    assert_alike(jax.vjp(y, x)[1](x)[0], reference.pull_back(x, x)[0].astype("float32"))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(y, (x,), (x,))
    with pytest.raises(ValueError, match="`rule` must be one of"):
        module(ours.BatchNorm, "float32", rule="vpj").init(jax.random.key(0), x, True)


def test_what_haiku_refuses_is_refused_in_its_words(rng):
    x = rng.normal(size=(8, C)).astype("float32")
    refused = [
        ({"create_scale": False, "scale_init": jnp.ones}, {}),
        ({"create_offset": False, "offset_init": jnp.ones}, {}),
        ({"cross_replica_axis_index_groups": [[0]]}, {}),
        ({"data_format": "NHCX"}, {}),
        ({}, {"scale": x}),
        ({}, {"offset": x}),
    ]
    for options, passed in refused:
        said = []
        for layer in (ours.BatchNorm, hk.BatchNorm):
            with pytest.raises(ValueError) as error:
                module(layer, "float32", **options).init(jax.random.key(0), x, True, **passed)
            said.append(str(error.value))
        assert said[0] == said[1]


def test_the_layer_stands_where_haiku_s_stood():
    def layer():
        found = ours.BatchNorm(True, True, 0.9)
        assert isinstance(found, hk.BatchNorm)
        return repr(found), found.name, found.mean_ema.module_name

    wanted = "BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)"
    found = hk.testing.transform_and_run(layer)()
    assert found == (wanted, "batch_norm", "batch_norm/~/mean_ema")


@pytest.mark.slow
def test_the_digits_are_learned_alike():
    found = []
    for layer in (ours.BatchNorm, hk.BatchNorm):
        module = example("haiku_digits", BatchNorm=layer)
        found.append(first_costs(module, module.digits()[0][0]))
    np.testing.assert_allclose(*found, rtol=0, atol=1e-4)
    assert found[0][-1] < found[0][0]


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(ours).failed == 0


OWN = """
import sys
import haiku
import pytest
from haiku._src import batch_norm
from bnjax.layers.haiku import BatchNorm

haiku.BatchNorm = batch_norm.BatchNorm = BatchNorm
sys.exit(pytest.main(sys.argv[1:]))
"""
OWN_FILES = ["batch_norm"] + [
    f"integration.{name}"
    for name in (
        *("check_tracer_leaks", "descriptors", "float64", "half", "hk_transforms"),
        *("jax_transforms", "jaxpr_info", "numpy_inputs", "rank_promotion", "shim_hk"),
        *("summarise", "to_dot", "typing"),
    )
]


@pytest.mark.slow
def test_haiku_s_own_tests_pass(tmp_path):
    pytest.importorskip("tree", reason="dm-tree is not installed: pip install '.[peers]'")
    files = [f"haiku._src.{name}_test" for name in OWN_FILES]
    options = ["-q", "-p", "no:cacheprovider", "-k", "batch_norm or BatchNorm", "--pyargs", *files]
    out, _ = ended(python("-c", OWN, *options, cwd=tmp_path, **cpus(8)))
    print(out)
    assert "38 passed" in out  # all that pass with haiku's own class


@pytest.mark.slow
def test_all_checks_pass_on_eight_devices():
    check_on_eight_devices("haiku_device_checks.py")
