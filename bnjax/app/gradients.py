"""How far the hand-derived gradient is from autodiff's, on a real batch while training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from bnjax import network
from bnjax.network import Network, NormDense
from bnjax.training import TrainState

Differences = dict[str, float]


def make_comparison(
    net: Network,
) -> Callable[[TrainState, ArrayLike, ArrayLike, ArrayLike], Differences]:
    """Make the function that compares both gradients of a normalized network.

    Returns:
        compare(train_state, x, targets, where) -> for each parameter kind of the normalized
        layers (W, gamma, beta) the largest |∂C by rule − ∂C by autodiff| / |∂C by autodiff| over
        the layers, each a norm over the whole parameter.
    """

    def compare(train_state: TrainState, x: Array, targets: Array, where: Array) -> dict:
        def gradient(rule: str) -> network.Params:
            def objective(params: network.Params) -> Array:
                return network.cost(
                    net, params, train_state.state, x, targets, rule=rule, where=where
                )[0]

            return jax.grad(objective)(train_state.params)

        largest: dict[str, Array] = {}
        for ours, theirs in zip(gradient("vjp"), gradient("autodiff"), strict=True):
            if not isinstance(ours, NormDense):
                continue
            for kind, a, b in zip(NormDense._fields, ours, theirs, strict=True):
                size = jnp.linalg.norm(b)
                difference = jnp.linalg.norm(a - b) / jnp.where(size > 0, size, 1)
                largest[kind] = jnp.maximum(largest.get(kind, 0.0), difference)
        return largest

    compiled = jax.jit(compare)

    def named(
        train_state: TrainState, x: ArrayLike, targets: ArrayLike, where: ArrayLike
    ) -> Differences:
        found = compiled(train_state, x, targets, where)  # jit sorts a dict's keys
        return {kind: float(found[kind]) for kind in NormDense._fields}

    return named
