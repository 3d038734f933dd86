"""What holds of flax's layers on eight devices: `test_layers_linen` runs this file there."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from flax_layers import assert_alike
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from bnjax.layers import linen as our_linen
from bnjax.layers import nnx as our_nnx

B, C = 24, 3
GROUPS = [[0, 1, 2, 3], [4, 5, 6, 7]]


def linen_step(layer_class, **options):
    """From x and the cotangent of y: y, the statistics, and the gradients of all parameters."""
    layer = layer_class(use_running_average=False, **options)
    variables = layer.init(jax.random.key(0), jnp.ones((2, C)))

    def step(x, y_bar):
        def cost(params, x):
            both = {**variables, "params": params}
            y, new = layer.apply(both, x, mutable=["batch_stats"])
            return jnp.sum(y * y_bar), (y, new)

        grads, (y, new) = jax.grad(cost, (0, 1), has_aux=True)(variables["params"], x)
        return y, grads[1], (new, grads[0])

    return step


def nnx_step(layer_class, **options):
    graphdef, params, rest = nnx.split(layer_class(C, rngs=nnx.Rngs(0), **options), nnx.Param, ...)

    def step(x, y_bar):
        def cost(params, x):
            layer = nnx.merge(graphdef, params, rest, copy=True)
            y = layer(x)
            return jnp.sum(y * y_bar), (y, nnx.state(layer, nnx.BatchStat))

        grads, (y, new) = jax.grad(cost, (0, 1), has_aux=True)(params, x)
        return y, grads[1], (nnx.to_pure_dict(new), nnx.to_pure_dict(grads[0]))

    return step


STEPS = {
    "linen": (partial(linen_step, our_linen.BatchNorm), partial(linen_step, linen.BatchNorm)),
    "nnx": (partial(nnx_step, our_nnx.BatchNorm), partial(nnx_step, nnx.BatchNorm)),
}


@pytest.fixture(params=STEPS)
def steps(request):
    return STEPS[request.param]


@pytest.fixture
def batch(rng):
    return rng.normal(size=(2, B, C)).astype("float32")


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["all", "groups"])
@pytest.mark.filterwarnings("ignore:jax.pmap")
def test_pmap(groups, steps, batch):
    ours, theirs = (
        jax.pmap(step(axis_name="d", axis_index_groups=groups), axis_name="d")(
            *batch.reshape(2, 8, -1, C)
        )
        for step in steps
    )
    assert_alike(ours, theirs)


@pytest.mark.parametrize("check", [True, False], ids=["checked", "unchecked"])
def test_shard_map(check, steps, batch):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    # unchecked, each device has its own part of the gradients of replicated parameters
    out = (P("d"), P("d"), P() if check else (P(), P("d")))

    def spread(step):
        shard = partial(jax.shard_map, mesh=mesh, in_specs=P("d"), out_specs=out, check_vma=check)
        return jax.jit(shard(step(axis_name="d")))(*batch)

    whole = steps[1]()(*batch)
    ours, theirs = map(spread, steps)
    assert_alike(ours, theirs)
    np.testing.assert_allclose(ours[0], whole[0], atol=1e-5)
    np.testing.assert_allclose(ours[1], whole[1], atol=1e-5)


@pytest.mark.parametrize("spec", [P("d", None), P("d", "m"), P(None, "m")], ids=str)
def test_explicit_mesh(spec, steps, rng):
    wide = rng.normal(size=(2, B, C)).astype("float32")
    mesh = jax.make_mesh((8, 1), ("d", "m"))  # explicit, as it is by default
    alone = steps[0]()(*wide)
    with jax.set_mesh(mesh):
        ours = jax.jit(steps[0]())(*jax.device_put(tuple(wide), jax.NamedSharding(mesh, spec)))
    assert ours[0].sharding.spec == spec
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, alone)
