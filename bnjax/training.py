"""Training steps, and epochs that are one compiled program.

(BL.6)  θ ← θ − η ∂C/∂θ over mini-batches; other optimizers of optax take the gradient as well

Source: S0/S1 §1 (the workflow of SGD), S3 (its three regimes).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from bnjax import backprop, network, population
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
    return (cost, tuple(population.update(s, m, decay=net.decay) for s, m in pairs)), grads


@partial(jax.jit, static_argnums=(1, 2))
def shuffle(key: Array, samples: int, batch_size: int) -> Array:
    """Deal the samples into mini-batches, in random order, each exactly once.

    Args:
        key: A `jax.random.key`.
        samples: N, how many there are.
        batch_size: How many a batch holds.

    Returns:
        Indices, (⌈N / batch_size⌉, batch_size) int32. Places of the last batch that stay empty
        hold −1.

    Example:
        >>> order = shuffle(jax.random.key(0), 5, 2)
        >>> print(order.shape, sorted(order.ravel().tolist()))
        (3, 2) [-1, 0, 1, 2, 3, 4]
    """
    order = jax.random.permutation(key, samples).astype(jnp.int32)
    steps = -(-samples // batch_size)
    order = jnp.pad(order, (0, steps * batch_size - samples), constant_values=-1)
    return order.reshape(steps, batch_size)


def make_epoch(
    net: Network, optimizer: optax.GradientTransformation, *, gradient: str = "rule"
) -> jax.stages.Wrapped:
    """Make the function that trains for one epoch: one compiled program, one trace.

    Args:
        net: The network.
        optimizer: As in `make_step`.
        gradient: As in `make_step`.

    Returns:
        epoch(train_state, order, x, targets) -> (train_state, costs): order as `shuffle` deals
        it, x (N, n_in) and targets (N, n_out) the whole data; costs (steps,), one per batch. Full
        batches are scanned; a last one with empty places follows them, masked, not dropped. It is
        jitted; `train_state` is donated: use the returned one.

    Raises:
        ValueError: The gradient's name is unknown.

    Example:
        >>> net, optimizer = Network((2, 4, 1)), optax.sgd(0.5)
        >>> epoch = make_epoch(net, optimizer)
        >>> state = init(net, optimizer, jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (10, 2))
        >>> state, costs = epoch(state, shuffle(jax.random.key(2), 10, 4), x, x[:, :1] > 0)
        >>> print(state.step, costs.shape)
        3 (3,)
    """
    step = make_step(net, optimizer, gradient=gradient)

    def epoch(
        train_state: TrainState, order: Array, x: Array, targets: Array
    ) -> tuple[TrainState, Array]:
        def train(train_state: TrainState, indices: Array) -> tuple[TrainState, Array]:
            return step(train_state, x[indices], targets[indices])

        if order.size <= x.shape[0]:
            return lax.scan(train, train_state, order)
        # a mask costs a fifth of a step: only the batch that needs one has it
        train_state, costs = lax.scan(train, train_state, order[:-1])
        last = order[-1]
        train_state, cost = step(train_state, x[last], targets[last], last >= 0)
        return train_state, jnp.append(costs, cost)

    return jax.jit(epoch, donate_argnums=0)
