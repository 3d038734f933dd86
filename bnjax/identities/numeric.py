"""The equations in NumPy float64: the side that neither the library nor JAX computes.

Everything follows from the definitions in `notation` and BN.2 alone, not from the library's code.
"""

import math
from typing import Any, NamedTuple

import numpy as np


def wide(a: Any) -> np.ndarray:
    """Convert to float64."""
    return np.asarray(a, np.float64)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(y: Any) -> np.ndarray:
    """Compute 1 / (1 + e^(−y)) without overflow."""
    return (1 + np.tanh(wide(y) / 2)) / 2


_G = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda y: np.maximum(y, 0),
    "softplus": lambda y: np.logaddexp(y, 0),
    "silu": lambda y: y * sigmoid(y),
    "gelu": lambda y: y * (1 + _erf(y / math.sqrt(2))) / 2,
    "identity": lambda y: y,
}


def g(name: str, y: Any) -> np.ndarray:
    """Apply the activation of that name."""
    return _G[name](wide(y))


def _normal(y: np.ndarray) -> np.ndarray:
    return np.exp(-(y**2) / 2) / math.sqrt(2 * math.pi)


_SLOPE = {
    "sigmoid": lambda y: 1 / (2 + 2 * np.cosh(y)),
    "tanh": lambda y: 1 / np.cosh(y) ** 2,
    "relu": lambda y: np.where(y > 0, 1.0, 0.0),
    "softplus": sigmoid,
    "silu": lambda y: (1 + sigmoid(y) * np.exp(-y) * y) * sigmoid(y),
    "gelu": lambda y: (1 + _erf(y / math.sqrt(2))) / 2 + y * _normal(y),
    "identity": np.ones_like,
}


def slope(name: str, y: Any) -> np.ndarray:
    """Apply the derivative of the activation of that name."""
    return _SLOPE[name](wide(y))


class NormalizedLayer(NamedTuple):
    """A normalized layer: μ, σ², r, ρ (n,), and x̂ (B, n), in float64."""

    mean: np.ndarray
    var: np.ndarray
    r: np.ndarray
    rho: np.ndarray
    x_hat: np.ndarray


def normalized_layer(x: Any, eps: float) -> NormalizedLayer:
    """Normalize over the first axis: BN.2."""
    x = wide(x)
    mean = x.sum(0) / len(x)
    var = ((x - mean) ** 2).sum(0) / len(x)
    r = (var + eps) ** -0.5
    return NormalizedLayer(mean, var, r, np.sqrt(var / (var + eps)), (x - mean) * r)


def times_kernel(t: Any, at: NormalizedLayer, gamma: Any = 1.0) -> np.ndarray:
    """Apply K(t) = γ r [t − ⟨t⟩ − x̂ ⟨t x̂⟩] (D.4)."""
    t = wide(t)
    return gamma * at.r * (t - t.mean(0) - at.x_hat * (t * at.x_hat).mean(0))


def hat(a: Any) -> tuple[np.ndarray, np.ndarray]:
    """Split a (B, n) into its amplitude σ(a) (n,) and its direction â; â = 0 where σ(a) = 0."""
    a = wide(a)
    deviation = a - a.mean(0)
    sd = np.sqrt((deviation**2).mean(0))
    return sd, deviation / np.where(sd > 0, sd, 1)


def cosines(a: Any, b: Any) -> np.ndarray:
    """Correlate every column of a with every column of b: (n_a, n_b) (G.1)."""
    a_hat, b_hat = hat(a)[1], hat(b)[1]
    return a_hat.T @ b_hat / len(a_hat)


def magnitudes(
    us: Any, xs: Any, g_primes: Any, params: Any, error: Any, eps: float, *, norm: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Bound the terms that cancel in the error recursion and in the gradients, layer by layer.

    Δ itself may be far smaller, as with two samples. Here |Δᴸ| is propagated through |g'|, |γ r|
    and |W|, and nothing is subtracted.

    Returns:
        |Δˡ| (B, n) and |u|ᵀ |γ r Δˡ| (n_in, n), of every layer.
    """
    size = np.abs(wide(error))
    deltas, gradients = [], []
    for at in reversed(range(len(params))):
        through = size * (np.abs(params[at][1] * normalized_layer(xs[at], eps).r) if norm else 1.0)
        deltas.insert(0, size)
        gradients.insert(0, np.abs(wide(us[at])).T @ through)
        if at:
            size = np.abs(g_primes[at - 1]) * (through @ np.abs(params[at][0]).T)
    return deltas, gradients
