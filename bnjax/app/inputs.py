"""What the last hidden layer is fed with: figure 1 (b, c) of Ioffe & Szegedy 2015, as numbers."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from bnjax import network
from bnjax.network import Network
from bnjax.training import TrainState


def make_percentiles(net: Network, probe: Array) -> Callable[[TrainState], Array]:
    """Make train_state -> 15th, 50th, 85th percentile of the last hidden layer's inputs, (3, n)."""
    # the network that ends there: its logits are what the last hidden activation is fed with
    ends_there = {"sizes": net.sizes[:-1], "norm_output": net.norm, "other_decays": ()}
    inner = dataclasses.replace(net, **ends_there)

    def percentiles(train_state: TrainState) -> Array:
        state = train_state.state[: sum(inner.normalized)]
        y, _ = network.bn_apply(inner, train_state.params[:-1], state, probe, train=True)
        return jnp.percentile(y, jnp.array([15.0, 50.0, 85.0]), axis=0)

    return jax.jit(percentiles)
