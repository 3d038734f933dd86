"""The gradient of a large batch from its micro-batches: the public function.

(BL.2)  C = Σ_s w_s C_s / Σ_s w_s

Source: the derivation (D.18) is ours.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from bnjax import _checks, costs, kernel, moments
from bnjax.accumulation.chain import FUNCTION, MicroBatch, Normalization, Segment, SegmentChain
from bnjax.accumulation.sweeps import sweep_all_back, sweep_forward
from bnjax.layout import accumulator_dtype
from bnjax.moments import Moments, SplitMoments


def accumulate_gradient(
    segments: Sequence[Segment],
    params: Sequence[Any],
    inputs: Any,
    targets: Any,
    where: Array | None = None,
    *,
    axis: int = -1,
    eps: float = 1e-5,
    keep_every: int | None = None,
) -> tuple[tuple[Array, tuple[Moments, ...]], Any]:
    """Compute cost, moments and gradient of a large batch from K micro-batches: P.5, D.18.

    The network is cut at its L normalizations into L + 1 segments. Where `batch_norm` would
    normalize all samples at once, each micro-batch is normalized with the moments of them all. The
    result is that of the large batch, to rounding; the memory for activations is that of one
    micro-batch, and of what is kept.

    Args:
        segments: L + 1 pure functions. The first maps (θ, inputs) of a micro-batch to (x, rest): x
            is what the first normalization gets, samples first, and rest any pytree of floating
            arrays that the next segment needs besides, () if nothing. Each further one maps
            (θ, (y, rest)) to the next (x, rest), and the last (θ, (y, rest), targets) to the costs
            of the samples, C_s (b,). Without normalization the only one maps (θ, inputs, targets)
            to C_s. No sample may influence another within a segment.
        params: (θ, γ, β) for each segment but the last, a tuple or NamedTuple, with γ and β of
            the normalization after it, (channels,) or None; and θ of the last. θ is any pytree of
            floating arrays.
        inputs: A pytree of arrays, micro-batches stacked: (K, b, ...) each.
        targets: As inputs.
        where: None, or w, (K, b): a mask or finite weights ≥ 0, one per sample, whose scale does
            not matter. Samples of zero weight influence nothing, NaN included: so a last
            micro-batch that is smaller is filled up.
        axis: The feature axis of each x, as in `batch_norm`; not the first.
        eps: ε ≥ 0, static.
        keep_every: None: every sweep starts from the inputs; nothing of the large batch is kept
            between sweeps, and the time grows with L². k: the x and the rest of every k-th
            normalization are kept for the whole large batch, and the time grows with k L.

    Returns:
        ((C, moments), gradient): C = Σ_s w_s C_s / Σ_s w_s, a scalar (BL.2); the `Moments` of the
        large batch at each normalization, for `population.update`; the gradient in params, of the
        same structure and dtypes.

    Raises:
        TypeError: γ, β or where has a dtype that does not fit.
        ValueError: An argument does not fit; a weight is negative, infinite or NaN, where its value
            is known; or the large batch leaves one value per channel.

    Example:
        >>> segments = (
        ...     lambda W, u: (u @ W, ()),
        ...     lambda V, carry, t: ((jax.nn.relu(carry[0]) @ V)[:, 0] - t) ** 2,
        ... )
        >>> params = ((jnp.ones((1, 2)), jnp.ones(2), jnp.zeros(2)), jnp.ones((2, 1)))
        >>> u, t = jnp.array([[[1.0], [2.0]], [[3.0], [6.0]]]), jnp.zeros((2, 2))
        >>> (cost, moments), grads = accumulate_gradient(segments, params, u, t)
        >>> print(moments[0].mean, moments[0].var, moments[0].count)  # of 1, 2, 3 and 6
        [3. 3.] [3.5 3.5] [4. 4.]
    """
    batch = _check_arguments(segments, params, inputs, targets, where, keep_every)
    _checks.finite_eps(FUNCTION, eps)
    thetas = *(layer[0] for layer in params[:-1]), params[-1]
    chain = SegmentChain(tuple(segments), thetas, axis, float(eps), batch, {0: inputs})
    for place, (_, gamma, beta) in enumerate(params[:-1], start=1):
        keep = keep_every is not None and place % keep_every == 0
        parts, states = sweep_forward(chain, place, keep)
        split = moments.combine_batches(parts, chain.eps)  # P.5
        found = Normalization(
            _per_channel("gamma", gamma, split),
            _per_channel("beta", beta, split),
            split,
            kernel.inverse_std(split.var, chain.eps, split.unit),
        )
        kept = {**chain.kept, place: states} if keep else chain.kept
        chain = chain._replace(kept=kept, normalizations=(*chain.normalizations, found))
    cost, bars = sweep_all_back(chain)
    wanted = tuple(params)
    grads = jax.tree.unflatten(jax.tree.structure(wanted), jax.tree.leaves(bars))
    # jax.grad gives each the dtype of its parameter
    grads = jax.tree.map(lambda bar, p: bar.astype(p.dtype), grads, wanted)
    splits = (one.split for one in chain.normalizations)
    each = tuple(Moments(*one.natural(), one.count, one.effective_count) for one in splits)
    return (cost, each), grads


def _per_channel(name: str, value: Array | None, split: SplitMoments) -> Array | None:
    """Return γ or β in the sums' dtype."""
    if value is None:
        return None
    if _checks.floating(FUNCTION, name, value).shape != split.var.shape:
        raise ValueError(
            f"{FUNCTION}: `{name}` must have shape {split.var.shape}, one number per channel of "
            f"its x; got {value.shape}."
        )
    return value.astype(split.var.dtype)


def _check_arguments(
    segments: Sequence[Segment],
    params: Sequence[Any],
    inputs: Any,
    targets: Any,
    where: Array | None,
    keep_every: int | None,
) -> MicroBatch:
    """Refuse arguments that do not fit each other; return what sweeps read."""
    if not segments or len(params) != len(segments):
        raise ValueError(
            f"{FUNCTION}: `params` must have an entry for each of the segments, of which there is "
            f"at least one; got {len(params)} for {len(segments)}."
        )
    if keep_every is not None and keep_every < 1:
        raise ValueError(f"{FUNCTION}: `keep_every` must be None or at least 1; got {keep_every}.")
    leaves = jax.tree.leaves((inputs, targets)) + ([] if where is None else [where])
    shape = leaves[0].shape[:2]
    wrong = [a.shape for a in leaves if a.shape[:2] != shape or a.ndim < 2]
    if wrong or (where is not None and where.ndim != 2):
        raise ValueError(
            f"{FUNCTION}: `inputs`, `targets` and `where` must be stacked micro-batches, "
            f"(K, b, ...) each, and `where` (K, b); got {[a.shape for a in leaves]}."
        )
    dtype = accumulator_dtype(*(p.dtype for p in jax.tree.leaves(params)))
    if where is None:
        return MicroBatch(targets, None, jnp.full(shape, 1 / (shape[0] * shape[1]), dtype))
    w = _checks.weights(FUNCTION, where, dtype)
    p = costs.fractions(FUNCTION, w.reshape(-1), dtype).reshape(shape)
    return MicroBatch(targets, w, p)
