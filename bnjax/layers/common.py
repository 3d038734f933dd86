"""What the layers of all frameworks share: they accept more than `bnjax.batch_norm`.

A layer may be called on x without a sample axis or without a feature axis, on booleans, and with
parameters and statistics of a wider dtype than x's. Places that a mask leaves out are normalized
with the moments of the others (BN.2, BN.3), as all frameworks do.
"""

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import reshard
from jax.typing import ArrayLike, DTypeLike

import bnjax
from bnjax import Moments, population
from bnjax.layout import accumulator_dtype
from bnjax.population import Pool

Tree = TypeVar("Tree")


def feature_axes(axis: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """Return one or several feature axes, ascending and counted from 0.

    Args:
        axis: One axis, several (each counted once), or none: ().
        ndim: The rank of x.

    Raises:
        ValueError: x has no such axis.

    Example:
        >>> feature_axes((-1, 0), 3)
        (0, 2)
    """
    several = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    for a in several:
        if not -ndim <= index(a) < ndim:
            raise ValueError(
                f"BatchNorm: `axis` must name axes of the input, which has {ndim}; got {axis!r}."
            )
    return tuple(sorted({index(a) % ndim for a in several}))


def is_complex(*values: Any) -> bool:
    """Return whether an array or a dtype is complex: the framework's own code must normalize it.

    Args:
        *values: Arrays, dtypes, and None.

    Example:
        >>> is_complex(None, jnp.ones(3)), is_complex("complex64")
        (False, True)
    """
    dtypes = (getattr(value, "dtype", value) for value in values if value is not None)
    return any(jnp.issubdtype(jnp.dtype(dtype), jnp.complexfloating) for dtype in dtypes)


def mean_dtype(x: Array) -> jnp.dtype:
    """Return the dtype of `jnp.mean(x)`: x's own, or a floating one for an integer x.

    Example:
        >>> print(mean_dtype(jnp.ones(2, jnp.int8)))
        float32
    """
    return jax.eval_shape(jnp.mean, x).dtype


def weights(mask: ArrayLike | None) -> Array | None:
    """Return a mask as `where` of `bnjax.batch_norm`: floating weights as they are, else booleans.

    Args:
        mask: None, floating weights ≥ 0, or anything else that counts where it is not zero.

    Example:
        >>> print(weights(jnp.array([0, 2])), weights(jnp.array([0.0, 2.0])))
        [False  True] [0. 2.]
    """
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    return mask if jnp.issubdtype(mask.dtype, jnp.floating) else mask.astype(bool)


def normalize_batch(
    x: ArrayLike,
    gamma: Array | None,
    beta: Array | None,
    *,
    axis: tuple[int, ...],
    eps: float,
    where: ArrayLike | None = None,
    axis_name: Any = None,
    axis_index_groups: Any = None,
    rule: str = "jvp",
    dtype: DTypeLike | None = None,
    mean_guess: Array | None = None,
    given: tuple[Array, Array] | None = None,
    bounds: Mapping[str, ArrayLike] | None = None,
) -> tuple[Array, Moments]:
    """Normalize a batch with its own moments, for all that layers are called on.

    By `bnjax.batch_norm`; with given statistics by `bnjax.renorm` (R.1).

    Args:
        x: The batch: real, of any rank.
        gamma: γ: x's feature axes, in x's order. None stands for 1.
        beta: β, the same shape. None stands for 0.
        axis: The feature axes, from `feature_axes`; all of x's, or none.
        eps: ε ≥ 0.
        where: None, a mask or weights ≥ 0 (`weights`). y is normalized where they are zero, too.
        axis_name: Mesh or vmapped axes over which the batch is spread: one name or several.
        axis_index_groups: Groups of devices that normalize among themselves.
        rule: "vjp", "jvp" or "autodiff". "jvp" works in every mode of differentiation.
        dtype: Of y; None for x's.
        mean_guess: The running mean, which accelerators start from: as many channels as γ.
        given: None, or running mean and variance to renormalize with: as many channels as γ.
        bounds: `r_max`, `d_max` and `r_min` of `bnjax.renorm`.

    Returns:
        y, of x's shape; and the moments, of the shape of x's feature axes, in float32, or float64
        where x, γ, β or y is in float64. Where a channel has one value, x̂ and σ² are 0.

    Raises:
        TypeError: A dtype is complex or not numeric.
        ValueError: A shape, weight or option does not fit.

    Example:
        >>> y, moments = normalize_batch(jnp.array([1.0, 3.0]), None, None, axis=(), eps=0.0)
        >>> print(y, moments.mean)
        [-1.  1.] 2.0
    """
    x = _widen(x, dtype, gamma, beta)
    shape = [x.shape[a] for a in axis]
    vectors = gamma, beta, mean_guess, *(given or ())
    view, at, (gamma, beta, guess, *statistics) = _with_both_kinds_of_axes(x, axis, *vectors)
    if where is not None:
        where = jnp.asarray(where)  # a new feature axis stands last; a new sample axis is first
        where = where[..., None] if not axis else where
    names = tuple(axis_name) if isinstance(axis_name, list) else axis_name
    options = {"axis": at, "eps": eps, "where": where, "rule": rule, "dtype": dtype}
    options |= {"axis_name": names, "axis_index_groups": axis_index_groups}
    options |= {"masked": "normalize", "allow_single_value": True}
    if given is None:
        y, moments = bnjax.batch_norm(view, gamma, beta, mean_guess=guess, **options)
    else:
        mean, var = statistics
        y, moments = bnjax.renorm(view, (mean, var), gamma, beta, **(bounds or {}), **options)
    return y.reshape(x.shape), Moments(*(m.reshape(shape) for m in moments if m is not None))


def normalize_given(
    x: ArrayLike,
    mean: Array,
    var: Array,
    gamma: Array | None,
    beta: Array | None,
    *,
    axis: tuple[int, ...],
    eps: float,
    dtype: DTypeLike | None = None,
) -> Array:
    """Normalize with given statistics: `bnjax.normalize` for all that layers are called on (P.3).

    Args:
        x: Real, of any rank.
        mean: μ: x's feature axes, in x's order.
        var: σ² ≥ 0, the same shape.
        gamma: γ, the same shape. None stands for 1.
        beta: β, the same shape. None stands for 0.
        axis: As in `normalize_batch`.
        eps: ε ≥ 0.
        dtype: Of y; None for x's.

    Returns:
        y, of x's shape.

    Example:
        >>> one = jnp.ones(2)
        >>> print(normalize_given(jnp.array([1.0, 3.0]), one, one, None, None, axis=(0,), eps=3.0))
        [0. 1.]
    """
    x = _widen(x, dtype, mean, var, gamma, beta)
    view, at, vectors = _with_both_kinds_of_axes(x, axis, mean, var, gamma, beta)
    y = bnjax.normalize(view, *vectors, axis=at, eps=eps, dtype=dtype)
    return y.reshape(x.shape)


def update_statistics(
    mean: Array, var: Array, moments: Moments, momentum: ArrayLike
) -> tuple[Array, Array]:
    """Return momentum · old + (1 − momentum) · new, neither debiased nor unbiased.

    Args:
        mean: The running mean.
        var: The running variance, of the same shape.
        moments: The batch's: as many channels, in any shape.
        momentum: The weight on the old statistics.

    Returns:
        Mean and variance in their own dtypes; in a channel where the batch has no sample, or a
        moment that is not finite, as they were.

    Example:
        >>> batch = Moments(jnp.array([2.0, 7.0]), jnp.array([4.0, 0.0]), jnp.array([2.0, 0.0]))
        >>> print(*update_statistics(jnp.zeros(2), jnp.ones(2), batch, 0.5))
        [1. 0.] [2.5 1. ]
    """
    moments = Moments(*(m.reshape(mean.shape) for m in moments if m is not None))
    moments = sharded_like(moments, mean)
    taken = has_statistics(moments)
    pairs = ((mean, moments.mean), (var, moments.var))
    mean, var = (_average(old, new, taken, momentum) for old, new in pairs)
    return mean, var


def has_statistics(moments: Moments) -> Array:
    """Return where a batch has samples and finite moments: the channels whose statistics it moves.

    Example:
        >>> print(has_statistics(Moments(jnp.array([2.0, jnp.nan]), jnp.ones(2), jnp.ones(2))))
        [ True False]
    """
    return (moments.count > 0) & jnp.isfinite(moments.mean) & jnp.isfinite(moments.var)


def sharded_like(statistics: Tree, other: Array) -> Tree:
    """Return statistics that lie on an explicit mesh as another one does.

    A batch's moments are to lie as the running statistics do: a scan can carry those then.
    """
    spec = jax.typeof(other).sharding.spec
    return jax.tree.map(
        lambda a: a if jax.typeof(a).sharding.spec == spec else reshard(a, spec), statistics
    )


def add_to_pool(pool: Pool, moments: Moments) -> Pool:
    """Add a batch's moments, in any shape, to a pool of as many channels (P.5)."""
    mean, var, count = (m.reshape(pool.mean.shape) for m in moments[:3])
    return population.add(pool, Moments(mean, var, count))


def add_offset(
    x: Array, offset: Array, *, axis: tuple[int, ...], dtype: DTypeLike, evaluating: bool
) -> Array:
    """Return x + b', what is left of a folded normalization (P.4).

    Raises:
        ValueError: The layer is to train.
    """
    if not evaluating:
        raise ValueError(
            "BatchNorm: a folded layer has no statistics to train with: use_running_average must "
            "be True. Train the model as it was before `fold`."
        )
    rows = offset.reshape([size if a in axis else 1 for a, size in enumerate(x.shape)])
    return (x.astype(accumulator_dtype(x.dtype)) + rows).astype(dtype)


def _average(old: Array, new: Array, taken: Array, momentum: ArrayLike) -> Array:
    # weights of 0 and 1 in place of a choice: what is not taken may be NaN
    keep, add = (
        jnp.where(taken, weight, otherwise).astype(old.dtype)
        for weight, otherwise in ((momentum, 1), (1 - momentum, 0))
    )
    new = jnp.where(taken, new, 0).astype(old.dtype)
    return sharded_like(keep * old + add * new, old)


def _widen(x: ArrayLike, *others: Any) -> Array:
    """Return x in a floating dtype, in float64 where anything that it is combined with is."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(jnp.float32)
    dtypes = [jnp.dtype(getattr(other, "dtype", other)) for other in others if other is not None]
    wide = accumulator_dtype(x.dtype, *dtypes)
    return x.astype(wide) if wide == jnp.float64 else x


def _with_both_kinds_of_axes(
    x: Array, axis: tuple[int, ...], *vectors: Array | None
) -> tuple[Array, tuple[int, ...], tuple[Any, ...]]:
    """Return x with at least one sample and one feature axis, its feature axes, and the vectors."""
    if len(axis) == x.ndim:
        x, axis = x[None], tuple(a + 1 for a in axis)
    if not axis:
        x, axis = x[..., None], (x.ndim,)
    shape = [x.shape[a] for a in axis]
    return x, axis, tuple(v if v is None else v.reshape(shape) for v in vectors)
