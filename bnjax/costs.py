"""Costs, each with the link that turns logits into predictions, and its output error.

(BL.2)  C = Σ_s w_s C_s / Σ_s w_s
(BL.3)  Δᴸ = w (uᴸ − φ) / Σ_s w_s

C_s, the cost of one sample, is a sum over the outputs. BL.3 holds for each cost with its own link.
Without sample weights w = 1.

Source: S0/S1 §1; squared error and softmax are among the costs the sources allow.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from bnjax._checks import unknown_name, weights
from bnjax._xla import as_written
from bnjax.layout import accumulator_dtype
from bnjax.powers_of_two import scale_to_one


class Cost(NamedTuple):
    """A cost of logits y and targets φ, with its link.

    Attributes:
        per_sample: (y, φ), both (B, n_out) -> C_s, (B,).
        link: y -> u = the prediction: sigmoid, softmax or the identity.
        error: (y, φ) -> ∂C_s/∂y = u − φ, (B, n_out), without cancellation where possible; for
            softmax u Σ_i φ_i − φ, which is the same where φ adds up to one.
    """

    per_sample: Callable[[Array, Array], Array]
    link: Callable[[Array], Array]
    error: Callable[[Array, Array], Array]


def _sigmoid_cross_entropy(y: Array, targets: Array) -> Array:
    # −φ log u − (1 − φ) log(1 − u), without forming u, which rounds to 0 or 1; and not as
    # softplus(y) − φ y, whose derivative u − φ cancels where the prediction is good
    return jnp.sum(targets * jax.nn.softplus(-y) + (1 - targets) * jax.nn.softplus(y), axis=-1)


def _sigmoid_error(y: Array, targets: Array) -> Array:
    # (1 − φ) u − φ (1 − u), both u and 1 − u from one exponential that cannot overflow
    e = jnp.exp(-jnp.abs(y))
    large = 1 / (1 + e)
    small = e * large
    u, rest = jnp.where(y > 0, large, small), jnp.where(y > 0, small, large)
    return (1 - targets) * u - targets * rest


def _softmax_cross_entropy(y: Array, targets: Array) -> Array:
    return -jnp.sum(targets * jax.nn.log_softmax(y), axis=-1)


def _softmax_error(y: Array, targets: Array) -> Array:
    # u − φ where each row of φ adds up to one
    return jax.nn.softmax(y) * jnp.sum(targets, axis=-1, keepdims=True) - targets


def _squared_error(y: Array, targets: Array) -> Array:
    return jnp.sum((y - targets) ** 2, axis=-1) / 2


COSTS: dict[str, Cost] = {
    "sigmoid_cross_entropy": Cost(_sigmoid_cross_entropy, jax.nn.sigmoid, _sigmoid_error),
    "softmax_cross_entropy": Cost(_softmax_cross_entropy, jax.nn.softmax, _softmax_error),
    "squared_error": Cost(_squared_error, lambda y: y, lambda y, targets: y - targets),
}


def get(cost: str) -> Cost:
    """Return the cost of a name.

    Args:
        cost: One of the names in `COSTS`.

    Returns:
        The cost with its link.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> print(get("sigmoid_cross_entropy").link(jnp.zeros(2)))
        [0.5 0.5]
    """
    if cost not in COSTS:
        raise ValueError(unknown_name("Network", "cost", cost, COSTS))
    return COSTS[cost]


def mean(values: Array, where: Array | None = None) -> Array:
    """Return the weighted mean over the samples: Σ_s w_s C_s / Σ_s w_s (BL.2).

    Args:
        values: C_s, (B,).
        where: None, or w, (B,): a mask or finite weights ≥ 0, whose scale does not matter. A C_s
            under zero weight influences nothing, NaN included.

    Returns:
        The mean, a scalar; 0 where no sample has weight, NaN where a traced weight is none.

    Raises:
        TypeError: where is neither boolean nor real.
        ValueError: A weight is negative, infinite or NaN, where its value is known.

    Example:
        >>> print(mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([True, True, False])))
        2.0
    """
    if where is None:
        return jnp.mean(values)
    p = fractions("costs.mean", where, values.dtype)
    return jnp.sum(jnp.where(where != 0, p * values, 0)).astype(values.dtype)


def fractions(function: str, where: Array, dtype: jnp.dtype) -> Array:
    """Return w / Σ w in the sums' dtype, (B,): 0 where no sample has weight."""
    w = weights(function, where, accumulator_dtype(dtype))
    w = as_written(w * scale_to_one(jnp.mean(w)))
    total = jnp.sum(w)
    return w / jnp.where(total == 0, 1, total)


def output_error(cost: str, y: Array, targets: Array, where: Array | None = None) -> Array:
    """Return Δᴸ = ∂C/∂yᴸ, the same expression for every cost with its link (BL.3).

    Args:
        cost: One of the names in `COSTS`.
        y: Logits, (B, n_out).
        targets: φ, (B, n_out).
        where: None, or w, (B,): as in `mean`.

    Returns:
        Δᴸ, (B, n_out); 0 where the weight is zero.

    Raises:
        TypeError: As in `mean`.
        ValueError: As in `mean`.

    Example:
        >>> print(output_error("squared_error", jnp.array([[3.0]]), jnp.array([[1.0]])))
        [[2.]]
    """
    error = get(cost).error(y, targets)
    if where is None:
        return error / y.shape[0]
    p = fractions("costs.output_error", where, y.dtype)[:, None]
    return jnp.where(where[:, None] != 0, p * error, 0).astype(error.dtype)
