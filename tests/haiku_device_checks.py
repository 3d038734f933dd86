"""What holds of haiku's layer on eight devices: `test_layers_haiku` runs this file on them."""

from functools import partial

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax_layers import assert_alike
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from bnjax.layers.haiku import BatchNorm

B, C = 24, 3
X = np.random.default_rng(0).normal(2, 3, (B, C)).astype("float32")
GROUPS = [[0, 1, 2, 3], [4, 5, 6, 7]]


def transformed(**options):
    return hk.transform_with_state(
        lambda x, **more: BatchNorm(True, True, 0.9, **options)(x, True, **more)
    )


def training(f, params, state, x, **more):
    """(y, the new state, the gradient of a cost in parameters and x)."""

    def cost(params, x):
        y, new = f.apply(params, state, None, x, **more)
        return jnp.sum(jnp.sin(y)), (y, new)

    grads, out = jax.grad(cost, (0, 1), has_aux=True)(params, x)
    return out, grads


@pytest.fixture(scope="module")
def whole():
    f = transformed()
    params, state = f.init(jax.random.key(0), X)
    return params, state, jax.jit(partial(training, f))(params, state, X)


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_is_one_batch(whole, check_vma):
    params, state, wanted = whole
    f = transformed(cross_replica_axis="i")

    def run(params, state, x):
        (y, new), (params_bar, x_bar) = training(f, params, state, x)
        # checked, the gradient of what is equal everywhere is the whole sum already
        return (y, new), (params_bar if check_vma else jax.lax.psum(params_bar, "i"), x_bar)

    mesh = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Auto,))
    specs = {"in_specs": (P(), P(), P("i")), "out_specs": ((P("i"), P()), (P(), P("i")))}
    spread = jax.shard_map(run, mesh=mesh, check_vma=check_vma, **specs)
    assert_alike(jax.jit(spread)(params, state, X), wanted)


def test_pmap_normalizes_each_group_by_itself():
    f = transformed(cross_replica_axis="i", cross_replica_axis_index_groups=GROUPS)
    shards = X.reshape(8, 3, C)
    params, state = jax.pmap(lambda x: f.init(jax.random.key(0), x), axis_name="i")(shards)
    y, _ = jax.pmap(lambda *args: f.apply(*args[:2], None, args[2]), axis_name="i")(
        params, state, shards
    )
    for half, found in zip(X.reshape(2, 12, C), y.reshape(2, 12, C), strict=True):
        np.testing.assert_allclose(found, (half - half.mean(0)) / half.std(0), atol=1e-5)


@pytest.mark.parametrize("spec", [P("i"), P(None, "c"), P("i", "c")])
def test_explicit_shardings_are_kept(whole, spec):
    params, state, wanted = whole
    f = transformed()
    mesh = jax.make_mesh((4, 2), ("i", "c"), axis_types=(AxisType.Explicit,) * 2)
    x = np.concatenate([X, X[:, :1]], 1)  # four channels lie evenly
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, jax.NamedSharding(mesh, spec))
        params, state = jax.jit(f.init)(jax.random.key(0), sharded)
        (y, _), _ = jax.jit(partial(training, f))(params, state, sharded)
    assert y.sharding.is_equivalent_to(sharded.sharding, 2)
    np.testing.assert_allclose(np.asarray(y)[:, :C], wanted[0][0], atol=1e-5)


def test_unequal_weights_are_one_batch():
    weights = np.ones((B, 1), "float32")
    weights[:4] = 0  # the first of eight shards holds nothing, the second less than the others
    f, spread = transformed(), transformed(cross_replica_axis="i")
    params, state = f.init(jax.random.key(0), X)
    (y, new) = f.apply(params, state, None, X, where=weights)

    def run(x, weights):
        return spread.apply(params, state, None, x, where=weights)

    mesh = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Auto,))
    run = jax.shard_map(run, mesh=mesh, in_specs=P("i"), out_specs=(P("i"), P()))
    assert_alike(jax.jit(run)(X, weights), (y, new))
