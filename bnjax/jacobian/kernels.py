"""The kernel of batch normalization as arrays (D.2, D.3, D.10), and its product (D.4).

(D.2)   ∂y_si/∂x_s'i = γ_i r_i [δ_ss' − 1/B − x̂_si x̂_s'i / B]
(D.4)   K(t) = γ r [t − ⟨t⟩ − x̂ ⟨t x̂⟩]
(D.10)  M_i = I − (O + x̂_i x̂_iᵀ)/B

Source: S0/S1 eq. 3.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from bnjax import matrix
from bnjax.jacobian.sizes import MAX_ELEMENTS, check_size
from bnjax.rules.vjp import Residuals


class Spectrum(NamedTuple):
    """Eigenvalues of the kernel in units of γ r, per channel, and the two vectors that differ.

    Attributes:
        values: (B, n): 0, then ε/(σ² + ε), then B − 2 times 1.
        ones: The first value's eigenvector in every channel, (B,).
        x_hat: The second value's, x̂ of each channel, (B, n); 0 where a channel is constant, whose
            second value is 1 like the rest.
    """

    values: Array
    ones: Array
    x_hat: Array


def kernel(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    max_elements: int = MAX_ELEMENTS,
) -> Array:
    """Return the Jacobian of y in x: γ r M (D.2).

    Args:
        x: The batch, (B, n), B ≥ 2.
        gamma: γ, (n,). None stands for 1.
        eps: ε ≥ 0.
        max_elements: The most numbers the result may have.

    Returns:
        (B, B, n): [s, s', i] = ∂y_si/∂x_s'i, symmetric in s and s'; between different neurons it
        is zero and left out. float32, or float64 for float64 input.

    Raises:
        TypeError: x or gamma is not floating.
        ValueError: An argument does not fit, or B² n > max_elements.

    Example:
        >>> print(kernel(jnp.array([[0.0], [0.0], [3.0]]), eps=2.0)[..., 0].round(1))
        [[ 0.3 -0.2 -0.1]
         [-0.2  0.3 -0.1]
         [-0.1 -0.1  0.2]]
    """
    residuals = matrix.normalize_batch("jacobian.kernel", x, gamma, eps)
    return matrix.scale_row(residuals)[None] * _mixing("kernel", residuals, max_elements)  # D.2


def kernel_eigenvalues(x: ArrayLike, *, eps: float = 1e-5) -> Spectrum:
    """Return the eigenvalues of the kernel in closed form, in units of γ r (D.3).

    Args:
        x: The batch, (B, n), B ≥ 2.
        eps: ε ≥ 0.

    Returns:
        The `Spectrum`. The kernel is a projector only where the second value is 0: at ε = 0.

    Raises:
        TypeError: x is not floating.
        ValueError: x or eps does not fit.

    Example:
        >>> spectrum = kernel_eigenvalues(jnp.array([[-1.0], [0.0], [1.0]]), eps=2.0)
        >>> print(spectrum.values[:, 0].round(2))
        [0.   0.75 1.  ]
    """
    residuals = matrix.normalize_batch("jacobian.kernel_eigenvalues", x, None, eps)
    x_hat = matrix.unpack(residuals).x_hat
    unit = residuals.split.unit
    scaled = (eps * unit) * unit
    total = residuals.split.var + scaled  # a² (σ² + ε)
    # where σ² + ε = 0 there is no x̂ to remove, as for σ² = 0 < ε
    second = jnp.where(total > 0, scaled / jnp.where(total > 0, total, 1), 1)
    values = jnp.ones_like(x_hat).at[0].set(0).at[1].set(second)
    return Spectrum(values, jnp.ones_like(x_hat[:, 0]), x_hat)


def kernel_product(
    t: ArrayLike, x: ArrayLike, gamma: ArrayLike | None = None, *, eps: float = 1e-5
) -> Array:
    """Apply the Jacobian of y in x to t, without forming it: K(t) (D.4).

    Args:
        t: A tangent ẋ or a cotangent ȳ, (B, n): K is symmetric.
        x: The batch, (B, n), B ≥ 2.
        gamma: γ, (n,). None stands for 1.
        eps: ε ≥ 0.

    Returns:
        K(t), (B, n); float32, or float64 for float64 input.

    Raises:
        TypeError: An argument is not floating.
        ValueError: An argument does not fit.

    Example:
        >>> x, t = jnp.array([[-1.0], [1.0]]), jnp.array([[0.0], [4.0]])
        >>> print(kernel_product(t, x, eps=3.0)[:, 0])
        [-0.75  0.75]
    """
    residuals = matrix.normalize_batch("jacobian.kernel_product", x, gamma, eps)
    return matrix.kernel_times(
        residuals, matrix.like_batch("jacobian.kernel_product", "t", t, residuals)
    )


def mixing_matrix(x: ArrayLike, *, eps: float = 1e-5, max_elements: int = MAX_ELEMENTS) -> Array:
    """Return M, with which ∂C/∂W_ji = γ_i r_i Δ_iᵀ M_i u_j (D.10).

    Args:
        x: The batch, (B, n), B ≥ 2.
        eps: ε ≥ 0.
        max_elements: The most numbers the result may have.

    Returns:
        (B, B, n): [s, s', i]; float32, or float64 for float64 input.

    Raises:
        TypeError: x is not floating.
        ValueError: x or eps does not fit, or B² n > max_elements.

    Example:
        >>> print(mixing_matrix(jnp.array([[-1.0], [1.0]]), eps=1.0)[..., 0])
        [[ 0.25 -0.25]
         [-0.25  0.25]]
    """
    residuals = matrix.normalize_batch("jacobian.mixing_matrix", x, None, eps)
    return _mixing("mixing_matrix", residuals, max_elements)


def _mixing(function: str, residuals: Residuals, max_elements: int) -> Array:
    batch, n = residuals.x.shape
    check_size(function, (batch, batch, n), max_elements, "`kernel_product` is K(t)")
    x_hat = matrix.unpack(residuals).x_hat
    identity = jnp.eye(batch, dtype=x_hat.dtype)[:, :, None]
    return identity - (1 + x_hat[:, None] * x_hat[None]) / batch  # D.10
