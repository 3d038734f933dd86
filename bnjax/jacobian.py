"""The Jacobians of batch normalization as arrays, for looking at and for checking.

(D.2)   ∂y_si/∂x_s'i = γ_i r_i [δ_ss' − 1/B − x̂_si x̂_s'i / B]
(D.3)   in units of γ r its eigenvalues are 0 (along 1), ε/(σ² + ε) (along x̂), 1 (all others)
(D.8)   ∂y_si/∂W_ji = γ_i r_i [u_sj − ⟨u_j⟩ − x̂_si ⟨u_j x̂_i⟩]
(D.10)  M_i = I − (O + x̂_i x̂_iᵀ)/B, O all ones
(D.13)  with the statistics held constant ∂y_si/∂W_ji = γ_i r_i u_sj,  ∂C/∂W = uᵀ (Δ ⊙ γ r)
(D.14)  ∂u_s/∂y_s = diag(g'(y_s))
(D.15)  ∂y_s/∂γ = diag(x̂_s)
(D.16)  ∂y_s/∂β = I

Each is dense: B² n numbers for D.2, and as many as its shape says for the others. Above
`max_elements` they refuse. Products need no array: `kernel_product` is K.

Source: S0/S1 eq. 1 and 3, S4 (1)–(4).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from bnjax import activations, matrix, norm
from bnjax.activations import Activation
from bnjax.matrix import forward, found, scale
from bnjax.rules import Saved

MAX_ELEMENTS = 2**27  # 1 GiB of float64


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
    """Form the Jacobian of y in x: γ r M (D.2).

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
    saved = prepare("jacobian.kernel", x, gamma, eps)
    return scale(saved)[None] * _mixing("kernel", saved, max_elements)  # D.2


def kernel_eigenvalues(x: ArrayLike, *, eps: float = 1e-5) -> Spectrum:
    """Tell the eigenvalues of the kernel in closed form, in units of γ r (D.3).

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
    saved = prepare("jacobian.kernel_eigenvalues", x, None, eps)
    x_hat, _, moments = found(saved)
    total = moments.var + eps
    # where σ² + ε = 0 there is no x̂ to remove, as for σ² = 0 < ε
    second = jnp.where(total > 0, eps / jnp.where(total > 0, total, 1), 1)
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
    saved = prepare("jacobian.kernel_product", x, gamma, eps)
    return matrix.K(saved, alike("jacobian.kernel_product", "t", t, saved))


def mixing_matrix(x: ArrayLike, *, eps: float = 1e-5, max_elements: int = MAX_ELEMENTS) -> Array:
    """Form M, with which ∂C/∂W_ji = γ_i r_i Δ_iᵀ M_i u_j (D.10).

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
    saved = prepare("jacobian.mixing_matrix", x, None, eps)
    return _mixing("mixing_matrix", saved, max_elements)


def weight_jacobian(
    u: ArrayLike,
    W: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    max_elements: int = MAX_ELEMENTS,
) -> Array:
    """Form the Jacobian of y in W, where x = u W: K pushes each input u_j forward (D.8).

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
    u, saved = _layer("weight_jacobian", u, W, gamma, eps, max_elements)

    def push(u_j: Array) -> Array:
        return matrix.K(saved, jnp.broadcast_to(u_j[:, None], saved.x.shape))

    return jax.vmap(push, in_axes=1, out_axes=1)(u)  # D.8


def frozen_weight_jacobian(
    u: ArrayLike,
    W: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    max_elements: int = MAX_ELEMENTS,
) -> Array:
    """Form the Jacobian of y in W with the batch's statistics held constant: γ_i r_i u_sj (D.13).

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
    u, saved = _layer("frozen_weight_jacobian", u, W, gamma, eps, max_elements)
    return scale(saved)[None] * u[:, :, None]  # D.13


def activation_jacobian(
    y: ArrayLike, activation: str | Activation, *, max_elements: int = MAX_ELEMENTS
) -> Array:
    """Form the Jacobian of u = g(y) in y, sample by sample: diag(g'(y_s)) (D.14).

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
    y = _matrix("jacobian.activation_jacobian", "y", y)
    shape = (*y.shape, y.shape[1])
    _check_size("activation_jacobian", shape, max_elements, "its product is g'(y) * t")
    return _diagonals(activations.get(activation).g_prime(y))  # D.14


def gamma_jacobian(x: ArrayLike, *, eps: float = 1e-5, max_elements: int = MAX_ELEMENTS) -> Array:
    """Form the Jacobian of y in γ, sample by sample: diag(x̂_s) (D.15).

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
    saved = prepare("jacobian.gamma_jacobian", x, None, eps)
    shape = (*saved.x.shape, saved.x.shape[1])
    _check_size("gamma_jacobian", shape, max_elements, "its product is x̂ * t")
    return _diagonals(found(saved).x_hat)  # D.15


def beta_jacobian(batch: int, n: int, *, max_elements: int = MAX_ELEMENTS) -> Array:
    """Form the Jacobian of y in β, sample by sample: the identity (D.16).

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
    _check_size("beta_jacobian", (batch, n, n), max_elements, "its product is t")
    return jnp.broadcast_to(jnp.eye(n), (batch, n, n))  # D.16


def _mixing(function: str, saved: Saved, max_elements: int) -> Array:
    batch, n = saved.x.shape
    _check_size(function, (batch, batch, n), max_elements, "`kernel_product` is K(t)")
    x_hat = found(saved).x_hat
    identity = jnp.eye(batch, dtype=x_hat.dtype)[:, :, None]
    return identity - (1 + x_hat[:, None] * x_hat[None]) / batch  # D.10


def _diagonals(rows: Array) -> Array:
    # not rows · I: NaN in one neuron is none of the others'
    return jnp.where(jnp.eye(rows.shape[1], dtype=bool)[None], rows[:, :, None], 0)


def _layer(
    function: str, u: ArrayLike, W: ArrayLike, gamma: ArrayLike | None, eps: float, most: int
) -> tuple[Array, Saved]:
    """Check a layer and normalize its u W; hand u on in the sums' dtype."""
    u, W = _matrix(f"jacobian.{function}", "u", u), _matrix(f"jacobian.{function}", "W", W)
    if u.shape[1] != W.shape[0]:
        raise ValueError(
            f"jacobian.{function}: `W` must have shape ({u.shape[1]}, n_out) to match `u` with "
            f"shape {u.shape}; got {W.shape}."
        )
    _check_size(function, (*u.shape, W.shape[1]), most, "its products are K(ẋ) and uᵀ K(Δ)")
    saved = prepare(f"jacobian.{function}", u @ W, gamma, eps)
    return u.astype(saved.inv_std.dtype), saved


def prepare(function: str, x: ArrayLike, gamma: ArrayLike | None, eps: float) -> Saved:
    """Check a batch (B, n) and normalize it."""
    x = _matrix(function, "x", x)
    norm.check_eps(function, eps)
    if gamma is not None:
        gamma = norm.per_channel(function, "gamma", gamma, x, (1,)).reshape(-1)
    return forward(x, gamma, None, None, eps=eps)[1]


def alike(function: str, name: str, t: ArrayLike, saved: Saved) -> Array:
    """Check a tangent or cotangent of the batch; hand it on in the sums' dtype."""
    t = _matrix(function, name, t)
    if t.shape != saved.x.shape:
        raise ValueError(
            f"{function}: `{name}` must have the shape of `x`, {saved.x.shape}; got {t.shape}."
        )
    return t.astype(saved.inv_std.dtype)


def _matrix(function: str, name: str, value: ArrayLike) -> Array:
    array = norm.floating(function, name, value)
    if array.ndim != 2:
        raise ValueError(
            f"{function}: `{name}` must have two axes, samples first; got shape {array.shape}."
        )
    return array


def _check_size(function: str, shape: tuple[int, ...], max_elements: int, instead: str) -> None:
    elements = math.prod(shape)
    if elements > max_elements:
        raise ValueError(
            f"jacobian.{function}: the dense Jacobian must have at most `max_elements` = "
            f"{max_elements} numbers; got shape {shape}, {elements} of them. Take fewer samples, "
            f"allow more, or do without: {instead}."
        )
