"""The angles of every layer of a network on one batch (G.1).

Source: S0/S1 §3.
"""

from jax import Array

from bnjax import backprop, network
from bnjax._checks import floating
from bnjax.geometry.angles import Angles, check_samples, layer_angles
from bnjax.network import Network, NormDense, Params


def observe(
    net: Network, params: Params, x: Array, targets: Array, *, where: Array | None = None
) -> tuple[Angles, ...]:
    """Compute every layer's angles on one batch, from the hand-derived intermediates (G.1).

    Args:
        net: The network, normalized or baseline.
        params: As returned by `network.init`.
        x: Inputs, (B, n_in), B ≥ 2.
        targets: φ, (B, n_out).
        where: None, or w, (B,): a mask or finite weights ≥ 0, one per sample, whose scale does not
            matter.

    Returns:
        One `Angles` per layer, first to last.

    Raises:
        TypeError: x or a layer's γ is not floating.
        ValueError: An argument does not fit the network, or x holds a single sample.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from bnjax import Dense
        >>> net = Network((2, 1), norm=False, cost="squared_error")
        >>> u = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
        >>> params = (Dense(jnp.ones((2, 1)), jnp.zeros(1)),)
        >>> (angles,) = jax.jit(lambda *args: observe(net, *args))(params, u, u[:, 1:])
        >>> print(angles.cos3[:, 0], angles.mean_u, angles.rho)
        [1. 0.] [0. 1.] None
    """
    check_network_batch("geometry.observe", net, params, x, targets, where)
    found = []
    layers = backprop.intermediates(net, params, x, targets, where=where)
    for layer, p in zip(layers, params, strict=True):
        if layer.x is None or not isinstance(p, NormDense):
            found.append(layer_angles(layer.u, layer.y, layer.delta, norm=False, where=where))
        else:
            arrays = layer.u, layer.x, layer.delta, p.gamma
            found.append(layer_angles(*arrays, eps=net.eps, where=where))
    return tuple(found)


def check_network_batch(
    function: str,
    net: Network,
    params: Params,
    x: Array,
    targets: Array,
    where: Array | None = None,
) -> None:
    """Raise where a network and a batch do not fit each other, or cannot be measured."""
    network.check_batch_arguments(function, net, params, x, targets=targets, where=where)
    floating(function, "x", x)
    for number, layer in enumerate(params):
        if isinstance(layer, NormDense):
            floating(function, f"params[{number}].gamma", layer.gamma)
    check_samples(function, "x", x)
