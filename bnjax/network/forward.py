"""The forward pass, layer by layer.

(BL.1)  y = u W + b,  u_next = g(y)
(BN.1)  x = u W
(BN.3)  y = γ x̂ + β,  u_next = g(y)

Normalization comes right before the activation. The last layer returns logits: its function is the
cost's own link (BL.3).

Source: S0/S1 §1 and §2, S3.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from bnjax import activations, population
from bnjax.collectives import Names
from bnjax.moments import Moments
from bnjax.network.checks import check_batch_arguments
from bnjax.network.definition import Dense, Network, NormDense, Params, State
from bnjax.norm import batch_norm, normalize
from bnjax.population import PopulationState

Found = TypeVar("Found")


def apply(net: Network, params: Params, x: Array) -> Array:
    """Run the baseline network: BL.1, layer after layer.

    Args:
        net: A network with `norm=False`.
        params: As `init` gives them.
        x: Inputs, (B, n_in).

    Returns:
        Logits, (B, n_out); `costs.get(net.cost).link` makes predictions of them.

    Raises:
        ValueError: The network is normalized, or x does not fit.

    Example:
        >>> net = Network((2, 1), norm=False)
        >>> print(apply(net, (Dense(jnp.ones((2, 1)), jnp.ones(1)),), jnp.array([[1.0, 2.0]])))
        [[4.]]
    """
    if net.norm:
        raise ValueError(
            "apply: `net` must be a baseline network (norm=False); got norm=True. Use `bn_apply`."
        )
    check_batch_arguments("apply", net, params, x)
    return run_layers(net, params, (), x, None, by_statistics(net))[-1].y


def bn_apply(
    net: Network,
    params: Params,
    state: State,
    x: Array,
    *,
    train: bool,
    rule: str = "vjp",
    where: Array | None = None,
    axis_name: Names = None,
) -> tuple[Array, State]:
    """Run the network: BN.1–BN.3 for each normalized layer, BL.1 for the others.

    Args:
        net: The network; a baseline, which has no state, is accepted too.
        params: As `init` gives them.
        state: As `init` gives it: statistics for inference.
        x: Inputs, (B, n_in).
        train: True: normalize with the batch's own moments, and update the running statistics with
            them (P.1, P.2, P.7). False: normalize with the running statistics (P.3), sample by
            sample, so that a batch of one will do. Static.
        rule: As in `batch_norm`.
        where: None, or w, (B,): a mask or finite weights ≥ 0, one per sample, whose scale does not
            matter. Samples of zero weight influence nothing, NaN included.
        axis_name: Mesh or vmapped axes over which the batch is spread; see `batch_norm`.

    Returns:
        Logits, (B, n_out), and the state: a new one in training, the same otherwise.

    Raises:
        ValueError: x, params, state or where do not fit the network; a weight is negative,
            infinite or NaN; or train is False and some channel has seen no batch, because all
            were skipped as not finite or none had weight. Where the weights or the state are
            traced, under jit say, neither can be known: what depends on them is then NaN.

    Example:
        >>> import jax
        >>> from bnjax import init
        >>> net = Network((2, 3, 1))
        >>> params, state = init(net, jax.random.key(0))
        >>> logits, state = bn_apply(net, params, state, jnp.eye(2), train=True)
        >>> print(logits.shape, state[0].batches)
        (2, 1) [1 1 1]
    """
    check_batch_arguments("bn_apply", net, params, x, state=state, train=train, where=where)
    if not train:
        seen = population.check_seen("bn_apply", inference_statistics(net, state))
        return run_layers(net, params, seen, x, where, by_statistics(net))[-1].y, state

    y, moments = run_batch(net, params, state, x, rule=rule, where=where, axis_name=axis_name)
    return y, update_statistics(net, state, moments)


def run_batch(
    net: Network,
    params: Params,
    state: State,
    x: Array,
    *,
    rule: str,
    where: Array | None,
    axis_name: Names,
) -> tuple[Array, tuple[Moments, ...]]:
    """Run the layers in training; return the logits and the moments of each normalization."""

    def by_batch(
        layer: NormDense, x: Array, w: Array | None, statistics: PopulationState | None
    ) -> tuple[Array, Moments]:
        return batch_norm(
            x,
            layer.gamma,
            layer.beta,
            eps=net.eps,
            where=w,
            axis_name=axis_name,
            rule=rule,
            mean_guess=None if statistics is None else statistics.mean,
        )

    passes = run_layers(net, params, inference_statistics(net, state), x, where, by_batch)
    return passes[-1].y, tuple(p.found for p in passes if p.found is not None)


class LayerPass(NamedTuple, Generic[Found]):
    """One layer of a forward pass: input u, output y, and what its normalization found or None."""

    u: Array
    y: Array
    found: Found | None


# (layer, x, w or None, running statistics or None) -> (y, found)
Normalization = Callable[
    [NormDense, Array, Array | None, PopulationState | None], tuple[Array, Found]
]


def run_layers(
    net: Network,
    params: Params,
    state: State,
    x: Array,
    where: Array | None,
    normalization: Normalization[Found],
) -> tuple[LayerPass[Found], ...]:
    """Run the layers: BL.1, or BN.1 and then `normalization`.

    Args:
        net: The network.
        params: Its parameters.
        state: What `normalization` gets as running statistics, one per normalization; or ().
        x: Inputs, (B, n_in).
        where: None, or w, (B,); `normalization` gets it as (B, 1).
        normalization: How a layer's x = u W is normalized.

    Returns:
        One `LayerPass` per layer, first to last.
    """
    g = activations.get(net.activation).g
    w = None if where is None else where[:, None]
    statistics = iter(state)
    # u W would carry NaN under a zero weight into ∂C/∂W = uᵀ Δ
    u = x if w is None else jnp.where(w != 0, x, 0)
    passes = []
    for layer in params:
        if passes:
            u = g(passes[-1].y)
        if isinstance(layer, Dense):
            y, found = u @ layer.W + layer.b[None], None  # BL.1
        else:
            y, found = normalization(layer, u @ layer.W, w, next(statistics, None))  # BN.1–BN.3
        passes.append(LayerPass(u, y, found))
    return tuple(passes)


def by_statistics(net: Network) -> Normalization[None]:
    """Return the normalization of evaluation: with running statistics, sample by sample (P.3)."""

    def normalized(
        layer: NormDense, x: Array, w: Array | None, statistics: PopulationState | None
    ) -> tuple[Array, None]:
        assert statistics is not None
        mean, remainder = statistics.mean, statistics.remainder
        # around the mean's first float: the second would be lost in a sum of both
        y = normalize(
            x - mean[None], remainder, statistics.var, layer.gamma, layer.beta, eps=net.eps
        )
        return y.astype(x.dtype), None

    return normalized


def inference_statistics(net: Network, state: State) -> State:
    """Return the running statistics that evaluation reads: those with the network's `decay`."""
    return state[: sum(net.normalized)]


def update_statistics(
    net: Network, state: State, moments: tuple[Moments, ...], axis_name: Names = None
) -> State:
    """Update the running statistics of every decay with a batch's moments.

    `axis_name` is that of devices which have normalized separately, as in `population.update`.
    """
    if not moments:
        return state
    batch = jax.tree.map(_side_by_side, *moments)
    pairs = zip(merge_statistics(net, state), (net.decay, *net.other_decays), strict=True)
    merged = (population.update(old, batch, decay=d, axis_name=axis_name) for old, d in pairs)
    return split_statistics(net, tuple(merged))


def merge_statistics(net: Network, state: State) -> State:
    """Return one state for each decay, with the channels of all normalizations side by side.

    A loop over batches that carries these updates them at once: small operations, of which an
    update takes a dozen, cost the same for all channels as for those of one layer.
    """
    L = sum(net.normalized)
    return tuple(
        jax.tree.map(_side_by_side, *state[first : first + L])
        for first in range(0, len(state), L or 1)
    )


def split_statistics(net: Network, merged: State) -> State:
    """Return one state for each normalization and decay: the inverse of `merge_statistics`."""
    sizes = [n for n, norm in zip(net.sizes[1:], net.normalized, strict=True) if norm]
    ends = [*accumulate(sizes)]
    return tuple(
        jax.tree.map(lambda a, n=n, end=end: a[end - n : end], one)
        for one in merged
        for n, end in zip(sizes, ends, strict=True)
    )


def _side_by_side(*parts: Array) -> Array:
    return jnp.concatenate(parts, axis=-1)
