"""What holds on explicit meshes: `test_devices` runs this file where there are eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from reference import relative

from bnjax import batch_norm, normalize, renorm

RULES = ("vjp", "jvp", "autodiff")
SPECS = [
    P(None, None),
    P("data", None),
    P("model", None),
    P(("data", "model"), None),
    P(None, "model"),
    P("data", "model"),
]


@pytest.fixture(autouse=True)
def mesh():
    mesh = jax.make_mesh((4, 2), ("data", "model"))  # explicit, as it is by default
    with jax.set_mesh(mesh):
        yield mesh


def pulled(x, y_bar, gamma, where, *, rule, axis=-1):
    def f(x, gamma):
        return batch_norm(x, gamma, gamma, where=where, rule=rule, axis=axis)[0]

    y, pull = jax.vjp(f, x, gamma)
    return y, *pull(y_bar)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_sharded_batch_is_normalized_and_pulled_back(spec, masked, mesh, rng):
    x, y_bar = rng.normal(size=(2, 16, 6)).astype("float32")
    x += np.float32([0, 1e4, -10, 1e4, 1, 0])
    gamma = rng.normal(size=6).astype("float32")
    where = rng.random((16, 1)) > 0.3 if masked else None
    given = jax.device_put((x, y_bar), NamedSharding(mesh, spec))
    rows = None if where is None else jax.device_put(where, NamedSharding(mesh, P(spec[0], None)))
    args = *given, jax.device_put(gamma, NamedSharding(mesh, P())), rows
    every = jax.jit(lambda *args: [pulled(*args, rule=rule) for rule in RULES])(*args)
    y, *_ = reference.batch_norm(x, gamma, gamma, weights=where)
    x_bar, gamma_bar, beta_bar = reference.pull_back(x, y_bar, gamma, weights=where)
    wanted = y, x_bar, gamma_bar + beta_bar
    for rule, (y, x_bar, gamma_bar) in zip(RULES, every, strict=True):
        assert y.sharding == x_bar.sharding == given[0].sharding, rule
        for got, want in zip((y, x_bar, gamma_bar), wanted, strict=True):
            assert relative(got, np.reshape(want, got.shape)) < 1e-6, rule


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("spec", "axis"),
    [
        (P("data", None, None, "model"), -1),
        (P("data", "model", None, None), 1),
        (P(None, None, "data", None), -1),
        (P("data", None, "model", None), (1, 2)),
        (P("data", None, "model", None), (0, 2)),
    ],
    ids=str,
)
def test_images_of_any_layout_keep_their_sharding(spec, axis, rule, mesh):
    x = jax.ShapeDtypeStruct((8, 4, 4, 2), jnp.float32, sharding=NamedSharding(mesh, spec))
    axes = axis if isinstance(axis, tuple) else (axis,)
    channels = jax.ShapeDtypeStruct([x.shape[a] for a in axes], jnp.float32)
    y, x_bar, _ = jax.eval_shape(
        lambda *args: pulled(*args, None, rule=rule, axis=axis), x, x, channels
    )
    assert y.sharding.spec == x_bar.sharding.spec == spec


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_given_statistics_keep_the_sharding(spec, mesh):
    x = jax.ShapeDtypeStruct((16, 6), jnp.float32, sharding=NamedSharding(mesh, spec))
    row = jax.ShapeDtypeStruct((6,), jnp.float32)
    assert jax.eval_shape(normalize, x, row, row, row, row).sharding.spec == spec


@pytest.mark.parametrize("spec", [P("data", None), P("data", "model")], ids=str)
def test_a_sharded_batch_is_renormalized(spec, mesh, rng):
    x, y_bar = rng.normal(size=(2, 16, 6)).astype("float32")
    mean, gamma = rng.normal(size=(2, 6)).astype("float32")
    given = jax.device_put((x, y_bar), NamedSharding(mesh, spec))

    @jax.jit
    def every(x, y_bar):
        def f(rule):
            return lambda x: renorm(x, (mean, gamma**2), gamma, d_max=0.5, rule=rule)[0]

        found = (jax.vjp(f(rule), x) for rule in RULES)
        return [(y, *pull(y_bar)) for y, pull in found]

    y, bars, *_ = reference.renorm(x, mean, gamma**2, gamma, 0.0, y_bar, d_max=0.5)
    for got, x_bar in every(*given):
        assert jax.typeof(got).sharding.spec == jax.typeof(x_bar).sharding.spec == spec
        assert relative(got, y) < 1e-6 and relative(x_bar, bars[0]) < 1e-6
