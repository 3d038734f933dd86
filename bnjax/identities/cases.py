"""Random cases: everything an identity may need, drawn from a key, well-conditioned at ε = 0."""

from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax.activations import ACTIVATIONS, Activation
from bnjax.identities import numeric
from bnjax.network import Dense, Network, NormDense, Params

LAYERS = 3
_CANDIDATES = 32


class Case(NamedTuple):
    """One random case; arrays are NumPy arrays of `dtype`, n is the width.

    Attributes:
        dtype: "float32" or "float64".
        eps: ε.
        batch: B.
        width: n, the width of every layer; the input has n + 1.
        u: A layer's input, and the networks' too, (B, n + 1).
        W: Its weights, (n + 1, n): the first layer's of both networks.
        x: Something to normalize, not u W, (B, n).
        gamma: γ, of either sign, (n,).
        beta: β, (n,).
        bias: A bias before the normalization, (n,).
        factor: Positive factors of x, (n,).
        y_bar: A cotangent of y, which is Δ, (B, n).
        x_dot: A tangent of x, (B, n).
        mean_bar: A cotangent of μ, (n,).
        var_bar: A cotangent of σ², (n,).
        weights: Sample weights, all different, one of them zero if B allows, (B, 1).
        targets: φ in (0, 1), (B, n).
        net: Three layers, all normalized; every activation occurs in them, see `MIXED`.
        params: Its parameters.
        baseline: The same network without normalization.
        baseline_params: Its parameters, with the same W.
        batches: Inputs of several mini-batches, (3, B, n + 1).
        population: A population small enough to list all batches drawn from it, (5,).
    """

    dtype: str
    eps: float
    batch: int
    width: int
    u: np.ndarray
    W: np.ndarray
    x: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    bias: np.ndarray
    factor: np.ndarray
    y_bar: np.ndarray
    x_dot: np.ndarray
    mean_bar: np.ndarray
    var_bar: np.ndarray
    weights: np.ndarray
    targets: np.ndarray
    net: Network
    params: Any
    baseline: Network
    baseline_params: Any
    batches: np.ndarray
    population: np.ndarray


def _shares(n: int) -> list[tuple[str, slice]]:
    """Assign n neurons to the activations, in blocks."""
    blocks = np.array_split(np.arange(n), len(ACTIVATIONS))
    return [
        (name, slice(int(block[0]), int(block[-1]) + 1))
        for name, block in zip(ACTIVATIONS, blocks, strict=True)
        if len(block)
    ]


def _mixed(y: Array) -> Array:
    parts = [ACTIVATIONS[name].g(y[..., part]) for name, part in _shares(y.shape[-1])]
    return jnp.concatenate(parts, -1)


def _mixed_prime(y: Array) -> Array:
    parts = [ACTIVATIONS[name].g_prime(y[..., part]) for name, part in _shares(y.shape[-1])]
    return jnp.concatenate(parts, -1)


# one network with every activation in it: a network for each would be a compilation for each
MIXED = Activation(_mixed, _mixed_prime)


def mixed(y: np.ndarray) -> np.ndarray:
    """Apply `MIXED` in NumPy float64."""
    parts = [numeric.g(name, y[..., part]) for name, part in _shares(y.shape[-1])]
    return np.concatenate(parts, -1)


def _signed(rng: np.random.Generator, *shape: int) -> Any:
    """Draw numbers of magnitude 0.5 to 1.5 and of either sign."""
    return rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)


def _draw_parameters(
    rng: np.random.Generator, inputs: np.ndarray, sizes: tuple[int, ...], eps: float
) -> tuple[Any, Any]:
    """Draw the parameters of both networks, in NumPy and with the same W."""
    params, baseline_params = [], []
    for n_in, n_out in pairwise(sizes):
        candidates = rng.normal(size=(_CANDIDATES, n_in, n_out)) / n_in**0.5
        W = _best(candidates, inputs @ candidates, np.ones((len(inputs), 1)))
        gamma, beta = _signed(rng, n_out), _signed(rng, n_out) * rng.uniform(0, 0.3, n_out)
        b = _signed(rng, n_out) / 2
        params.append(NormDense(W, gamma, beta))
        baseline_params.append(Dense(W, b))
        inputs = mixed(gamma * numeric.normalized_layer(inputs @ W, eps).x_hat + beta)
    return tuple(params), tuple(baseline_params)


def draw(key: Array, *, dtype: str, eps: float, batch: int, width: int) -> Case:
    """Draw a case: the same numbers in either dtype, up to rounding.

    Where σ is small beside |x| the rounding of x is all that is left, and at ε = 0 nothing hides
    it: of many candidates for each column of x and of every W, the one with most spread is taken.
    """
    words = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    rng = np.random.default_rng(np.asarray(words).ravel())
    B, n = batch, width
    weights = rng.uniform(0.5, 2, (B, 1))
    if B > 2:  # two samples must remain
        weights[rng.integers(B)] = 0
    columns = rng.normal(size=(_CANDIDATES, B, n))
    x = _best(columns, columns, weights) * rng.uniform(0.5, 2, n) + rng.normal(size=n)
    u = rng.normal(size=(B, n + 1)) + rng.normal(size=n + 1)
    sizes = (n + 1, *(n,) * LAYERS)
    params, baseline_params = _draw_parameters(rng, u, sizes, eps)
    case = Case(
        dtype=dtype,
        eps=eps,
        batch=B,
        width=n,
        u=u,
        W=params[0].W,
        x=x,
        gamma=params[0].gamma,
        beta=params[0].beta,
        bias=rng.normal(size=n),
        factor=rng.uniform(0.5, 2, n),
        y_bar=_signed(rng, B, n),
        x_dot=_signed(rng, B, n),
        mean_bar=_signed(rng, n),
        var_bar=_signed(rng, n),
        weights=weights,
        targets=rng.uniform(0.1, 0.9, (B, n)),
        net=Network(sizes, activation=MIXED, norm_output=True, eps=eps),
        params=params,
        baseline=Network(sizes, activation=MIXED, norm=False),
        baseline_params=baseline_params,
        batches=rng.normal(size=(3, B, n + 1)) + rng.normal(size=n + 1),
        population=rng.normal(size=5) + 1,
    )
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if isinstance(leaf, np.ndarray) else leaf,
        case,
        is_leaf=lambda leaf: not isinstance(leaf, tuple) or isinstance(leaf, Activation),
    )


def _best(candidates: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> Any:
    """Choose for each column the candidate of largest spread, with and without weights."""

    def condition(w: np.ndarray) -> np.ndarray:
        mean = (w * columns).sum(1, keepdims=True) / w.sum()
        var = (w * (columns - mean) ** 2).sum(1) / w.sum()
        return np.abs(columns).max(1) / np.sqrt(np.maximum(var, 1e-300))

    chosen = np.maximum(condition(np.ones_like(weights)), condition(weights)).argmin(0)
    return np.take_along_axis(candidates, chosen[None, None, :], 0)[0]


def float64(params: Params) -> list[tuple[np.ndarray, ...]]:
    """Convert a network's parameters to float64, each layer to a plain tuple."""
    return [tuple(np.asarray(leaf, np.float64) for leaf in layer) for layer in params]
