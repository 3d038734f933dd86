"""Small networks of every kind, with data, masks and parameters that are special in nothing."""

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnjax import Activation, init
from bnjax.activations import ACTIVATIONS
from bnjax.costs import COSTS, Cost

B = 7
rng = np.random.default_rng(0)
X, TARGETS = jnp.asarray(rng.normal(size=(B, 3))), jnp.asarray(rng.random((B, 2)))
MASKS = {
    "no mask": None,
    "mask": jnp.array([1, 1, 0, 1, 1, 0, 1]) > 0,
    "weights": jnp.asarray(rng.random(B)).at[2].set(0),
}
KINDS = {"baseline": {"norm": False}, "norm": {}, "norm output": {"norm_output": True}}


def parameters(net, dtype=float):
    """Parameters and state of a network in which γ is not 1, β and b are not 0."""
    drawn = np.random.default_rng(1)
    params, state = init(net, jax.random.key(0))
    return jax.tree.map(
        lambda p: jnp.asarray(p + 0.3 * drawn.normal(size=p.shape), dtype), params
    ), state


@contextmanager
def chosen(activation, cost):
    """Options of a network whose activation and cost are chosen by traced numbers.

    One program serves for all of them: compiling is the cost.
    """

    def switch(number, functions):
        return lambda *args: jax.lax.switch(number, functions, *args)

    activations, costs = (zip(*all_of.values(), strict=True) for all_of in (ACTIVATIONS, COSTS))
    g, g_prime = (switch(activation, functions) for functions in activations)
    one_of_all = Cost(*(switch(cost, functions) for functions in costs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COSTS, "one of all", one_of_all)
        yield {"activation": Activation(g, g_prime), "cost": "one of all"}
