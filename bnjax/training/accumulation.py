"""One training step from several micro-batches: gradient accumulation.

(BL.2)  C = Σ_s w_s C_s / Σ_s w_s

A micro-batch counts with its part of the weight, f_k = Σ_s w_s here / Σ_s w_s over all. So C is
Σ_k f_k C_k, and where each micro-batch is normalized by itself, so is the gradient. Where the large
batch is normalized as a whole, C_k depends on the samples of all micro-batches (D.18).

Source: S0/S1 §1; the whole batch's gradient from its parts is ours.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from bnjax import activations, costs, network
from bnjax._checks import several_samples
from bnjax.accumulation import Segment, accumulate_gradient
from bnjax.layout import accumulator_dtype
from bnjax.moments import Moments
from bnjax.network import Dense, Network, Params, State
from bnjax.training.steps import Step, StepConfig, TrainState, apply_gradient, differentiate_by_jax

_FUNCTION = "training.make_accumulating_step"


def make_accumulating_step(
    net: Network,
    optimizer: optax.GradientTransformation,
    *,
    sync_statistics: bool = True,
    keep_every: int | None = None,
) -> Step:
    """Return the function that trains on one large batch, K micro-batches one after another.

    Args:
        net: The network.
        optimizer: As in `make_step`; it gets one gradient per large batch.
        sync_statistics: Whether the large batch is normalized as a whole: then the step is that of
            `make_step` on all samples at once, to rounding, with the memory of one micro-batch, in
            L + 1 sweeps each way over the micro-batches (D.18). False: each micro-batch normalizes
            itself, in one sweep. That is another objective, the noisier the smaller the
            micro-batches: the step is that of `make_step(sync_statistics=False)` over K devices.
            The statistics for inference are then updated once, with the mean over the micro-batches
            that have at least two samples (P.1, P.2).
        keep_every: As in `accumulation.accumulate_gradient`, for sync_statistics=True.

    Returns:
        step(train_state, x, targets, where=None) -> (train_state, cost), with x (K, b, n_in),
        targets (K, b, n_out), and where None or (K, b), one weight per sample, as in `bn_apply`: a
        smaller last micro-batch is filled up with samples of weight zero. Pure, to be jitted.

    Raises:
        ValueError: keep_every is not a positive integer, or it is given where each micro-batch
            normalizes itself.

    Example:
        >>> from bnjax import training
        >>> net, optimizer = Network((2, 4, 1)), optax.sgd(0.5)
        >>> start = training.init(net, optimizer, jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (12, 2))
        >>> targets = (x[:, :1] > 0) * 1.0
        >>> parts = x.reshape(3, 4, 2), targets.reshape(3, 4, 1)
        >>> one, _ = jax.jit(make_accumulating_step(net, optimizer))(start, *parts)
        >>> other, _ = jax.jit(training.make_step(net, optimizer))(start, x, targets)
        >>> print(bool(jnp.allclose(one.params[0].W, other.params[0].W, atol=1e-6)))
        True
    """
    if keep_every is not None and not sync_statistics:
        raise ValueError(
            f"{_FUNCTION}: `keep_every` is for sync_statistics=True, which sweeps several times; "
            f"got {keep_every} with sync_statistics=False. Leave it out."
        )

    def step(
        train_state: TrainState, x: Array, targets: Array, where: Array | None = None
    ) -> tuple[TrainState, Array]:
        params, state = train_state.params, train_state.state
        _check_micro_batches(net, params, state, x, targets, where, sync_statistics)
        if sync_statistics:
            (cost, moments), grads = exact_gradient(net, params, x, targets, where, keep_every)
        else:
            cost, grads, moments = separate_gradients(net, params, state, x, targets, where)
        state = network.update_statistics(net, state, moments)  # once
        return apply_gradient(optimizer, train_state, state, grads), cost

    return step


def _check_micro_batches(
    net: Network,
    params: Params,
    state: State,
    x: Array,
    targets: Array,
    where: Array | None,
    whole: bool,
) -> None:
    """Raise where micro-batches are not stacked, do not fit the network, or have no variance."""
    arrays = [a for a in (x, targets, where) if a is not None]
    if any(a.shape[:2] != x.shape[:2] for a in arrays) or x.ndim != 3 or targets.ndim != 3:
        raise ValueError(
            f"{_FUNCTION}: `x`, `targets` and `where` must be stacked micro-batches, (K, b, n_in), "
            f"(K, b, n_out) and (K, b); got {[a.shape for a in arrays]}. Reshape them, after "
            "filling up the last micro-batch with samples of weight zero."
        )
    flat_x, flat_targets = x.reshape(-1, x.shape[2]), targets.reshape(-1, targets.shape[2])
    w = None if where is None else where.reshape(-1)
    network.check_batch_arguments(
        _FUNCTION, net, params, flat_x, state=state, targets=flat_targets, where=w
    )
    if any(net.normalized) and where is None:
        several_samples(_FUNCTION, flat_x if whole else x[0], (1,))


def exact_gradient(
    net: Network,
    params: Params,
    x: Array,
    targets: Array,
    where: Array | None,
    keep_every: int | None,
) -> tuple[tuple[Array, tuple[Moments, ...]], Params]:
    """Return ((cost, moments), gradient) of the large batch (D.18)."""
    L = sum(net.normalized)
    rest = params[L:]
    (cost, moments), grads = accumulate_gradient(
        network_segments(net),
        (*params[:L], rest),
        x,
        targets,
        where,
        eps=net.eps,
        keep_every=keep_every,
    )
    return (cost, moments), (*grads[:-1], *grads[-1])


def network_segments(net: Network) -> tuple[Segment, ...]:
    """Return a network cut at its normalizations, for `accumulation.accumulate_gradient`.

    θ is W for each segment but the last, and for that one the layers that are not normalized.
    """
    g, per_sample = activations.get(net.activation).g, costs.get(net.cost).per_sample
    L = sum(net.normalized)

    def first(W: Array, u: Array) -> tuple[Array, tuple[()]]:
        return u @ W, ()  # BN.1

    def further(W: Array, carry: tuple[Array, tuple[()]]) -> tuple[Array, tuple[()]]:
        return g(carry[0]) @ W, ()  # BN.3, BN.1

    def last(layers: Params, carry: Any, targets: Array) -> Array:
        y = carry[0] if L else carry
        for number, layer in enumerate(layers, start=L):
            u = g(y) if number else y  # the first layer of a network reads its inputs
            assert isinstance(layer, Dense)
            y = u @ layer.W + layer.b[None]  # BL.1
        return per_sample(y, targets)

    return (*(first, *(further,) * (L - 1))[:L], last)


def separate_gradients(
    net: Network, params: Params, state: State, x: Array, targets: Array, where: Array | None
) -> tuple[Array, Params, tuple[Moments, ...]]:
    """Return the cost, the gradient, and the moments of each micro-batch, (K, n) each."""
    K, dtype = len(x), accumulator_dtype(x.dtype)
    if where is None:
        parts = jnp.full(K, 1 / K, dtype)
    else:
        parts = costs.fractions(_FUNCTION, where.reshape(-1), dtype).reshape(K, -1).sum(1)
    config = StepConfig(_FUNCTION, net, "rule")

    def add(total: tuple[Array, Params], micro: tuple[Any, ...]) -> tuple[Any, tuple[Moments, ...]]:
        part, *batch = micro
        (cost, moments), grads = differentiate_by_jax(config, params, state, *batch)
        return jax.tree.map(lambda a, c: a + part * c, total, (cost, grads)), moments

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, accumulator_dtype(p.dtype)), params)
    (cost, grads), moments = lax.scan(
        add, (jnp.zeros((), dtype), zeros), (parts, x, targets, where)
    )
    return cost, jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params), moments
