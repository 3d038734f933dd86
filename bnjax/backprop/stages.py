"""The pull-back of one normalization in stages, as the influence diagram of S3 has it.

(D.6)  ∂C/∂x̂ = γ Δ,
       ∂C/∂σ² = −½ r³ Σ_s (x_s − μ) ∂C/∂x̂_s,
       ∂C/∂μ = −r Σ_s ∂C/∂x̂_s − (2/B) ∂C/∂σ² Σ_s (x_s − μ),
       ∂C/∂x = r ∂C/∂x̂ + (2/B) (x − μ) ∂C/∂σ² + ∂C/∂μ / B

Source: S3; Ioffe & Szegedy 2015.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from bnjax import matrix


class Chain(NamedTuple):
    """∂C/∂x̂ (B, n), ∂C/∂σ² (n,), ∂C/∂μ (n,) and ∂C/∂x (B, n) of D.6."""

    x_hat_bar: Array
    var_bar: Array
    mean_bar: Array
    x_bar: Array


def staged_chain(
    x: ArrayLike,
    gamma: ArrayLike | None,
    y_bar: ArrayLike,
    *,
    eps: float = 1e-5,
    vanishing_term: bool = True,
) -> Chain:
    """Pull a cotangent back step by step, as the influence diagram has it (D.6).

    x̂' = γ Δ;  (σ²)' = −½ r³ Σ x̂' (x − μ);  μ' = −r Σ x̂' − (σ²)' (2/B) Σ (x − μ);
    x' = x̂' r + (σ²)' 2 (x − μ)/B + μ'/B, where a prime is ∂C/∂(that). x' is K(Δ).

    Args:
        x: The batch, (B, n), B ≥ 2.
        gamma: γ, (n,). None stands for 1.
        y_bar: Δ = ∂C/∂y, (B, n).
        eps: ε ≥ 0.
        vanishing_term: Whether μ' has its second term, as with Ioffe & Szegedy, or not, as in S3:
            Σ (x − μ) is zero.

    Returns:
        The `Chain`; float32, or float64 for float64 input.

    Raises:
        TypeError: An argument is not floating.
        ValueError: An argument does not fit.

    Example:
        >>> x, y_bar = jnp.array([[-1.0], [1.0]]), jnp.array([[0.0], [4.0]])
        >>> chain = staged_chain(x, None, y_bar, eps=3.0)
        >>> print(chain.var_bar, chain.mean_bar, chain.x_bar[:, 0])
        [-0.25] [-2.] [-0.75  0.75]
    """
    residuals = matrix.normalize_batch("backprop.staged_chain", x, gamma, eps)
    y_bar = matrix.like_batch("backprop.staged_chain", "y_bar", y_bar, residuals)
    a, q = residuals.split.unit[None], residuals.inv_std[None]
    d, r = matrix.deviation(residuals), a * q
    batch = len(d)
    x_hat_bar = y_bar if residuals.gamma is None else residuals.gamma[None] * y_bar
    # with d = a (x − μ) and q = r/a: ∂C/∂(a² σ²) stays in the range where ∂C/∂σ² may leave it
    var_bar = -(q**3) / 2 * jnp.sum(x_hat_bar * d, 0, keepdims=True)
    mean_bar = -r * jnp.sum(x_hat_bar, 0, keepdims=True)
    if vanishing_term:
        mean_bar += a * var_bar * (-2 / batch) * jnp.sum(d, 0, keepdims=True)
    x_bar = x_hat_bar * r + a * var_bar * 2 * d / batch + mean_bar / batch
    return Chain(x_hat_bar, (a * (a * var_bar))[0], mean_bar[0], x_bar)  # D.6
