"""One layer, for the identities: by JAX's autodiff of plain formulas, and by the library.

Each function is compiled once per shape, dtype and (for the library, whose ε is static) ε, and
shared by all identities.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from bnjax import backprop, jacobian, norm
from bnjax.identities.cases import Case
from bnjax.identities.quick import quick


class LayerDerivatives(NamedTuple):
    """One normalized layer: y, its moments, and its pull-backs."""

    y: Array
    mean: Array
    var: Array
    x_bar: Array  # of Σ ȳ y
    gamma_bar: Array
    beta_bar: Array
    x_bar_moments: Array  # of Σ ȳ y + Σ μ̄ μ + Σ σ̄² σ²
    var_x: Array  # ∂σ²/∂x_s


def bn(x: Array, gamma: Any, beta: Any, eps: Any) -> tuple[Array, Array, Array]:
    """Compute (y, μ, σ²) by the plain formulas BN.2 and BN.3."""
    mean = jnp.mean(x, 0, keepdims=True)
    var = jnp.mean((x - mean) ** 2, 0, keepdims=True)
    return gamma * (x - mean) / jnp.sqrt(var + eps) + beta, mean[0], var[0]


def _pull_backs(
    function: Any, x: Any, gamma: Any, beta: Any, y_bar: Any, bars: Any
) -> LayerDerivatives:
    (y, mean, var), pull = jax.vjp(function, x, gamma, beta)
    zero = jnp.zeros_like(mean)
    # one pull-back of three cotangents: three of one are three times the code to compile
    x_bars, gamma_bars, beta_bars = jax.vmap(pull)(
        (
            jnp.stack([y_bar, y_bar, 0 * y_bar]),
            jnp.stack([zero, bars[0], zero]),
            jnp.stack([zero, bars[1], zero + 1]),
        )
    )
    return LayerDerivatives(
        y, mean, var, x_bars[0], gamma_bars[0], beta_bars[0], x_bars[1], x_bars[2]
    )


@quick("eps", "rule")
def rule_derivatives(
    x: Any, gamma: Any, beta: Any, y_bar: Any, bars: Any, where: Any, *, eps: float, rule: str
) -> LayerDerivatives:
    """Differentiate `batch_norm` by one of its rules."""

    def function(x: Array, gamma: Array, beta: Array) -> tuple[Array, Array, Array]:
        y, (mean, var, *_) = norm.batch_norm(x, gamma, beta, eps=eps, where=where, rule=rule)
        return y, mean, var

    return _pull_backs(function, x, gamma, beta, y_bar, bars)


@quick()
def plain_derivatives(
    x: Any, gamma: Any, beta: Any, y_bar: Any, bars: Any, eps: Any
) -> LayerDerivatives:
    """Differentiate the plain formulas by autodiff."""

    def function(x: Array, gamma: Array, beta: Array) -> tuple[Array, Array, Array]:
        return bn(x, gamma[None], beta[None], eps)

    return _pull_backs(function, x, gamma, beta, y_bar, bars)


class Tangents(NamedTuple):
    """Tangents of one normalized layer along (ẋ, γ̇, β̇)."""

    y_dot: Array
    mean_dot: Array
    var_dot: Array


class Jacobians(NamedTuple):
    """∂y/∂(that), the output's axes first, by forward mode, and tangents."""

    x: Array  # (B, n, B, n)
    gamma: Array  # (B, n, n)
    beta: Array  # (B, n, n)
    along_x: Tangents  # along ẋ
    along_all: Tangents  # along (ẋ, γ̇, β̇)


@quick()
def plain_jacobians(x: Any, gamma: Any, beta: Any, dots: Any, eps: Any) -> Jacobians:
    """Compute the Jacobians and tangents of one normalized layer by forward-mode autodiff."""

    def function(x: Array, gamma: Array, beta: Array) -> tuple[Array, Array, Array]:
        return bn(x, gamma[None], beta[None], eps)

    primals = x, gamma, beta
    in_x, in_gamma, in_beta = jax.jacfwd(lambda *args: function(*args)[0], (0, 1, 2))(*primals)
    x_dot, gamma_dot, beta_dot = dots
    along_x = jax.jvp(function, primals, (x_dot, 0 * gamma_dot, 0 * beta_dot))[1]
    along_all = jax.jvp(function, primals, dots)[1]
    return Jacobians(in_x, in_gamma, in_beta, Tangents(*along_x), Tangents(*along_all))


@quick("eps")
def rule_tangents(x: Any, gamma: Any, beta: Any, dots: Any, *, eps: float) -> Tangents:
    """Push tangents of (x, γ, β) forward by the library's hand-derived rule."""

    def function(x: Array, gamma: Array, beta: Array) -> tuple[Array, Array, Array]:
        y, (mean, var, *_) = norm.batch_norm(x, gamma, beta, eps=eps, rule="jvp")
        return y, mean, var

    return Tangents(*jax.jvp(function, (x, gamma, beta), dots)[1])


class WeightDerivatives(NamedTuple):
    """∂y/∂W (B, n, n_in, n), and gradients of Σ ȳ y in W, γ and a bias before normalization."""

    jacobian: Array
    frozen_jacobian: Array  # with the statistics held constant
    W: Array
    gamma: Array
    bias: Array
    frozen_W: Array


@quick()
def plain_weights(u: Any, W: Any, gamma: Any, beta: Any, y_bar: Any, eps: Any) -> WeightDerivatives:
    """Differentiate y = BN(u W + b), b = 0, in the weights, by autodiff."""

    def y(W: Array, gamma: Array, bias: Array) -> Array:
        return bn(u @ W + bias[None], gamma[None], beta[None], eps)[0]

    _, mean, var = bn(u @ W, gamma[None], beta[None], eps)

    def frozen(W: Array) -> Array:
        return gamma[None] * (u @ W - mean[None]) / jnp.sqrt(var[None] + eps) + beta[None]

    zero = jnp.zeros_like(beta)
    return WeightDerivatives(
        jax.jacfwd(y)(W, gamma, zero),
        jax.jacfwd(frozen)(W),
        *jax.vjp(y, W, gamma, zero)[1](y_bar),
        *jax.vjp(frozen, W)[1](y_bar),
    )


@quick("eps")
def rule_weights(
    u: Any, W: Any, gamma: Any, beta: Any, bias: Any, y_bar: Any, *, eps: float
) -> tuple[Array, Array, Array, Array]:
    """Compute y = BN(u W + b) and its pull-backs to W, γ and b, by the library's rule."""

    def y(W: Array, gamma: Array, bias: Array) -> Array:
        return norm.batch_norm(u @ W + bias[None], gamma, beta, eps=eps)[0]

    value, pull = jax.vjp(y, W, gamma, bias)
    return value, *pull(y_bar)


class LibraryJacobians(NamedTuple):
    """The Jacobians of one layer by `jacobian`, and its pull-back by `backprop.staged_chain`."""

    kernel: Array
    values: Array
    product: Array
    mixing: Array
    gamma: Array
    beta: Array
    weight: Array
    frozen: Array
    chain: backprop.Chain
    chain_s3: backprop.Chain  # without the vanishing term


@quick("eps")
def _library_jacobians(
    x: Any, gamma: Any, y_bar: Any, u: Any, W: Any, *, eps: float
) -> LibraryJacobians:
    return LibraryJacobians(
        jacobian.kernel(x, gamma, eps=eps),
        jacobian.kernel_eigenvalues(x, eps=eps).values,
        jacobian.kernel_product(y_bar, x, gamma, eps=eps),
        jacobian.mixing_matrix(x, eps=eps),
        jacobian.gamma_jacobian(x, eps=eps),
        jacobian.beta_jacobian(*x.shape),
        jacobian.weight_jacobian(u, W, gamma, eps=eps),
        jacobian.frozen_weight_jacobian(u, W, gamma, eps=eps),
        backprop.staged_chain(x, gamma, y_bar, eps=eps),
        backprop.staged_chain(x, gamma, y_bar, eps=eps, vanishing_term=False),
    )


def by_library_jacobian(case: Case) -> LibraryJacobians:
    """Compute the case's Jacobians by the library."""
    arrays = case.x, case.gamma, case.y_bar, case.u, case.W
    return _library_jacobians(*arrays, eps=case.eps)


def by_rule(case: Case, rule: str = "vjp", where: Any = None) -> LayerDerivatives:
    """Differentiate `batch_norm` at the case's x by one of its rules."""
    bars = case.mean_bar, case.var_bar
    arrays = case.x, case.gamma, case.beta, case.y_bar, bars, where
    return rule_derivatives(*arrays, eps=case.eps, rule=rule)


def by_plain(case: Case) -> LayerDerivatives:
    """Differentiate the plain formulas at the case's x by autodiff."""
    bars = case.mean_bar, case.var_bar
    return plain_derivatives(case.x, case.gamma, case.beta, case.y_bar, bars, case.eps)


def dots_of(case: Case) -> tuple[Any, Any, Any]:
    """Return tangents (ẋ, γ̇, β̇): the case's, and two of its other vectors."""
    return case.x_dot, case.factor, case.bias


def by_jacobian(case: Case) -> Jacobians:
    """Compute the Jacobians and tangents at the case's x by autodiff of the plain formulas."""
    return plain_jacobians(case.x, case.gamma, case.beta, dots_of(case), case.eps)


def by_rule_tangents(case: Case) -> Tangents:
    """Push the case's tangents forward by the library's hand-derived rule."""
    return rule_tangents(case.x, case.gamma, case.beta, dots_of(case), eps=case.eps)


def by_weights(case: Case) -> WeightDerivatives:
    """Differentiate the case's layer u W in its weights, by autodiff of the plain formulas."""
    return plain_weights(case.u, case.W, case.gamma, case.beta, case.y_bar, case.eps)


def by_weights_library(case: Case) -> tuple[Array, Array, Array, Array]:
    """Differentiate the case's layer u W + b in its weights, by the library's rule."""
    arrays = case.u, case.W, case.gamma, case.beta, case.bias, case.y_bar
    return rule_weights(*arrays, eps=case.eps)
