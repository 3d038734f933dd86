"""How far the hand-derived gradient is from autodiff's, on a real batch while training."""

from functools import partial

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from numpy.linalg import norm

from bnjax import network
from bnjax.network import Network, NormDense, Params
from bnjax.training import TrainState

Differences = dict[str, float]


def compare(
    net: Network, train_state: TrainState, x: ArrayLike, targets: ArrayLike, where: ArrayLike
) -> Differences:
    """Compare both gradients of a normalized network, in the dtype that is trained in.

    Returns:
        For each parameter kind of the normalized layers (W, gamma, beta) the largest
        |∂C by rule − ∂C by autodiff| / |∂C by autodiff| over the layers, each a norm over the whole
        parameter.
    """
    layers = [i for i, layer in enumerate(train_state.params) if isinstance(layer, NormDense)]
    by_rule, by_autodiff = (
        [[np.asarray(part, np.float64) for part in gradient[i]] for i in layers]
        for gradient in _gradients(net, train_state, x, targets, where)
    )
    largest = np.zeros(len(NormDense._fields))
    for ours, theirs in zip(by_rule, by_autodiff, strict=True):
        with np.errstate(all="ignore"):  # NaN where a network is lost, or has no gradient
            off = [norm(a - b) / norm(b) for a, b in zip(ours, theirs, strict=True)]
        largest = np.maximum(largest, off)
    return dict(zip(NormDense._fields, largest.tolist(), strict=True))


@partial(jax.jit, static_argnums=0)
def _gradients(
    net: Network, train_state: TrainState, x: Array, targets: Array, where: Array
) -> list[Params]:
    def cost(params: Params, rule: str) -> Array:
        return network.cost(net, params, train_state.state, x, targets, rule=rule, where=where)[0]

    with jax.default_matmul_precision("highest"):  # what is compared is not the platform's rounding
        return [jax.grad(cost)(train_state.params, rule) for rule in ("vjp", "autodiff")]
