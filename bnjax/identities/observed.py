"""What is looked at from outside: the library's rules, and JAX's autodiff of plain formulas.

Each function is compiled once per shape, dtype and (for the library, whose ε is static) ε, and
shared by all identities.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import activations, backprop, costs, jacobian, network, norm, population
from bnjax.identities.cases import Case
from bnjax.identities.quick import quick
from bnjax.network import Dense, Network


class Seen(NamedTuple):
    """One normalized layer: y and moments, and what its differentiation gives."""

    y: Array
    mean: Array
    var: Array
    x_bar: Array  # of Σ ȳ y
    gamma_bar: Array
    beta_bar: Array
    x_bar_moments: Array  # of Σ ȳ y + Σ μ̄ μ + Σ σ̄² σ²
    var_x: Array  # ∂σ²/∂x_s


def bn(x: Array, gamma: Any, beta: Any, eps: Any) -> tuple[Array, Array, Array]:
    """Write BN.2, BN.3 down plainly: (y, μ, σ²)."""
    mean = jnp.mean(x, 0, keepdims=True)
    var = jnp.mean((x - mean) ** 2, 0, keepdims=True)
    return gamma * (x - mean) / jnp.sqrt(var + eps) + beta, mean[0], var[0]


def _seen(function: Any, x: Any, gamma: Any, beta: Any, y_bar: Any, bars: Any) -> Seen:
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
    return Seen(y, mean, var, x_bars[0], gamma_bars[0], beta_bars[0], x_bars[1], x_bars[2])


@quick("eps", "rule")
def library(
    x: Any, gamma: Any, beta: Any, y_bar: Any, bars: Any, where: Any, *, eps: float, rule: str
) -> Seen:
    """Differentiate `batch_norm` by one of its rules."""

    def function(x: Array, gamma: Array, beta: Array) -> tuple[Array, Array, Array]:
        y, (mean, var, _) = norm.batch_norm(x, gamma, beta, eps=eps, where=where, rule=rule)
        return y, mean, var

    return _seen(function, x, gamma, beta, y_bar, bars)


@quick()
def plain(x: Any, gamma: Any, beta: Any, y_bar: Any, bars: Any, eps: Any) -> Seen:
    """Differentiate the plain formula by autodiff."""

    def function(x: Array, gamma: Array, beta: Array) -> tuple[Array, Array, Array]:
        return bn(x, gamma[None], beta[None], eps)

    return _seen(function, x, gamma, beta, y_bar, bars)


class Jacobians(NamedTuple):
    """∂y/∂(that), the output's axes first, by forward mode; y_dot is the tangent along ẋ."""

    x: Array  # (B, n, B, n)
    gamma: Array  # (B, n, n)
    beta: Array  # (B, n, n)
    y_dot: Array  # (B, n)


@quick()
def jacobians(x: Any, gamma: Any, beta: Any, x_dot: Any, eps: Any) -> Jacobians:
    """Form the Jacobians of one normalized layer by forward-mode autodiff."""

    def y(x: Array, gamma: Array, beta: Array) -> Array:
        return bn(x, gamma[None], beta[None], eps)[0]

    in_x, in_gamma, in_beta = jax.jacfwd(y, argnums=(0, 1, 2))(x, gamma, beta)
    y_dot = jnp.asarray(jax.jvp(lambda x: y(x, gamma, beta), (x,), (x_dot,))[1])
    return Jacobians(in_x, in_gamma, in_beta, y_dot)


class Weights(NamedTuple):
    """∂y/∂W (B, n, n_in, n), and gradients of Σ ȳ y in W, γ and a bias before normalization."""

    jacobian: Array
    frozen_jacobian: Array  # with the statistics held constant
    W: Array
    gamma: Array
    bias: Array
    frozen_W: Array


@quick()
def weights(u: Any, W: Any, gamma: Any, beta: Any, y_bar: Any, eps: Any) -> Weights:
    """Differentiate y = BN(u W + b), b = 0, in the weights, by autodiff."""

    def y(W: Array, gamma: Array, bias: Array) -> Array:
        return bn(u @ W + bias[None], gamma[None], beta[None], eps)[0]

    _, mean, var = bn(u @ W, gamma[None], beta[None], eps)

    def frozen(W: Array) -> Array:
        return gamma[None] * (u @ W - mean[None]) / jnp.sqrt(var[None] + eps) + beta[None]

    zero = jnp.zeros_like(beta)
    return Weights(
        jax.jacfwd(y)(W, gamma, zero),
        jax.jacfwd(frozen)(W),
        *jax.vjp(y, W, gamma, zero)[1](y_bar),
        *jax.vjp(frozen, W)[1](y_bar),
    )


@quick("eps")
def library_weights(
    u: Any, W: Any, gamma: Any, beta: Any, bias: Any, y_bar: Any, *, eps: float
) -> tuple[Array, Array, Array, Array]:
    """Give y = BN(u W + b) and its pull-backs to W, γ and b, by the library's rule."""

    def y(W: Array, gamma: Array, bias: Array) -> Array:
        return norm.batch_norm(u @ W + bias[None], gamma, beta, eps=eps)[0]

    value, pull = jax.vjp(y, W, gamma, bias)
    return value, *pull(y_bar)


class LibraryJacobians(NamedTuple):
    """What `jacobian` and `backprop.staged_chain` say of one layer."""

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
    """Let the library write the case's Jacobians down."""
    arrays = case.x, case.gamma, case.y_bar, case.u, case.W
    return _library_jacobians(*arrays, eps=case.eps)


class Flow(NamedTuple):
    """A whole network: cost, gradients, and layer by layer u (the input), x, y, Δ, g'(y)."""

    cost: Array
    grads: Any
    u: list[Array]
    x: list[Array]
    y: list[Array]
    delta: list[Array]
    g_prime: list[Array]


@quick("net")
def flow(net: Network, params: Any, inputs: Any, targets: Any, eps: Any) -> Flow:
    """Run a plain network and differentiate it by autodiff; Δ by a zero added to every y."""
    g, g_prime = activations.get(net.activation)
    cost = costs.get(net.cost).per_sample

    def run(params: Any, added: list[Array]) -> tuple[Array, tuple[list[Array], ...]]:
        us, xs, ys = [], [], []
        u = inputs
        for layer, zero in zip(params, added, strict=True):
            x = u @ layer.W
            if isinstance(layer, Dense):
                y = x + layer.b[None]
            else:
                y, _, _ = bn(x, layer.gamma[None], layer.beta[None], eps)
            y = y + zero
            us, xs, ys = [*us, u], [*xs, x], [*ys, y]
            u = g(y)
        return jnp.mean(cost(ys[-1], targets)), (us, xs, ys)

    zeros = [jnp.zeros((inputs.shape[0], layer.W.shape[1]), inputs.dtype) for layer in params]
    (value, (us, xs, ys)), (grads, delta) = jax.value_and_grad(run, (0, 1), has_aux=True)(
        params, zeros
    )
    return Flow(value, grads, us, xs, ys, delta, [g_prime(y) for y in ys])


@quick("net")
def library_flow(
    net: Network, params: Any, state: Any, inputs: Any, targets: Any
) -> tuple[Array, Any, Array, Any]:
    """Run the library's network: cost, gradients by the rule, logits in training, new state."""

    def cost(params: Any) -> tuple[Array, tuple[Array, Any]]:
        y, new = network.bn_apply(net, params, state, inputs, train=True)
        return costs.mean(costs.get(net.cost).per_sample(y, targets)), (y, new)

    (value, (y, new)), grads = jax.value_and_grad(cost, has_aux=True)(params)
    return value, grads, y, new


def by_rule(case: Case, rule: str = "vjp", where: Any = None) -> Seen:
    """Look at `batch_norm` on the case's x."""
    bars = case.mean_bar, case.var_bar
    arrays = case.x, case.gamma, case.beta, case.y_bar, bars, where
    return library(*arrays, eps=case.eps, rule=rule)


def by_plain(case: Case) -> Seen:
    """Look at the plain formula on the case's x."""
    bars = case.mean_bar, case.var_bar
    return plain(case.x, case.gamma, case.beta, case.y_bar, bars, case.eps)


def by_jacobian(case: Case) -> Jacobians:
    """Form the Jacobians at the case's x."""
    return jacobians(case.x, case.gamma, case.beta, case.x_dot, case.eps)


def by_weights(case: Case) -> Weights:
    """Differentiate the case's layer u W in its weights."""
    return weights(case.u, case.W, case.gamma, case.beta, case.y_bar, case.eps)


def by_weights_library(case: Case) -> tuple[Array, Array, Array, Array]:
    """Differentiate the case's layer u W + b in its weights, by the library's rule."""
    arrays = case.u, case.W, case.gamma, case.beta, case.bias, case.y_bar
    return library_weights(*arrays, eps=case.eps)


def by_flow(case: Case) -> Flow:
    """Run the case's normalized network plainly."""
    return flow(case.net, case.params, case.u, case.targets, case.eps)


def by_baseline_flow(case: Case) -> Flow:
    """Run the case's baseline network plainly."""
    return flow(case.baseline, case.baseline_params, case.u, case.targets, case.eps)


@quick("net")
def hand_flow(net: Network, params: Any, inputs: Any, targets: Any) -> tuple[Array, Any, Any]:
    """Differentiate the network by hand: cost, gradients and every layer's intermediates."""
    cost, grads = backprop.value_and_grad(net, params, inputs, targets)
    return cost, grads, backprop.intermediates(net, params, inputs, targets)


def by_hand(case: Case) -> tuple[Array, Any, Any]:
    """Differentiate the case's normalized network by hand."""
    return hand_flow(case.net, case.params, case.u, case.targets)


def by_hand_baseline(case: Case) -> tuple[Array, Any, Any]:
    """Differentiate the case's baseline network by hand."""
    return hand_flow(case.baseline, case.baseline_params, case.u, case.targets)


def by_baseline_library(case: Case) -> tuple[Array, Any, Array, Any]:
    """Run the case's baseline network by the library."""
    return jax.device_get(
        library_flow(case.baseline, case.baseline_params, (), case.u, case.targets)
    )


def by_library_flow(case: Case) -> tuple[Array, Any, Array, Any]:
    """Run the case's normalized network by the library."""
    return library_flow(case.net, case.params, states(case), case.u, case.targets)


def states(case: Case) -> Any:
    """Start the statistics of every layer of the case's network."""
    zero, one = np.zeros(case.width, case.dtype), np.ones(case.width, case.dtype)
    none = np.zeros(case.width, np.int32)
    each: Any = (zero, one, none, none, zero)
    return tuple(population.PopulationState(*each) for _ in case.params)
