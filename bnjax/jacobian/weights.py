"""The Jacobian of a normalized layer in its weights, moving or frozen statistics (D.8, D.13).

(D.8)   ∂y_si/∂W_ji = γ_i r_i [u_sj − ⟨u_j⟩ − x̂_si ⟨u_j x̂_i⟩]
(D.13)  ∂y_si/∂W_ji = γ_i r_i u_sj where μ, σ² are constant

Source: S0/S1 eq. 1, S4 (4).
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from bnjax import _checks, matrix
from bnjax.jacobian.sizes import MAX_ELEMENTS, check_size
from bnjax.rules.vjp import Residuals


def weight_jacobian(
    u: ArrayLike,
    W: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    max_elements: int = MAX_ELEMENTS,
) -> Array:
    """Return the Jacobian of y in W, where x = u W: K pushes each input u_j forward (D.8).

    Args:
        u: The layer's input, (B, n_in), B ≥ 2.
        W: The weights, (n_in, n_out).
        gamma: γ, (n_out,). None stands for 1.
        eps: ε ≥ 0.
        max_elements: The most numbers the result may have.

    Returns:
        (B, n_in, n_out): [s, j, i] = ∂y_si/∂W_ji; for the weights of other neurons it is zero and
        left out. float32, or float64 for float64 input.

    Raises:
        TypeError: An argument is not floating.
        ValueError: An argument does not fit, or B n_in n_out > max_elements.

    Example:
        >>> u = jnp.array([[-1.0, 4.0], [1.0, 4.0]])
        >>> print(weight_jacobian(u, jnp.ones((2, 1)), eps=3.0)[..., 0])
        [[-0.375  0.   ]
         [ 0.375  0.   ]]
    """
    u, residuals = _layer("weight_jacobian", u, W, gamma, eps, max_elements)

    def push(u_j: Array) -> Array:
        return matrix.kernel_times(residuals, jnp.broadcast_to(u_j[:, None], residuals.x.shape))

    return jax.vmap(push, in_axes=1, out_axes=1)(u)  # D.8


def frozen_weight_jacobian(
    u: ArrayLike,
    W: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    max_elements: int = MAX_ELEMENTS,
) -> Array:
    """Return the Jacobian of y in W with the batch's statistics held constant: γ_i r_i u_sj (D.13).

    This is what S4 (4) observes. It is not the derivative of batch normalization (D.8).

    Args:
        u: The layer's input, (B, n_in), B ≥ 2.
        W: The weights, (n_in, n_out); r is that of x = u W.
        gamma: γ, (n_out,). None stands for 1.
        eps: ε ≥ 0.
        max_elements: The most numbers the result may have.

    Returns:
        (B, n_in, n_out): [s, j, i]; float32, or float64 for float64 input.

    Raises:
        TypeError: An argument is not floating.
        ValueError: An argument does not fit, or B n_in n_out > max_elements.

    Example:
        >>> u = jnp.array([[-1.0, 4.0], [1.0, 4.0]])
        >>> print(frozen_weight_jacobian(u, jnp.ones((2, 1)), eps=3.0)[..., 0])
        [[-0.5  2. ]
         [ 0.5  2. ]]
    """
    u, residuals = _layer("frozen_weight_jacobian", u, W, gamma, eps, max_elements)
    return matrix.scale_row(residuals)[None] * u[:, :, None]  # D.13


def _layer(
    function: str, u: ArrayLike, W: ArrayLike, gamma: ArrayLike | None, eps: float, most: int
) -> tuple[Array, Residuals]:
    """Check a layer and normalize its u W; return u in the sums' dtype, and the residuals."""
    u, W = (
        _checks.matrix(f"jacobian.{function}", "u", u),
        _checks.matrix(f"jacobian.{function}", "W", W),
    )
    if u.shape[1] != W.shape[0]:
        raise ValueError(
            f"jacobian.{function}: `W` must have shape ({u.shape[1]}, n_out) to match `u` with "
            f"shape {u.shape}; got {W.shape}."
        )
    check_size(function, (*u.shape, W.shape[1]), most, "its products are K(ẋ) and uᵀ K(Δ)")
    x = jnp.matmul(u, W, precision="highest")  # the default is TF32 or bfloat16 on accelerators
    residuals = matrix.normalize_batch(f"jacobian.{function}", x, gamma, eps)
    return u.astype(residuals.inv_std.dtype), residuals
