"""One training step.

(BL.6)  W ← W − η ∂C/∂W,  b ← b − η ∂C/∂b

This is `optax.sgd(η)`; the other optimizers of optax use the same gradient. Over several devices
the cost is the weighted mean over the samples of all of them, Σ_s w_s C_s / Σ_s w_s (BL.2), and
devices that normalize separately average their statistics for inference (P.1, P.2).

Source: S0/S1 §1 (the workflow of SGD), S3 (its three regimes).
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from bnjax import backprop, collectives, network
from bnjax._checks import several_samples, unknown_name
from bnjax.collectives import Names
from bnjax.moments import Moments
from bnjax.network import Dense, Network, NormDense, Params, State

_RULE_OF = {"rule": "vjp", "autodiff": "autodiff"}
GRADIENTS = (*_RULE_OF, "hand")


class TrainState(NamedTuple):
    """Everything that changes while a network is trained.

    Attributes:
        params: The parameters.
        state: Statistics for inference, one `PopulationState` per normalization.
        opt_state: The state of the optimizer.
        step: The number of updates so far, an int32 scalar.
    """

    params: Params
    state: State
    opt_state: optax.OptState
    step: Array


Step = Callable[..., tuple[TrainState, Array]]


class StepConfig(NamedTuple):
    """The static configuration of a training step.

    Attributes:
        function: The public function that builds the step, which error messages name.
        net: As in `make_step`.
        gradient: As in `make_step`.
        axis_name: As in `make_step`.
        sync_statistics: As in `make_step`.
    """

    function: str
    net: Network
    gradient: str
    axis_name: Names = None
    sync_statistics: bool = True


def init(net: Network, optimizer: optax.GradientTransformation, key: Array) -> TrainState:
    """Draw parameters, and initialize the statistics and the optimizer.

    Args:
        net: The network.
        optimizer: Any optimizer of optax.
        key: A `jax.random.key`.

    Returns:
        The state before the first step.

    Example:
        >>> start = init(Network((4, 8, 2)), optax.sgd(0.1), jax.random.key(0))
        >>> print(start.step, len(start.params))
        0 2
    """
    return begin(optimizer, *network.init(net, key))


def begin(optimizer: optax.GradientTransformation, params: Params, state: State) -> TrainState:
    """Return the train state before the first step, from these parameters and statistics."""
    return TrainState(params, state, optimizer.init(params), jnp.zeros((), jnp.int32))


def decay_mask(params: Params) -> tuple[Dense | NormDense, ...]:
    """Return the mask that restricts weight decay to W, leaving γ, β and b alone.

    Args:
        params: As returned by `init`.

    Returns:
        The same structure with a bool for each parameter. The `mask` of optax's transformations
        accepts it, and this function itself.

    Example:
        Clipping, weight decay, momentum and a schedule, combined:

        >>> schedule = optax.cosine_decay_schedule(0.5, decay_steps=1000)
        >>> optimizer = optax.chain(
        ...     optax.clip_by_global_norm(1.0),
        ...     optax.add_decayed_weights(1e-4, mask=decay_mask),
        ...     optax.sgd(schedule, momentum=0.9),
        ... )
        >>> start = init(Network((4, 8, 2)), optimizer, jax.random.key(0))
        >>> print(decay_mask(start.params)[0])
        NormDense(W=True, gamma=False, beta=False)
    """
    return tuple(
        layer._replace(**{name: name == "W" for name in layer._fields}) for layer in params
    )


def make_step(
    net: Network,
    optimizer: optax.GradientTransformation,
    *,
    gradient: str = "rule",
    axis_name: Names = None,
    sync_statistics: bool = True,
) -> Step:
    """Return the function that trains on one batch: pure, to be jitted, vmapped and scanned.

    Args:
        net: The network.
        optimizer: Any optimizer of optax; `optax.sgd(η)` is BL.6. η may be traced, so that the
            step can be mapped over learning rates.
        gradient: "rule": `jax.grad` through the hand-derived rule of `batch_norm`. "hand":
            `backprop`, without automatic differentiation. "autodiff": `jax.grad` of the plain
            reference.
        axis_name: Mesh or vmapped axes over which each batch is spread: cost, gradient and
            statistics are those of the whole batch, the same on all devices.
        sync_statistics: Over `axis_name`, whether the batch is normalized as a whole, or on each
            device by itself. The statistics for inference are then updated once per batch, with
            the mean over the devices that have at least two samples (P.1, P.2).

    Returns:
        step(train_state, x, targets, where=None) -> (train_state, cost), with x (B, n_in),
        targets (B, n_out), and where None or (B,), one weight per sample, as in `bn_apply`. The
        cost is that before the update. Over `axis_name`, B counts the samples of this device.

    Raises:
        ValueError: The gradient's name is unknown, or it is "hand" with statistics across devices.

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
    config = StepConfig("training.make_step", net, gradient, axis_name, sync_statistics)
    return build_step(config, optimizer)


def build_step(config: StepConfig, optimizer: optax.GradientTransformation) -> Step:
    """Return the step that `make_step` documents."""
    _check_config(config)
    differentiate = _differentiate_by_hand if config.gradient == "hand" else differentiate_by_jax
    axis_name = config.axis_name
    across = axis_name is not None

    def step(
        train_state: TrainState, x: Array, targets: Array, where: Array | None = None
    ) -> tuple[TrainState, Array]:
        params, state, *_ = train_state
        _check_arguments(config, params, state, x, targets, where)
        local = collectives.as_device_local(params, axis_name) if across else params
        (cost, moments), grads = differentiate(config, local, state, x, targets, where)
        if across:
            cost, grads = lax.psum((cost, grads), axis_name)
        separate = axis_name if across and not config.sync_statistics else None
        state = network.update_statistics(config.net, state, moments, separate)
        return apply_gradient(optimizer, train_state, state, grads), cost

    return step


def apply_gradient(
    optimizer: optax.GradientTransformation, train_state: TrainState, state: State, grads: Params
) -> TrainState:
    """Update the parameters with one gradient; `state` are the new statistics for inference."""
    params, _, opt_state, count = train_state
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = cast("Params", optax.apply_updates(params, updates))
    return TrainState(params, state, opt_state, count + 1)


def _check_config(config: StepConfig) -> None:
    """Raise for an unknown gradient, and for one that cannot be computed across devices."""
    function, net, gradient, axis_name, sync_statistics = config
    if gradient not in GRADIENTS:
        raise ValueError(unknown_name(function, "gradient", gradient, GRADIENTS))
    across = axis_name is not None
    if gradient == "hand" and across and sync_statistics and any(net.normalized):
        raise ValueError(
            f"{function}: `gradient` must be 'rule' or 'autodiff' for statistics across devices; "
            "got 'hand', which works on a single device. Pass sync_statistics=False to normalize "
            "on each device by itself."
        )


def _check_arguments(
    config: StepConfig,
    params: Params,
    state: State,
    x: Array,
    targets: Array,
    where: Array | None,
) -> None:
    """Raise where a batch does not fit the network, or leaves a single sample to normalize."""
    function, net, _, axis_name, sync_statistics = config
    network.check_batch_arguments(
        function, net, params, x, state=state, targets=targets, where=where
    )
    on_one_device = axis_name is None or not sync_statistics
    if any(net.normalized) and on_one_device and where is None:
        several_samples(function, x, (1,))


def differentiate_by_jax(
    config: StepConfig,
    params: Params,
    state: State,
    x: Array,
    targets: Array,
    where: Array | None,
) -> tuple[tuple[Array, tuple[Moments, ...]], Params]:
    """Return ((cost, moments), gradient) by `jax.grad`: over `axis_name`, this device's part."""

    def objective(params: Params) -> tuple[Array, tuple[Moments, ...]]:
        return network.local_cost(
            config.net,
            params,
            state,
            x,
            targets,
            rule=_RULE_OF[config.gradient],
            where=where,
            axis_name=config.axis_name,
            sync_statistics=config.sync_statistics,
        )

    return jax.value_and_grad(objective, has_aux=True)(params)


def _differentiate_by_hand(
    config: StepConfig,
    params: Params,
    state: State,
    x: Array,
    targets: Array,
    where: Array | None,
) -> tuple[tuple[Array, tuple[Moments, ...]], Params]:
    """Return the same as `differentiate_by_jax`, by `backprop`."""
    net = config.net
    (cost, moments), grads = backprop.value_moments_and_grad(net, params, x, targets, where=where)
    if config.axis_name is not None:
        fraction = network.weight_fraction(x, where, config.axis_name)
        cost, grads = jax.tree.map(lambda a: fraction * a, (cost, grads))
    return (cost, moments), grads
