import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnjax import Network, NormDense, backprop, cost, geometry, identities, init
from bnjax.activations import ACTIVATIONS, Activation
from bnjax.costs import COSTS, Cost
from bnjax.geometry import angles as angles_room

rng = np.random.default_rng(0)
quick_jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
KINDS = {"baseline": {"norm": False}, "norm": {}, "norm output": {"norm_output": True}}
B = 7
X, TARGETS = jnp.asarray(rng.normal(size=(B, 3))), jnp.asarray(rng.random((B, 2)))
MASKS = {
    "no mask": None,
    "mask": jnp.array([1, 1, 0, 1, 1, 0, 1]) > 0,
    "weights": jnp.asarray(rng.random(B)).at[2].set(0),
}


def parameters(net, dtype=float):
    """Parameters that are special in nothing: γ is not 1, β and b are not 0."""
    drawn = np.random.default_rng(1)
    params, state = init(net, jax.random.key(0))
    return jax.tree.map(
        lambda p: jnp.asarray(p + 0.3 * drawn.normal(size=p.shape), dtype), params
    ), state


def chosen(number, functions):
    return lambda *args: jax.lax.switch(number, functions, *args)


def terms(layer, p):
    """The size of the terms that cancel: |u|ᵀ |γ r Δ| for W, Σ |Δ x̂| or Σ |Δ| for the others."""
    u, delta = np.abs(layer.u), np.abs(layer.delta)
    if layer.inv_std is None:
        return u.T @ delta, delta.sum(0)
    through = np.abs(p.gamma * layer.inv_std) * delta
    # with rounding r x̂ is as large as x itself
    return u.T @ through, (delta * np.abs(layer.x_hat)).sum(0), delta.sum(0)


def assert_gradients(found, wanted, layers, params, tolerance):
    for angles, grads, layer, p in zip(found, wanted, layers, params, strict=True):
        got = jax.device_get(geometry.gradients(angles))
        assert type(got) is type(p)
        for a, b, size in zip(got, grads, terms(layer, p), strict=True):
            assert np.max(np.abs(a - b)) <= tolerance * np.max(size), (a, b)


def assert_passed(found, layers, tolerance, where=None):
    """G.5: the length of ∂C/∂x, on the scale of |γ r Δ|."""
    w = np.ones(B) if where is None else np.asarray(where, float)
    share = 1 / np.where(w > 0, w, 1)[:, None]
    for angles, layer in zip(found, layers, strict=True):
        x_bar = layer.delta if layer.x_bar is None else layer.x_bar
        wanted, size = (np.sqrt((share * a**2).sum(0)) for a in (x_bar, layer.delta))
        if angles.scale is not None:
            size = size * np.abs(angles.scale)
        got = np.asarray(geometry.propagated(angles).length)
        assert np.all(np.abs(got - wanted) <= tolerance * size)


# One program for all activations and costs, of which two numbers choose: compiling is the cost.
CASES = list(itertools.product(KINDS, MASKS, [0.0, 1e-5, 0.3]))
QUICK = [
    ("baseline", "weights", 0.0),
    ("norm", "no mask", 1e-5),
    ("norm output", "no mask", 0.0),
    ("norm output", "weights", 0.3),
]


@pytest.mark.parametrize(
    ("kind", "mask", "eps"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_gradients_put_together_from_angles_are_those_of_jax(kind, mask, eps, monkeypatch):
    def network(**more):
        return Network((3, 4, 4, 2), **KINDS[kind], eps=eps, **more)

    where = MASKS[mask]

    @quick_jit
    def both(activation, cost_number, params, state):
        g, g_prime = (chosen(activation, f) for f in zip(*ACTIVATIONS.values(), strict=True))
        one_of_all = Cost(*(chosen(cost_number, f) for f in zip(*COSTS.values(), strict=True)))
        with monkeypatch.context() as patch:
            patch.setitem(COSTS, "one of all", one_of_all)
            net = network(cost="one of all", activation=Activation(g, g_prime))

            def objective(params):
                return cost(net, params, state, X, TARGETS, rule="autodiff", where=where)[0]

            found = geometry.observe(net, params, X, TARGETS, where=where)
            layers = backprop.intermediates(net, params, X, TARGETS, where=where)
            return found, layers, jax.grad(objective)(params)

    params, state = parameters(network())
    for activation, cost_number in itertools.product(range(len(ACTIVATIONS)), range(len(COSTS))):
        found, layers, wanted = jax.device_get(both(activation, cost_number, params, state))
        assert_gradients(found, wanted, layers, params, 1e-12)
        assert_passed(found, layers, 1e-12, where)
