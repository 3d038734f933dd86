"""One training step.

(BL.6)  θ ← θ − η ∂C/∂θ over mini-batches; other optimizers of optax take the gradient as well

Source: S0/S1 §1 (the workflow of SGD), S3 (its three regimes).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array

from bnjax import backprop, network
from bnjax._errors import unknown_name
from bnjax.network import Network, Params, State

_RULE_OF = {"rule": "vjp", "autodiff": "autodiff"}
GRADIENTS = (*_RULE_OF, "hand")


class TrainState(NamedTuple):
    """All that changes while a network is trained.

    Attributes:
        params: The parameters.
        state: Statistics for inference, one `PopulationState` per normalization.
        opt_state: The optimizer's.
        step: Updates made so far, an int32 scalar.
    """

    params: Params
    state: State
    opt_state: optax.OptState
    step: Array


Step = Callable[..., tuple[TrainState, Array]]


def init(net: Network, optimizer: optax.GradientTransformation, key: Array) -> TrainState:
    """Draw parameters and set up statistics and optimizer.

    Args:
        net: The network.
        optimizer: Any of optax's.
        key: A `jax.random.key`.

    Returns:
        The state before the first step.

    Example:
        >>> start = init(Network((4, 8, 2)), optax.sgd(0.1), jax.random.key(0))
        >>> print(start.step, len(start.params))
        0 2
    """
    params, state = network.init(net, key)
    return TrainState(params, state, optimizer.init(params), jnp.zeros((), jnp.int32))


def make_step(
    net: Network, optimizer: optax.GradientTransformation, *, gradient: str = "rule"
) -> Step:
    """Make the function that trains on one batch: a pure one, to jit, vmap and scan.

    Args:
        net: The network.
        optimizer: Any of optax's; `optax.sgd(η)` is BL.6. η may be traced, so that the step can
            be mapped over learning rates.
        gradient: "rule": `jax.grad` through the hand-derived rule of `batch_norm`. "hand":
            `backprop`, by hand throughout. "autodiff": `jax.grad` of the plain reference.

    Returns:
        step(train_state, x, targets, where=None) -> (train_state, cost): x (B, n_in), targets
        (B, n_out), where None or (B,), one weight per sample; the cost is the one before the
        update.

    Raises:
        ValueError: The gradient's name is unknown.

    Example:
        >>> net = Network((2, 4, 1))
        >>> step = jax.jit(make_step(net, optax.sgd(0.5)), donate_argnums=0)
        >>> state = init(net, optax.sgd(0.5), jax.random.key(0))
        >>> x, targets = jnp.eye(2), jnp.array([[0.0], [1.0]])
        >>> for _ in range(200):
        ...     state, cost = step(state, x, targets)
        >>> print(state.step, bool(cost < 0.1))
        200 True
    """
    if gradient not in GRADIENTS:
        raise ValueError(unknown_name("make_step", "gradient", gradient, GRADIENTS))
    differentiate = _by_hand if gradient == "hand" else partial(_by_jax, _RULE_OF[gradient])

    def step(
        train_state: TrainState, x: Array, targets: Array, where: Array | None = None
    ) -> tuple[TrainState, Array]:
        params, state, opt_state, count = train_state
        (cost, state), grads = differentiate(net, params, state, x, targets, where)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = cast("Params", optax.apply_updates(params, updates))
        return TrainState(params, state, opt_state, count + 1), cost

    return step


def _by_jax(
    rule: str,
    net: Network,
    params: Params,
    state: State,
    x: Array,
    targets: Array,
    where: Array | None,
) -> tuple[tuple[Array, State], Params]:
    def objective(params: Params) -> tuple[Array, State]:
        return network.cost(net, params, state, x, targets, rule=rule, where=where)

    return jax.value_and_grad(objective, has_aux=True)(params)


def _by_hand(
    net: Network, params: Params, state: State, x: Array, targets: Array, where: Array | None
) -> tuple[tuple[Array, State], Params]:
    (cost, moments), grads = backprop.value_moments_and_grad(net, params, x, targets, where=where)
    pairs = zip(state, moments, strict=True)
    return (cost, tuple(network.keep(net, s, m) for s, m in pairs)), grads
