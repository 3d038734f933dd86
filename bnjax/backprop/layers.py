"""The gradient of a whole network, by hand: no automatic differentiation anywhere.

(BL.3)  Δᴸ = w (uᴸ − φ) / Σ_s w_s
(BL.4)  Δˡ = (Δˡ⁺¹ Wᵀ) ⊙ g'(yˡ), W of layer l+1
(BL.5)  ∂C/∂W = uᵀ Δ,  ∂C/∂b = Σ_s Δ_s
(D.5)   γ̄ = Σ_s ȳ_s x̂_s,  β̄ = Σ_s ȳ_s
(D.9)   ∂C/∂W = uᵀ K(Δ)
(D.11)  Δˡ = g'(yˡ) ⊙ [K(Δˡ⁺¹) Wᵀ], K and W of layer l+1
(D.17)  x̄ = w K(ȳ⁺/w)

Here ȳ is Δ, and w K(·/w) stands for K where samples have weights. With the statistics held
constant γ r Δ does (D.13).

Products are in full precision where a gradient is to be looked at or compared; NVIDIA GPUs and TPUs
multiply float32 in TF32 and in bfloat16 by default. `value_moments_and_grad`, with which networks
are trained, keeps the default.

Source: S0/S1 §1 and §2, S4 (4).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from bnjax import activations, costs, matrix
from bnjax._checks import unknown_name, weights
from bnjax.layout import accumulator_dtype
from bnjax.moments import Moments
from bnjax.network import (
    Dense,
    LayerPass,
    Network,
    NormDense,
    Params,
    check_batch_arguments,
    mean_cost,
    run_layers,
)
from bnjax.rules.vjp import Residuals

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


class _Pulled(NamedTuple):
    """What the backward pass computes of a layer."""

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
        where: None, or w, (B,): a mask or finite weights ≥ 0, one per sample, whose scale does not
            matter. Samples of zero weight influence nothing, NaN included.
        statistics: "batch": μ and σ² depend on x, and the gradient is that of the cost. "frozen":
            the batch's own μ and σ² are held constant, as S4 (4) does (D.13); that is the gradient
            of nothing.

    Returns:
        C, a scalar, and the gradient: with "batch" what `jax.value_and_grad` of `network.cost`
        gives in params, in the same structure and dtypes. Products are in full precision; to
        compare, call the other side under `jax.default_matmul_precision("highest")`.

    Raises:
        TypeError: x, params or where has a dtype that cannot be normalized.
        ValueError: An argument does not fit the network, a weight is negative, infinite or NaN
            where its value is known (elsewhere the results are NaN), or statistics is unknown.

    Example:
        >>> net = Network((2, 1), norm=False, cost="squared_error")
        >>> params = (Dense(jnp.ones((2, 1)), jnp.zeros(1)),)
        >>> cost, grads = value_and_grad(net, params, jnp.ones((3, 2)), jnp.zeros((3, 1)))
        >>> print(cost, grads[0].b)
        2.0 [2.]
    """
    function = "backprop.value_and_grad"
    with jax.default_matmul_precision("highest"):
        cost, _, backward = _both_passes(function, net, params, x, targets, where, statistics)
    return cost, tuple(layer.params_bar for layer in backward)


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
        for `population.update`. Products are in the platform's default precision, as elsewhere in
        training.

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
    function = "backprop.value_moments_and_grad"
    cost, forward, backward = _both_passes(function, net, params, x, targets, where, statistics)
    found = (matrix.unpack(layer.found) for layer in forward if layer.found is not None)
    moments = tuple(one.moments for one in found)
    return (cost, moments), tuple(layer.params_bar for layer in backward)


def intermediates(
    net: Network,
    params: Params,
    x: Array,
    targets: Array,
    *,
    where: Array | None = None,
    statistics: str = "batch",
) -> tuple[Layer, ...]:
    """Return everything that `value_and_grad` computes on its way, layer by layer.

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
    function = "backprop.intermediates"
    with jax.default_matmul_precision("highest"):
        _, forward, backward = _both_passes(function, net, params, x, targets, where, statistics)
    layers = []
    for (u, y, residuals), (delta, x_bar, _) in zip(forward, backward, strict=True):
        if residuals is None:
            layers.append(Layer(u, None, None, y, delta, None, None, None))
        else:
            x_hat, inv_std, moments = matrix.unpack(residuals)
            layers.append(Layer(u, residuals.x, x_hat, y, delta, x_bar, moments, inv_std))
    return tuple(layers)


def _both_passes(
    function: str,
    net: Network,
    params: Params,
    x: Array,
    targets: Array,
    where: Array | None,
    statistics: str,
) -> tuple[Array, tuple[LayerPass[Residuals], ...], list[_Pulled]]:
    """Run the layers forward and back: the cost, and what each layer computes, first to last."""
    if statistics not in STATISTICS:
        raise ValueError(unknown_name(function, "statistics", statistics, STATISTICS))
    check_batch_arguments(function, net, params, x, where=where, targets=targets)
    if where is not None:
        where = weights(function, where, accumulator_dtype(x.dtype))

    def normalized(
        layer: NormDense, x: Array, w: Array | None, _: object
    ) -> tuple[Array, Residuals]:
        return matrix.normalize_matrix(function, x, layer.gamma, layer.beta, w, eps=net.eps)

    forward = run_layers(net, params, (), x, where, normalized)
    y = forward[-1].y
    cost, targets = mean_cost(net, y, targets, where)
    delta = costs.output_error(net.cost, y, targets, where).astype(y.dtype)  # BL.3
    return cost, forward, _backward_pass(net, params, forward, delta, statistics)


def _backward_pass(
    net: Network,
    params: Params,
    forward: tuple[LayerPass[Residuals], ...],
    delta: Array,
    statistics: str,
) -> list[_Pulled]:
    """Pull Δᴸ back from the last layer to the first; return them first to last."""
    g_prime = activations.get(net.activation).g_prime
    pull_back = matrix.pull_back_matrix if statistics == "batch" else _pull_back_frozen
    pulled: list[_Pulled] = []
    below = [None, *forward[:-1]]
    backward = zip(params[::-1], forward[::-1], below[::-1], strict=True)
    for layer, (u, _, residuals), before in backward:
        if residuals is None:
            x_bar, small = delta, (jnp.sum(delta, 0),)  # BL.5
        else:
            x_bar, *small = pull_back(residuals, delta)  # D.5, D.17
        bars = u.T @ x_bar, *small  # BL.5, D.9
        # jax.grad gives each the dtype of its parameter
        own = [bar.astype(p.dtype) for bar, p in zip(bars, layer, strict=True) if bar is not None]
        pulled.append(_Pulled(delta, x_bar, type(layer)(*own)))
        if before is not None:  # nobody asks for ∂C/∂u of the first layer
            back = x_bar @ layer.W.T
            delta = (back * g_prime(before.y)).astype(before.y.dtype)  # BL.4, D.11
    return pulled[::-1]


def _pull_back_frozen(
    residuals: Residuals, y_bar: Array
) -> tuple[Array, Array | None, Array | None]:
    """Pull back with μ and σ² held constant: γ r Δ stands for K(Δ) (D.13)."""
    x_hat, inv_std, _ = matrix.unpack(residuals)
    t = y_bar.astype(inv_std.dtype)
    valid = t if residuals.weights is None else jnp.where(residuals.weights != 0, t, 0)  # D.17
    x_bar = matrix.scale_row(residuals) * valid  # D.13
    return x_bar.astype(y_bar.dtype), jnp.sum(t * x_hat, 0), jnp.sum(t, 0)  # D.5
