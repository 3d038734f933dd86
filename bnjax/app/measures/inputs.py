"""What the last hidden layer is fed with: figure 1 (b, c) of Ioffe & Szegedy 2015, as numbers."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import network
from bnjax.app.run.metrics import Inputs
from bnjax.network import Network
from bnjax.training import TrainState

_PERCENTILES = (15.0, 50.0, 85.0)
_SAMPLES = 1000


def percentiles(net: Network, train_state: TrainState, x: Array) -> Array:
    """Return percentiles of each input of the last hidden layer, (3, n), on the first of x."""
    # the network that ends there: its logits are what the last hidden activation is fed with
    ends_there = {"sizes": net.sizes[:-1], "norm_output": net.norm, "other_decays": ()}
    inner = dataclasses.replace(net, **ends_there)
    state = train_state.state[: sum(inner.normalized)]
    y, _ = network.bn_apply(inner, train_state.params[:-1], state, x[:_SAMPLES], train=True)
    return jnp.percentile(y, jnp.array(_PERCENTILES), axis=0)


def of_neuron(found: np.ndarray, neuron: int | None) -> Inputs:
    """Return the percentiles of one neuron; by default of one whose spread is the median."""
    if neuron is None:
        spread = found[2] - found[0]
        neuron = int(np.argsort(spread)[len(spread) // 2])
    low, middle, high = map(float, found[:, neuron])
    return Inputs(neuron=neuron, percentiles=(low, middle, high))
