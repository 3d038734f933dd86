"""Whole networks, for the identities: by JAX's autodiff of plain formulas, and by the library.

Each function is compiled once per network, shape and dtype, and shared by all identities.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import activations, backprop, costs, network, population
from bnjax.identities.cases import Case
from bnjax.identities.observed import bn
from bnjax.identities.quick import quick
from bnjax.network import Dense, Network


class Flow(NamedTuple):
    """A whole network: cost, gradients, and of every layer u (the input), x, y, Δ, g'(y)."""

    cost: Array
    grads: Any
    u: list[Array]
    x: list[Array]
    y: list[Array]
    delta: list[Array]
    g_prime: list[Array]


@quick("net")
def plain_flow(net: Network, params: Any, inputs: Any, targets: Any, eps: Any) -> Flow:
    """Run a network by the plain formulas and differentiate it by autodiff.

    Δ is the gradient of a zero that is added to every y.
    """
    g, g_prime = activations.get(net.activation)
    cost = costs.get(net.cost).per_sample

    def run(params: Any, added: list[Array]) -> tuple[Array, tuple[list[Array], ...]]:
        us, xs, ys = [], [], []
        u = inputs
        for layer, zero in zip(params, added, strict=True):
            x = u @ layer.W
            if isinstance(layer, Dense):
                y = x + layer.b[None]
            else:
                y, _, _ = bn(x, layer.gamma[None], layer.beta[None], eps)
            y = y + zero
            us, xs, ys = [*us, u], [*xs, x], [*ys, y]
            u = g(y)
        return jnp.mean(cost(ys[-1], targets)), (us, xs, ys)

    zeros = [jnp.zeros((inputs.shape[0], layer.W.shape[1]), inputs.dtype) for layer in params]
    (value, (us, xs, ys)), (grads, delta) = jax.value_and_grad(run, (0, 1), has_aux=True)(
        params, zeros
    )
    return Flow(value, grads, us, xs, ys, delta, [g_prime(y) for y in ys])


@quick("net")
def library_flow(
    net: Network, params: Any, state: Any, inputs: Any, targets: Any
) -> tuple[Array, Any, Array, Any]:
    """Run the library's network: cost, gradients by the rule, logits in training, new state."""

    def cost(params: Any) -> tuple[Array, tuple[Array, Any]]:
        y, new = network.bn_apply(net, params, state, inputs, train=True)
        return costs.mean(costs.get(net.cost).per_sample(y, targets)), (y, new)

    (value, (y, new)), grads = jax.value_and_grad(cost, has_aux=True)(params)
    return value, grads, y, new


@quick("net")
def hand_flow(net: Network, params: Any, inputs: Any, targets: Any) -> tuple[Array, Any, Any]:
    """Differentiate the network by hand: cost, gradients and every layer's intermediates."""
    cost, grads = backprop.value_and_grad(net, params, inputs, targets)
    return cost, grads, backprop.intermediates(net, params, inputs, targets)


def by_flow(case: Case) -> Flow:
    """Differentiate the case's normalized network by autodiff of the plain formulas."""
    return plain_flow(case.net, case.params, case.u, case.targets, case.eps)


def by_baseline_flow(case: Case) -> Flow:
    """Differentiate the case's baseline network by autodiff of the plain formulas."""
    return plain_flow(case.baseline, case.baseline_params, case.u, case.targets, case.eps)


def by_hand(case: Case) -> tuple[Array, Any, Any]:
    """Differentiate the case's normalized network by hand."""
    return hand_flow(case.net, case.params, case.u, case.targets)


def by_hand_baseline(case: Case) -> tuple[Array, Any, Any]:
    """Differentiate the case's baseline network by hand."""
    return hand_flow(case.baseline, case.baseline_params, case.u, case.targets)


def by_library_flow(case: Case) -> tuple[Array, Any, Array, Any]:
    """Differentiate the case's normalized network by the library's rule."""
    return library_flow(case.net, case.params, initial_state(case), case.u, case.targets)


def by_baseline_library(case: Case) -> tuple[Array, Any, Array, Any]:
    """Differentiate the case's baseline network by the library."""
    return jax.device_get(
        library_flow(case.baseline, case.baseline_params, (), case.u, case.targets)
    )


def initial_state(case: Case) -> Any:
    """Return the running statistics of the case's network before the first batch."""
    zero, one = np.zeros(case.width, case.dtype), np.ones(case.width, case.dtype)
    none = np.zeros(case.width, np.int32)
    each: Any = (zero, one, none, none, zero, zero)
    return tuple(population.PopulationState(*each) for _ in case.params)
