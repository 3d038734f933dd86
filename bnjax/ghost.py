"""Ghost batches: groups of a batch's samples, each normalized with its own moments in one call.

(BN.2)  x̂ = (x − μ) r,  r = (σ² + ε)^(−1/2)
(BN.3)  y = γ x̂ + β

Seen as (G, size, ...), a batch of G groups has one more feature axis, that of the groups: μ and σ²
are (G, n), and γ, β the same for all groups. Nothing else is needed, and nothing more is read: a
group is to `batch_norm` what a channel is.

Source: Hoffer, Hubara & Soudry 2017 (arXiv:1705.08741).
"""

import math
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from bnjax import _checks
from bnjax._checks import Axis
from bnjax.moments import Moments
from bnjax.norm import batch_norm, check_options


def ghost_batch_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    size: int,
    axis: Axis = -1,
    eps: float = 1e-5,
    where: ArrayLike | None = None,
    rule: str = "vjp",
    dtype: DTypeLike | None = None,
    masked: str = "beta",
    allow_single_value: bool = False,
    mean_guess: ArrayLike | None = None,
) -> tuple[Array, Moments]:
    """Normalize groups of a batch, each with its own moments, then scale and shift: BN.2, BN.3.

    The result is that of `batch_norm` on one group after the other, at the cost of `batch_norm` on
    all of them.

    Args:
        x: The batch, as in `batch_norm`. Its first sample axis is what is divided: samples 0 to
            size − 1 are the first group. Its length must be known when it is traced.
        gamma: γ: x's feature axes, the same for all groups. None stands for 1.
        beta: β, the same shape. None stands for 0.
        size: How many samples a group has, at least 1; static. The last group has what is left.
        axis: The feature axis or axes.
        eps: ε ≥ 0, static.
        where: None, a boolean mask or weights w ≥ 0, broadcastable to x: each group's are its own.
        rule: "vjp", "jvp" or "autodiff", as in `batch_norm`.
        dtype: Of y; None for x's.
        masked: What y is where w = 0: "beta" or "normalize", as in `batch_norm`.
        allow_single_value: Whether a group may have but one value per channel, as where one sample
            is left for the last. Then y = β there.
        mean_guess: None, or about μ, as in `batch_norm`: the same for all groups.

    Returns:
        y, of x's shape, and the `Moments` of the G groups: (G, n) each, n for x's feature axes.
        `population.update` takes them as one batch's, `population.average` (P.1, P.2) and
        `population.pool` (P.5) as those of G batches.

    Raises:
        TypeError: As `batch_norm`, or `size` is no integer.
        ValueError: As `batch_norm`, or `size` is less than 1, or a group is left with one value per
            channel.

    Example:
        >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0], [5.0], [5.5]])
        >>> y, moments = ghost_batch_norm(x, size=2, eps=0.0)
        >>> print(y[:, 0])
        [-1.  1. -1.  1. -1.  1.]
        >>> print(moments.mean[:, 0], moments.count[:, 0])
        [ 2.   20.    5.25] [2. 2. 2.]
    """
    function = "ghost_batch_norm"
    x = _checks.batch(function, x)
    features = _checks.feature_axes(function, x, axis)
    vectors = [
        v if v is None else _checks.per_channel(function, name, v, x, features)
        for name, v in (("gamma", gamma), ("beta", beta), ("mean_guess", mean_guess))
    ]
    weights = _checks.sample_weights(function, where, x)
    dtype = check_options(function, eps, rule, masked, dtype)
    at = next(a for a in range(x.ndim) if a not in features)
    samples = x.shape[at]
    _check_size(function, size, x, features, at, weights is None and not allow_single_value)
    options = {"eps": eps, "rule": rule, "dtype": dtype, "masked": masked}

    def normalize_samples(start: int, stop: int, size: int) -> tuple[Array, Moments]:
        part = _samples(x, at, start, stop)
        w = weights if weights is None else _samples(weights, at, start, stop)
        return _normalize_groups(part, w, vectors, features, at, size, options)

    if samples <= size:
        return normalize_samples(0, samples, samples)
    whole = samples - samples % size
    found = [normalize_samples(0, whole, size)]
    if whole < samples:  # by itself: no mask, which would cost the whole groups a pass or two
        found.append(normalize_samples(whole, samples, samples - whole))
    ys, moments = zip(*found, strict=True)
    return jnp.concatenate(ys, at), jax.tree.map(lambda *parts: jnp.concatenate(parts), *moments)


def _normalize_groups(
    x: Array,
    weights: Array | None,
    vectors: list[Array | None],
    features: tuple[int, ...],
    at: int,
    size: int,
    options: dict[str, Any],
) -> tuple[Array, Moments]:
    """Normalize groups of one size, seen as a feature axis before the samples'."""
    groups = x.shape[at] // size if size else 1
    shape = tuple(x.shape[a] for a in features)
    # samples start at axis `at`: the feature axes before it stay where they are
    split = tuple(a if a < at else a + 1 for a in features)
    # a sum over groups pulls the cotangents of γ and β back
    of_groups = (*shape[:at], groups, *shape[at:])
    gamma, beta, mean_guess = (
        v if v is None else jnp.broadcast_to(jnp.expand_dims(v.reshape(shape), at), of_groups)
        for v in vectors
    )
    y, moments = batch_norm(
        _split(x, at, groups),
        gamma,
        beta,
        axis=(at, *split),
        where=weights if weights is None else _split(weights, at, groups),
        mean_guess=mean_guess,
        allow_single_value=True,
        **options,
    )
    mean, var, count, effective = moments
    parts = mean, var, count, count if effective is None else effective
    return y.reshape(x.shape), Moments(*(jnp.moveaxis(part, at, 0) for part in parts))


def _samples(a: Array, at: int, start: int, stop: int) -> Array:
    """Return some samples of x or of weights, which may have one for all."""
    return a if a.shape[at] == 1 else lax.slice_in_dim(a, start, stop, axis=at)


def _split(a: Array, at: int, groups: int) -> Array:
    """Return x or weights with an axis of groups before that of the samples."""
    groups = 1 if a.shape[at] == 1 else groups
    return a.reshape(*a.shape[:at], groups, a.shape[at] // groups, *a.shape[at + 1 :])


def _check_size(
    function: str, size: int, x: Array, features: tuple[int, ...], at: int, several: bool
) -> None:
    """Refuse a size that is no positive integer, or leaves a group without a variance."""
    if isinstance(size, bool) or not isinstance(size, Integral):
        raise TypeError(f"{function}: `size` must be a static integer; got {size!r}.")
    if size < 1:
        raise ValueError(f"{function}: `size`, the samples of a group, must be >= 1; got {size}.")
    samples = x.shape[at]
    if not isinstance(samples, int):
        raise ValueError(
            f"{function}: axis {at} of `x`, which is divided, must have a known length; got "
            f"{samples}. Use `batch_norm`, or export with that length."
        )
    last = samples % size or min(size, samples)
    others = math.prod(n for a, n in enumerate(x.shape) if a != at and a not in features)
    if several and last * others == 1:
        raise ValueError(
            f"{function}: each group must have at least two values per channel for a variance; got "
            f"one in the last of the groups of `size` {size} of `x` with shape {x.shape}. Choose a "
            "size that leaves no single sample, or pass allow_single_value=True: y is β there."
        )
