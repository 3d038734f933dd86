"""What is looked at after each epoch: cost, accuracy, the inputs of the last hidden layer."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from bnjax import costs, network
from bnjax.network import Network
from bnjax.training import TrainState

Evaluate = Callable[[TrainState, Array, Array], tuple[Array, Array]]


def make_evaluate(net: Network, *, classify: bool) -> Evaluate:
    """Make (train_state, x, targets) -> (cost, accuracy) with the statistics for inference."""

    def evaluate(train_state: TrainState, x: Array, targets: Array) -> tuple[Array, Array]:
        y, _ = network.bn_apply(net, train_state.params, train_state.state, x, train=False)
        cost = costs.mean(costs.get(net.cost).per_sample(y, targets))
        if not classify:
            return cost, jnp.nan * cost
        if net.sizes[-1] == 1:
            correct = (y > 0) == (targets > 0.5)
        else:
            correct = jnp.argmax(y, axis=1) == jnp.argmax(targets, axis=1)
        return cost, jnp.mean(correct)

    return jax.jit(evaluate)


def make_percentiles(net: Network, probe: Array) -> Callable[[TrainState], Array]:
    """Make train_state -> 15th, 50th, 85th percentile of the last hidden layer's inputs, (3, n)."""
    # the network that ends there: its logits are what the last hidden activation is fed with
    inner = dataclasses.replace(net, sizes=net.sizes[:-1], norm_output=net.norm)

    def percentiles(train_state: TrainState) -> Array:
        state = train_state.state[: sum(inner.normalized)]
        y, _ = network.bn_apply(inner, train_state.params[:-1], state, probe, train=True)
        return jnp.percentile(y, jnp.array([15.0, 50.0, 85.0]), axis=0)

    return jax.jit(percentiles)
