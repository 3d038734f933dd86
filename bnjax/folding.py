"""Folding: for inference, a normalization becomes part of the linear layer before it.

(P.4)  W' = W diag(γ r_BN),  b' = β − γ μ_BN r_BN

Outside jit, parameters are folded on the host in float64 and rounded once. A folded layer still
loses digits where means are large: u W' + b' is a difference of numbers that are about |μ|/σ times
as large as y and have all been rounded, W' and b' included. That costs y about log10(|μ|/σ) digits.
The normalized layer computes x − μ from x = u W, and rounds nothing large after x.

Source: S3.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from bnjax import _checks, network, population
from bnjax.layout import accumulator_dtype
from bnjax.network import Dense, Network, Params, State


def fold(net: Network, params: Params, state: State) -> tuple[Network, tuple[Dense, ...]]:
    """Return the baseline network that a normalized network is in inference (P.4).

    Args:
        net: A network with `norm=True`.
        params: Its parameters.
        state: Its statistics for inference.

    Returns:
        net: The baseline network of the same sizes.
        params: Its parameters, a tuple of `Dense`, in the dtypes of the given ones.
        `apply` with both returns what `bn_apply(train=False)` returns. Each layer differs by the
        rounding of |u||W'| + |b'|, which costs y about log10(|μ|/σ) digits. Half-precision weights
        have only two or three digits: keep the normalized network if means are large.

    Raises:
        ValueError: The network is not normalized, `params` or `state` does not belong to it, or
            some channel has seen no batch. Where the state is traced that cannot be known: such a
            channel's W' and b' are NaN.

    Example:
        >>> net = network.Network((2, 3, 1))
        >>> params, state = network.init(net, jax.random.key(0))
        >>> y, state = network.bn_apply(net, params, state, jnp.eye(2), train=True)
        >>> net, params = fold(net, params, state)
        >>> print(net.norm, network.apply(net, params, jnp.eye(2)).shape)
        False (2, 1)
    """
    if not net.norm:
        raise ValueError(
            "fold: `net` must be a normalized network (norm=True); got norm=False. A baseline "
            "network has nothing to fold: `apply` runs it as it is."
        )
    network.check_params("fold", net, params, state)
    seen = iter(population.check_seen("fold", network.inference_statistics(net, state)))
    folded = []
    for layer in params:
        if isinstance(layer, Dense):
            folded.append(layer)
            continue
        one = next(seen)
        W, gamma, beta = layer
        means = one.mean, one.remainder
        folded.append(Dense(*_fold(W, None, gamma, beta, means, one.var, net.eps, -1)))
    return replace(net, norm=False, norm_output=False), tuple(folded)


def fold_affine(
    W: ArrayLike,
    b: ArrayLike | None,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    mean: ArrayLike,
    var: ArrayLike,
    eps: float,
    *,
    axis: int,
) -> tuple[Array, Array]:
    """Fold the normalization after a linear layer or convolution into kernel and bias (P.4).

    Args:
        W: The kernel, of any rank.
        b: The bias before the normalization, (n,); None stands for 0.
        gamma: γ, (n,); None stands for 1.
        beta: β, (n,); None stands for 0.
        mean: μ_BN, (n,).
        var: σ²_BN ≥ 0, (n,).
        eps: ε ≥ 0 of the normalization; libraries have different defaults.
        axis: The axis of W that holds the n output features: −1 for (n_in, n_out) and HWIO, as in
            flax and Keras; 0 for (n_out, n_in) and OIHW, as in PyTorch.

    Returns:
        W', with W's shape and dtype, and b', (n,), with the dtype of b, else of beta, else of W.

    Raises:
        TypeError: An array is not floating.
        ValueError: A shape, axis or eps does not fit.

    Example:
        >>> W, b = fold_affine(
        ...     jnp.ones((1, 2)), None, None, None, jnp.ones(2), jnp.full(2, 4.0), 0.0, axis=-1
        ... )
        >>> print(W, b)
        [[0.5 0.5]] [-0.5 -0.5]
    """
    _checks.finite_eps("fold_affine", eps)
    W = _floating("W", W)
    if not isinstance(axis, int) or not -W.ndim <= axis < W.ndim:
        raise ValueError(
            f"fold_affine: `axis` must name the axis of `W` that holds the output features, one of "
            f"{-W.ndim} to {W.ndim - 1} for shape {W.shape}; got {axis!r}."
        )

    def vector(name: str, value: ArrayLike) -> Array | np.ndarray:
        array = _floating(name, value)
        if array.shape != (W.shape[axis],):
            raise ValueError(
                f"fold_affine: `{name}` must have shape ({W.shape[axis]},) to match axis {axis} of "
                f"`W` with shape {W.shape}; got {array.shape}."
            )
        return array

    b, gamma, beta = (
        None if value is None else vector(name, value)
        for name, value in (("b", b), ("gamma", gamma), ("beta", beta))
    )
    return _fold(W, b, gamma, beta, (vector("mean", mean),), vector("var", var), eps, axis)


def _floating(name: str, value: ArrayLike) -> Array | np.ndarray:
    """Check that an array is floating; NumPy's stay NumPy's, which keeps float64 without x64."""
    checked = _checks.floating("fold_affine", name, value)
    return value if isinstance(value, np.ndarray) else checked


def _fold(
    W: Any, b: Any, gamma: Any, beta: Any, means: tuple[Any, ...], var: Any, eps: float, axis: int
) -> tuple[Array, Array]:
    """Return W' and b' (P.4) for a mean given in parts; computed on the host outside jit."""
    arrays = W, b, gamma, beta, means, var
    first = next(a for a in (b, beta, W) if a is not None)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(arrays)]
    here = _checks.known(arrays)
    xp: Any = np if here else jnp
    wide = np.float64 if here else accumulator_dtype(*dtypes)
    W_wide, b, gamma, beta, means, var = jax.tree.map(lambda a: xp.asarray(a, wide), arrays)
    total = var + eps
    slope = 1 / xp.sqrt(xp.where(total == 0, xp.inf, total))  # γ r; there y = β, as in `normalize`
    if gamma is not None:
        slope = gamma * slope
    offset = 0 if b is None else b
    for part in means:  # one after the other: their sum would lose the digits of the second
        offset = offset - part
    offset = slope * offset if beta is None else beta + slope * offset
    along = [1] * W_wide.ndim
    along[axis] = -1
    folded = W_wide * slope.reshape(along)
    return jnp.asarray(folded.astype(W.dtype)), jnp.asarray(offset.astype(first.dtype))
