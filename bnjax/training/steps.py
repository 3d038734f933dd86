"""One training step.

(BL.2)  C = Σ_s w_s C_s / Σ_s w_s, over the samples of all devices
(BL.6)  θ ← θ − η ∂C/∂θ over mini-batches; other optimizers of optax take the gradient as well
(P.1)   μ_BN = mean over mini-batches of μ_B: over devices that normalize by themselves, too
(P.2)   σ²_BN = mean over mini-batches of n/(n − 1) σ_B²: likewise

Source: S0/S1 §1 (the workflow of SGD), S3 (its three regimes).
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from bnjax import backprop, collectives, network
from bnjax._checks import unknown_name
from bnjax.collectives import Names
from bnjax.network import Dense, Network, NormDense, Params, State
from bnjax.population import PopulationState

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


class _Way(NamedTuple):
    """How a step differentiates: all static."""

    net: Network
    gradient: str
    axis_name: Names
    sync_statistics: bool


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


def decay_mask(params: Params) -> tuple[Dense | NormDense, ...]:
    """Tell optax which parameters weight decay is for: W, and neither γ, β nor b.

    Args:
        params: As `init` gives them.

    Returns:
        The same structure with a bool for each parameter: what the `mask` of optax's
        transformations takes, as does this function itself.

    Example:
        Schedule, momentum, weight decay and clipping, one after the other:

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
    """Make the function that trains on one batch: a pure one, to jit, vmap and scan.

    Args:
        net: The network.
        optimizer: Any of optax's; `optax.sgd(η)` is BL.6. η may be traced, so that the step can
            be mapped over learning rates.
        gradient: "rule": `jax.grad` through the hand-derived rule of `batch_norm`. "hand":
            `backprop`, by hand throughout. "autodiff": `jax.grad` of the plain reference.
        axis_name: Mesh or vmapped axes over which each batch is spread: cost, gradient and
            statistics are those of the whole, and the same on all devices.
        sync_statistics: Over `axis_name`, whether the whole batch is normalized as one, or each
            device's samples by themselves; statistics for inference are then the mean over the
            devices that had at least two (P.1, P.2), as one batch.

    Returns:
        step(train_state, x, targets, where=None) -> (train_state, cost): x (B, n_in), targets
        (B, n_out), where None or (B,), one weight per sample; the cost is the one before the
        update. Over `axis_name`, B are this device's samples.

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
    if gradient not in GRADIENTS:
        raise ValueError(unknown_name("make_step", "gradient", gradient, GRADIENTS))
    across = axis_name is not None
    if gradient == "hand" and across and sync_statistics and any(net.normalized):
        raise ValueError(
            "make_step: `gradient` must be 'rule' or 'autodiff' for statistics across devices; got "
            "'hand', which knows one device only. Use sync_statistics=False to normalize on each."
        )
    way = _Way(net, gradient, axis_name, sync_statistics)
    differentiate = _by_hand if gradient == "hand" else _by_jax

    def step(
        train_state: TrainState, x: Array, targets: Array, where: Array | None = None
    ) -> tuple[TrainState, Array]:
        params, state, opt_state, count = train_state
        # each device's own: what is equal on all would have its gradients summed by JAX under
        # shard_map with types checked, and nowhere else
        own = _own(params, axis_name) if across else params
        (cost, after), grads = differentiate(way, own, state, x, targets, where)
        if across:
            cost, grads = lax.psum((cost, grads), axis_name)
            if not sync_statistics:
                after = jax.tree.map(
                    lambda old, new: _agree(old, new, axis_name),
                    state,
                    after,
                    is_leaf=lambda part: isinstance(part, PopulationState),
                )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = cast("Params", optax.apply_updates(params, updates))
        return TrainState(params, after, opt_state, count + 1), cost

    return step


def _by_jax(
    way: _Way, params: Params, state: State, x: Array, targets: Array, where: Array | None
) -> tuple[tuple[Array, State], Params]:
    net, gradient, axis_name, sync_statistics = way

    def objective(params: Params) -> tuple[Array, State]:
        return network.local_cost(
            net,
            params,
            state,
            x,
            targets,
            train=True,
            rule=_RULE_OF[gradient],
            where=where,
            axis_name=axis_name,
            sync_statistics=sync_statistics,
        )

    return jax.value_and_grad(objective, has_aux=True)(params)


def _by_hand(
    way: _Way, params: Params, state: State, x: Array, targets: Array, where: Array | None
) -> tuple[tuple[Array, State], Params]:
    net = way.net
    (cost, moments), grads = backprop.value_moments_and_grad(net, params, x, targets, where=where)
    state = network.update_statistics(net, state, moments)
    if way.axis_name is not None:
        share = network.weight_fraction(x, where, way.axis_name)
        cost, grads = jax.tree.map(lambda a: share * a, (cost, grads))
    return (cost, state), grads


def _own(params: Params, axis_name: Names) -> Params:
    names = (axis_name,) if isinstance(axis_name, str) else axis_name or ()
    mesh = jax.sharding.get_abstract_mesh().manual_axes
    axes = frozenset(name for name in names if name in mesh)
    checked = bool(mesh) and bool(collectives.varying(lax.axis_index(mesh)))
    return jax.tree.map(lambda p: collectives.to_varying(p, axes), params) if checked else params


def _agree(before: PopulationState, after: PopulationState, axis_name: Names) -> PopulationState:
    """Average what each device made of the same state, over those that took something in."""
    took = after.batches - before.batches
    skipped = after.skipped - before.skipped
    kept = after.mean, after.var, after.remainder
    means = [jnp.where(took > 0, m, 0) for m in kept]
    took, skipped, (mean, var, remainder) = lax.psum((took, skipped, means), axis_name)
    devices = jnp.maximum(took, 1).astype(mean.dtype)
    return PopulationState(
        jnp.where(took > 0, mean / devices, before.mean),  # P.1
        jnp.where(took > 0, var / devices, before.var),  # P.2
        before.batches + (took > 0),
        before.skipped + (skipped > 0),
        jnp.where(took > 0, remainder / devices, before.remainder),
    )
