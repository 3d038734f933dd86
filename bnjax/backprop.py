"""The gradient of a whole network, by hand: no automatic differentiation anywhere.

(BL.3)  Δᴸ = (uᴸ − φ) w / Σ w
(BL.4)  Δˡ = (Δˡ⁺¹ Wᵀ) ⊙ g'(yˡ), W of layer l+1
(BL.5)  ∂C/∂W = uᵀ Δ,  ∂C/∂b = Σ_s Δ_s
(D.5)   ∂C/∂γ = Σ_s Δ_s x̂_s,  ∂C/∂β = Σ_s Δ_s
(D.6)   ∂C/∂x by ∂C/∂x̂, ∂C/∂σ² and ∂C/∂μ, one after the other
(D.9)   ∂C/∂W = uᵀ K(Δ)
(D.11)  Δˡ = g'(yˡ) ⊙ [K(Δˡ⁺¹) Wᵀ], with K and W of layer l+1
(D.13)  with the statistics held constant γ r Δ stands for K(Δ)
(D.17)  with sample weights w K(Δ/w) does

Source: S0/S1 §1 and §2, S3 (its influence diagram), S4 (4).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from bnjax import activations, costs, jacobian, matrix, network
from bnjax._errors import unknown_name
from bnjax.matrix import forward, found, pull_back
from bnjax.moments import Moments
from bnjax.network import Dense, Network, NormDense, Params
from bnjax.rules import Saved

STATISTICS = ("batch", "frozen")


class Layer(NamedTuple):
    """All that one layer computes, forward and backward; None where a layer has no such thing.

    Attributes:
        u: Its input, (B, n_in).
        x: u W, before normalization, (B, n_out); None without normalization, where y = u W + b.
        x_hat: x̂, (B, n_out), 0 where the sample has no weight.
        y: What is activated, or the logits, (B, n_out).
        delta: Δ = ∂C/∂y, (B, n_out).
        x_bar: ∂C/∂x = K(Δ), (B, n_out).
        moments: The `Moments` of x, (n_out,) each.
        inv_std: r, (n_out,).
    """

    u: Array
    x: Array | None
    x_hat: Array | None
    y: Array
    delta: Array
    x_bar: Array | None
    moments: Moments | None
    inv_std: Array | None


class Chain(NamedTuple):
    """∂C/∂x̂ (B, n), ∂C/∂σ² (n,), ∂C/∂μ (n,) and ∂C/∂x (B, n) of D.6."""

    x_hat_bar: Array
    var_bar: Array
    mean_bar: Array
    x_bar: Array


class _Passed(NamedTuple):
    """What the forward sweep leaves of a layer for the backward sweep to read."""

    u: Array
    y: Array
    saved: Saved | None


class _Pulled(NamedTuple):
    """What the backward sweep makes of a layer."""

    delta: Array
    x_bar: Array
    params_bar: Dense | NormDense


def value_and_grad(
    net: Network,
    params: Params,
    x: Array,
    targets: Array,
    *,
    where: Array | None = None,
    statistics: str = "batch",
) -> tuple[Array, Params]:
    """Compute the cost of a batch in training, and its gradient by hand: BL.3–BL.5, D.9, D.11.

    Args:
        net: The network, normalized or baseline.
        params: As `network.init` gives them.
        x: Inputs, (B, n_in).
        targets: φ, (B, n_out).
        where: None, or w, (B,): a mask or weights ≥ 0, one per sample. Samples of zero weight
            influence nothing, NaN included.
        statistics: "batch": μ and σ² depend on x, and the gradient is that of the cost. "frozen":
            the batch's own μ and σ² are held constant, as S4 (4) does (D.13); that is the gradient
            of nothing.

    Returns:
        C, a scalar, and the gradient: with "batch" what `jax.value_and_grad` of `network.cost`
        gives in params, in the same structure and dtypes.

    Raises:
        TypeError: x, params or where has a dtype that cannot be normalized.
        ValueError: An argument does not fit the network, or statistics is unknown.

    Example:
        >>> net = Network((2, 1), norm=False, cost="squared_error")
        >>> params = (Dense(jnp.ones((2, 1)), jnp.zeros(1)),)
        >>> cost, grads = value_and_grad(net, params, jnp.ones((3, 2)), jnp.zeros((3, 1)))
        >>> print(cost, grads[0].b)
        2.0 [2.]
    """
    (cost, _), grads = value_moments_and_grad(
        net, params, x, targets, where=where, statistics=statistics
    )
    return cost, grads


def value_moments_and_grad(
    net: Network,
    params: Params,
    x: Array,
    targets: Array,
    *,
    where: Array | None = None,
    statistics: str = "batch",
) -> tuple[tuple[Array, tuple[Moments, ...]], Params]:
    """Compute what a training step needs in one sweep each way: cost, moments and gradient.

    Args:
        net: As in `value_and_grad`; so are all other arguments.
        params: As there.
        x: As there.
        targets: As there.
        where: As there.
        statistics: As there.

    Returns:
        ((C, moments), gradient): the `Moments` are those of the batch, one per normalized layer,
        for `population.update`.

    Raises:
        TypeError: As in `value_and_grad`.
        ValueError: As in `value_and_grad`.

    Example:
        >>> net = Network((1, 1, 1), cost="squared_error")
        >>> one = jnp.ones((1, 1))
        >>> params = (NormDense(one, one[0], one[0]), Dense(one, one[0]))
        >>> x = jnp.array([[1.0], [5.0]])
        >>> (cost, moments), grads = value_moments_and_grad(net, params, x, x)
        >>> print(moments[0].mean, moments[0].var)
        [3.] [4.]
    """
    cost, passed, pulled = _sweep(net, params, x, targets, where, statistics)
    moments = tuple(found(p.saved).moments for p in passed if p.saved is not None)
    return (cost, moments), tuple(p.params_bar for p in pulled)


def intermediates(
    net: Network,
    params: Params,
    x: Array,
    targets: Array,
    *,
    where: Array | None = None,
    statistics: str = "batch",
) -> tuple[Layer, ...]:
    """Hand out everything that `value_and_grad` computes on its way, layer by layer.

    Args:
        net: As in `value_and_grad`; so are all other arguments.
        params: As there.
        x: As there.
        targets: As there.
        where: As there.
        statistics: As there.

    Returns:
        One `Layer` per layer, first to last: ∂C/∂W is u.T @ x_bar, and u.T @ delta without
        normalization.

    Raises:
        TypeError: As in `value_and_grad`.
        ValueError: As in `value_and_grad`.

    Example:
        >>> net = Network((1, 1, 1), activation="identity", cost="squared_error", eps=0.0)
        >>> one = jnp.ones((1, 1))
        >>> params = (NormDense(one, one[0], one[0]), Dense(one, one[0]))
        >>> layers = intermediates(net, params, jnp.array([[1.0], [5.0]]), jnp.zeros((2, 1)))
        >>> print(layers[0].x_hat[:, 0], layers[1].u[:, 0], layers[0].delta[:, 0])
        [-1.  1.] [0. 2.] [0.5 1.5]
    """
    _, passed, pulled = _sweep(net, params, x, targets, where, statistics)
    layers = []
    for (u, y, saved), (delta, x_bar, _) in zip(passed, pulled, strict=True):
        if saved is None:
            layers.append(Layer(u, None, None, y, delta, None, None, None))
        else:
            x_hat, inv_std, moments = found(saved)
            layers.append(Layer(u, saved.x, x_hat, y, delta, x_bar, moments, inv_std))
    return tuple(layers)


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
    saved = jacobian.prepare("backprop.staged_chain", x, gamma, eps)
    y_bar = jacobian.alike("backprop.staged_chain", "y_bar", y_bar, saved)
    inv_std = found(saved).inv_std[None]
    deviation = matrix.deviation(saved)
    batch = deviation.shape[0]
    x_hat_bar = y_bar if saved.gamma is None else saved.gamma[None] * y_bar
    var_bar = -(inv_std**3) / 2 * jnp.sum(x_hat_bar * deviation, 0, keepdims=True)
    mean_bar = -inv_std * jnp.sum(x_hat_bar, 0, keepdims=True)
    if vanishing_term:
        mean_bar += var_bar * (-2 / batch) * jnp.sum(deviation, 0, keepdims=True)
    x_bar = x_hat_bar * inv_std + var_bar * 2 * deviation / batch + mean_bar / batch
    return Chain(x_hat_bar, var_bar[0], mean_bar[0], x_bar)  # D.6


def _sweep(
    net: Network,
    params: Params,
    x: Array,
    targets: Array,
    where: Array | None,
    statistics: str,
) -> tuple[Array, list[_Passed], list[_Pulled]]:
    """Sweep forward and back: the cost, and what each layer computes."""
    if statistics not in STATISTICS:
        raise ValueError(unknown_name("value_and_grad", "statistics", statistics, STATISTICS))
    network.check("value_and_grad", net, params, x, where=where, targets=targets)
    kept: list[Saved] = []

    def normalized(layer: NormDense, x: Array, w: Array | None) -> Array:
        y, saved = forward(x, layer.gamma, layer.beta, w, eps=net.eps)
        kept.append(saved)
        return y

    swept = network.sweep(net, params, x, where, normalized)
    saved = iter(kept)
    passed = [
        _Passed(u, y, next(saved) if norm else None)
        for (u, y), norm in zip(swept, net.normalized, strict=True)
    ]
    y = passed[-1].y
    cost, targets = network.value(net, y, targets, where)
    delta = costs.output_error(net.cost, y, targets, where).astype(y.dtype)  # BL.3
    return cost, passed, _backward_sweep(net, params, passed, delta, statistics)


def _backward_sweep(
    net: Network, params: Params, passed: list[_Passed], delta: Array, statistics: str
) -> list[_Pulled]:
    """Take Δᴸ from the last layer to the first; hand out first to last."""
    g_prime = activations.get(net.activation).g_prime
    pull = pull_back if statistics == "batch" else _pull_back_frozen
    pulled: list[_Pulled] = []
    below = [None, *passed[:-1]]
    for layer, (u, _, saved), before in zip(params[::-1], passed[::-1], below[::-1], strict=True):
        if saved is None:
            x_bar, small = delta, (jnp.sum(delta, 0),)  # BL.5
        else:
            x_bar, *small = pull(saved, delta)  # D.4, D.5
        bars = u.T @ x_bar, *small  # BL.5, D.9
        # jax.grad gives each the dtype of its parameter
        own = [bar.astype(p.dtype) for bar, p in zip(bars, layer, strict=True) if bar is not None]
        bars = type(layer)(*own)
        pulled.append(_Pulled(delta, x_bar, bars))
        if before is not None:  # nobody asks for ∂C/∂u of the first layer
            back = x_bar @ layer.W.T
            delta = (back * g_prime(before.y)).astype(before.y.dtype)  # BL.4, D.11
    return pulled[::-1]


def _pull_back_frozen(saved: Saved, y_bar: Array) -> tuple[Array, Array | None, Array | None]:
    """Pull back with μ and σ² held constant: γ r Δ stands for K(Δ) (D.13)."""
    x_hat, inv_std, _ = found(saved)
    t = y_bar.astype(inv_std.dtype)
    present = t if saved.weights is None else jnp.where(saved.weights > 0, t, 0)  # D.17
    x_bar = matrix.scale(saved) * present  # D.13
    return x_bar.astype(y_bar.dtype), jnp.sum(t * x_hat, 0), jnp.sum(t, 0)  # D.5
