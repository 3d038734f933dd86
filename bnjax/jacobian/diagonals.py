"""The Jacobians of one sample's layer that are diagonal: in y, γ and β (D.14, D.15, D.16).

(D.14)  ∂g(y_s)/∂y_s = diag(g'(y_s))
(D.15)  ∂y_s/∂γ = diag(x̂_s)
(D.16)  ∂y_s/∂β = I

Source: S4 (1)-(3).
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from bnjax import _checks, activations, matrix
from bnjax.activations import Activation
from bnjax.jacobian.sizes import MAX_ELEMENTS, check_size


def activation_jacobian(
    y: ArrayLike, activation: str | Activation, *, max_elements: int = MAX_ELEMENTS
) -> Array:
    """Return the Jacobian of u = g(y) in y, sample by sample: diag(g'(y_s)) (D.14).

    Args:
        y: What is activated, (B, n).
        activation: A name in `activations.ACTIVATIONS`, or an `Activation`.
        max_elements: The most numbers the result may have.

    Returns:
        (B, n, n), of y's dtype. Products are g'(y) ⊙ t.

    Raises:
        TypeError: y is not floating.
        ValueError: An argument does not fit, or B n² > max_elements.

    Example:
        >>> print(activation_jacobian(jnp.array([[-1.0, 2.0]]), "relu")[0])
        [[0. 0.]
         [0. 1.]]
    """
    y = _checks.matrix("jacobian.activation_jacobian", "y", y)
    shape = (*y.shape, y.shape[1])
    check_size("activation_jacobian", shape, max_elements, "its product is g'(y) * t")
    return _diagonals(activations.get(activation).g_prime(y))  # D.14


def gamma_jacobian(x: ArrayLike, *, eps: float = 1e-5, max_elements: int = MAX_ELEMENTS) -> Array:
    """Return the Jacobian of y in γ, sample by sample: diag(x̂_s) (D.15).

    Args:
        x: The batch, (B, n), B ≥ 2.
        eps: ε ≥ 0.
        max_elements: The most numbers the result may have.

    Returns:
        (B, n, n); float32, or float64 for float64 input. ∂C/∂γ is Σ_s x̂_s ⊙ Δ_s.

    Raises:
        TypeError: x is not floating.
        ValueError: x or eps does not fit, or B n² > max_elements.

    Example:
        >>> print(gamma_jacobian(jnp.array([[0.0, 6.0], [4.0, 2.0]]), eps=0.0)[1])
        [[ 1.  0.]
         [ 0. -1.]]
    """
    residuals = matrix.normalize_batch("jacobian.gamma_jacobian", x, None, eps)
    shape = (*residuals.x.shape, residuals.x.shape[1])
    check_size("gamma_jacobian", shape, max_elements, "its product is x̂ * t")
    return _diagonals(matrix.unpack(residuals).x_hat)  # D.15


def beta_jacobian(batch: int, n: int, *, max_elements: int = MAX_ELEMENTS) -> Array:
    """Return the Jacobian of y in β, sample by sample: the identity (D.16).

    Args:
        batch: B.
        n: The number of channels.
        max_elements: The most numbers the result may have.

    Returns:
        (B, n, n), in JAX's default float. ∂C/∂β is Σ_s Δ_s.

    Raises:
        ValueError: B n² > max_elements.

    Example:
        >>> print(beta_jacobian(3, 2)[2])
        [[1. 0.]
         [0. 1.]]
    """
    check_size("beta_jacobian", (batch, n, n), max_elements, "its product is t")
    return jnp.broadcast_to(jnp.eye(n), (batch, n, n))  # D.16


def _diagonals(rows: Array) -> Array:
    # not rows · I: NaN in one neuron is none of the others'
    return jnp.where(jnp.eye(rows.shape[1], dtype=bool)[None], rows[:, :, None], 0)
