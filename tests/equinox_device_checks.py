"""What holds of equinox's layer on eight devices: `test_layers_equinox` runs this file on them."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax_layers import assert_alike
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from bnjax.layers.equinox import BatchNorm

B, C = 24, 4
X = np.random.default_rng(0).normal(2, 3, (B, C)).astype("float32")
MODES = "ema", "batch"


def layer_and_state(mode, axis_name):
    return eqx.nn.make_with_state(BatchNorm)(C, axis_name, mode=mode, dtype="float32")


def training(layer, state, x):
    """(y, what the new state holds), and the gradient of a cost in γ, β and x."""

    def cost(params, x):
        net = eqx.tree_at(lambda n: (n.weight, n.bias), layer, params)
        y, new = jax.vmap(net, (0, None), (0, None), axis_name="batch")(x, state)
        return jnp.sum(jnp.sin(y)), (y, jax.tree.leaves(new))

    grads, out = jax.grad(cost, (0, 1), has_aux=True)((layer.weight, layer.bias), x)
    return out, grads


@pytest.fixture(scope="module", params=MODES)
def mode_and_whole(request):
    layer, state = layer_and_state(request.param, "batch")
    return request.param, jax.jit(partial(training, layer))(state, X)


def test_shard_map_around_a_vmap_is_one_batch(mode_and_whole):
    mode, wanted = mode_and_whole
    layer, state = layer_and_state(mode, ("i", "batch"))

    def shard(state, x):
        out, (params, x_bar) = training(layer, state, x)
        return out, (jax.lax.psum(params, "i"), x_bar)

    mesh = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Auto,))
    specs = {"in_specs": (P(), P("i")), "out_specs": ((P("i"), P()), (P(), P("i")))}
    spread = jax.shard_map(shard, mesh=mesh, check_vma=False, **specs)
    assert_alike(jax.jit(spread)(state, X), wanted, 4 * np.finfo("float32").eps)


@pytest.mark.parametrize("check_vma", [True, False])
def test_one_sample_to_each_device_is_one_batch(check_vma):
    layer, state = layer_and_state("batch", "i")

    def run(state, x):
        y, new = layer(x[0], state)
        return y[None], jax.tree.leaves(new)

    mesh = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Auto,))
    specs = {"in_specs": (P(), P("i")), "out_specs": (P("i"), P())}
    got = jax.jit(jax.shard_map(run, mesh=mesh, check_vma=check_vma, **specs))(state, X[:8])
    layer, state = layer_and_state("batch", "batch")
    wanted, _ = training(layer, state, X[:8])
    assert_alike(got, wanted)


def test_pmap_around_a_vmap_is_one_batch(mode_and_whole):
    mode, ((y, leaves), _) = mode_and_whole
    layer, state = layer_and_state(mode, ("i", "batch"))
    one = jax.vmap(layer, (0, None), (0, None), axis_name="batch")
    spread = jax.pmap(one, "i", in_axes=(0, None), out_axes=(0, None))
    got, new = spread(X.reshape(8, 3, C), state)
    assert_alike((got.reshape(B, C), jax.tree.leaves(new)), (y, leaves))


@pytest.mark.parametrize("spec", [P("i"), P(None, "c"), P("i", "c")])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_shardings_are_kept(mode_and_whole, spec, kind):
    mode, wanted = mode_and_whole
    mesh = jax.make_mesh((4, 2), ("i", "c"), axis_types=(kind,) * 2)
    with jax.set_mesh(mesh):
        layer, state = layer_and_state(mode, "batch")
        x, state = jax.device_put((X, state), (jax.NamedSharding(mesh, spec), jax.P()))
        got = jax.jit(partial(training, layer))(state, x)
    if kind == AxisType.Explicit:
        assert got[0][0].sharding.is_equivalent_to(x.sharding, 2)
    assert_alike(jax.device_get(got), jax.device_get(wanted), 4 * np.finfo("float32").eps)
