"""Activation functions with their derivatives, written out.

(BL.1)  u_next = g(y)
(BL.9)  g'(y) = g(y) (1 − g(y)) ≤ 1/4 for the sigmoid
(D.14)  ∂g(y_s)/∂y_s = diag(g'(y_s))

Source: S0/S1 §1, S3, S4 (1).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from bnjax._checks import unknown_name


class Activation(NamedTuple):
    """A scalar function g and its derivative g', both applied element by element.

    Attributes:
        g: The function; takes y of any shape, returns u of the same shape and dtype.
        g_prime: Its derivative at y; same shape and dtype.
    """

    g: Callable[[Array], Array]
    g_prime: Callable[[Array], Array]


def _sigmoid_prime(y: Array) -> Array:
    u = jax.nn.sigmoid(y)
    return u * (1 - u)  # BL.9


def _relu_prime(y: Array) -> Array:
    return (y > 0).astype(y.dtype)  # 0 at 0, as jax.nn.relu has it


def _silu_prime(y: Array) -> Array:
    s = jax.nn.sigmoid(y)
    return s * (1 + y * (1 - s))


def _gelu(y: Array) -> Array:
    return jax.nn.gelu(y, approximate=False)


def _gelu_prime(y: Array) -> Array:
    distribution = (1 + jax.lax.erf(y * math.sqrt(0.5))) / 2
    density = jnp.exp(-y * y / 2) / math.sqrt(2 * math.pi)
    return distribution + y * density


ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": Activation(jax.nn.sigmoid, _sigmoid_prime),
    "tanh": Activation(jnp.tanh, lambda y: 1 - jnp.tanh(y) ** 2),
    "relu": Activation(jax.nn.relu, _relu_prime),
    "softplus": Activation(jax.nn.softplus, jax.nn.sigmoid),
    "silu": Activation(jax.nn.silu, _silu_prime),
    "gelu": Activation(_gelu, _gelu_prime),
    "identity": Activation(lambda y: y, jnp.ones_like),
}


def get(activation: str | Activation) -> Activation:
    """Return the activation of a name; an `Activation` is returned as it is.

    Args:
        activation: One of the names in `ACTIVATIONS`, or a pair (g, g').

    Returns:
        The pair (g, g').

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> float(get("sigmoid").g_prime(jnp.float32(0.0)))
        0.25
    """
    if isinstance(activation, Activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(unknown_name("Network", "activation", activation, ACTIVATIONS))
    return ACTIVATIONS[activation]
