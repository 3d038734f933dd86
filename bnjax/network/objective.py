"""The cost of a network on a batch, on one device or several.

(BL.2)  C = Σ_s w_s C_s / Σ_s w_s

Source: S0/S1 §1.
"""

import jax.numpy as jnp
from jax import Array, lax

from bnjax import _checks, _xla, costs
from bnjax.collectives import Names
from bnjax.layout import accumulator_dtype
from bnjax.moments import Moments
from bnjax.network.checks import check_batch_arguments
from bnjax.network.definition import Network, Params, State
from bnjax.network.forward import bn_apply, run_batch
from bnjax.powers_of_two import scale_to_one


def cost(
    net: Network,
    params: Params,
    state: State,
    x: Array,
    targets: Array,
    *,
    train: bool = True,
    rule: str = "vjp",
    where: Array | None = None,
    axis_name: Names = None,
) -> tuple[Array, State]:
    """Compute C of a batch (BL.2), and the state that `bn_apply` leaves.

    Args:
        net: The network.
        params: As `init` gives them.
        state: As `init` gives it.
        x: Inputs, (B, n_in).
        targets: φ, (B, n_out).
        train: As in `bn_apply`.
        rule: As in `bn_apply`.
        where: As in `bn_apply`; the cost is weighted with it, too.
        axis_name: As in `bn_apply`; C is that of the whole batch. Differentiate it under
            `shard_map` with types checked: elsewhere JAX pulls a psum back as one more psum, and
            only gradients of each device's own part add up, as in `training.make_step`.

    Returns:
        C, a scalar, and the state: ready for `jax.value_and_grad(..., has_aux=True)`.

    Raises:
        ValueError: As in `bn_apply`, or targets do not fit.

    Example:
        >>> from bnjax import Dense
        >>> net = Network((2, 1), norm=False, cost="squared_error")
        >>> params = (Dense(jnp.ones((2, 1)), jnp.zeros(1)),)
        >>> value, _ = cost(net, params, (), jnp.ones((3, 2)), jnp.zeros((3, 1)))
        >>> print(value)
        2.0
    """
    check_batch_arguments(
        "cost", net, params, x, state=state, train=train, where=where, targets=targets
    )
    y, state = bn_apply(
        net, params, state, x, train=train, rule=rule, where=where, axis_name=axis_name
    )
    mine = _local_part(net, y, targets, where, axis_name)
    return mine if axis_name is None else lax.psum(mine, axis_name), state


def local_cost(
    net: Network,
    params: Params,
    state: State,
    x: Array,
    targets: Array,
    *,
    rule: str,
    where: Array | None,
    axis_name: Names,
    sync_statistics: bool,
) -> tuple[Array, tuple[Moments, ...]]:
    """Compute this device's part of C in training, and the moments of each normalization.

    Over `axis_name` the parts add up to C. Without `sync_statistics` each device normalizes with
    the moments of its own samples.
    """
    normalized_over = axis_name if sync_statistics else None
    y, moments = run_batch(net, params, state, x, rule=rule, where=where, axis_name=normalized_over)
    return _local_part(net, y, targets, where, axis_name), moments


def _local_part(
    net: Network, y: Array, targets: Array, where: Array | None, axis_name: Names
) -> Array:
    mean = mean_cost(net, y, targets, where)[0]
    return mean if axis_name is None else weight_fraction(y, where, axis_name) * mean


def weight_fraction(y: Array, where: Array | None, axis_name: Names) -> Array | float:
    """Return the part of the batch's weight on this device: Σ_s w_s here / Σ_s w_s over all."""
    if where is None:
        return y.shape[0] / lax.psum(y.shape[0], axis_name)
    n = jnp.sum(_checks.weights("cost", where, accumulator_dtype(y.dtype)))
    total = lax.psum(n, axis_name)
    n, total = (_xla.as_written(a * scale_to_one(total)) for a in (n, total))
    return (n / jnp.where(total == 0, 1, total)).astype(y.dtype)


def mean_cost(net: Network, y: Array, targets: Array, where: Array | None) -> tuple[Array, Array]:
    """Compute C of logits (BL.2); also return the targets, 0 where the weight is."""
    if where is not None:
        targets = jnp.where(where[:, None] != 0, targets, 0)
    return costs.mean(costs.get(net.cost).per_sample(y, targets), where), targets
