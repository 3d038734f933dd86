"""Batch normalization over the sample axes: the public functions, and what they accept.

(BN.2)  x̂ = (x − μ) r,  r = (σ² + ε)^(−1/2)
(BN.3)  y = γ x̂ + β
(D.17)  with weights w: x̂ = 0 where w = 0
(P.3)   y = γ (x − μ) r + β for given statistics

Source: S0/S1 §2, S3; Ioffe & Szegedy 2015.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from bnjax import collectives, layout
from bnjax._errors import unknown_name
from bnjax.moments import Moments, accumulator_dtype
from bnjax.rules import RULES, Setting, given

Axis = int | tuple[int, ...]


def batch_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
    where: ArrayLike | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None,
    rule: str = "vjp",
) -> tuple[Array, Moments]:
    """Normalize a batch with its own moments, then scale and shift: BN.2, BN.3, D.17.

    Args:
        x: The batch: any floating array with at least one feature and one sample axis.
        gamma: γ, the scale: x's feature axes, in x's order. None stands for 1.
        beta: β, the shift: the same shape. None stands for 0.
        axis: The feature axis or axes; all others are averaged over.
        eps: ε ≥ 0, added to the variance; static. Where σ² + ε = 0, y = β and the gradient is 0.
        where: None, a boolean mask or weights w ≥ 0, broadcastable to x. Values under a zero
            weight influence nothing, whatever they are; y is β there. Weights are constants.
        axis_name: Mesh or vmapped axes over which the batch is spread, under `shard_map`, `pmap`
            or `vmap`: the moments are those of the whole, whatever weight each shard has. One
            all_gather forward, one psum backward.
        axis_index_groups: Groups of devices that normalize among themselves, all of one size;
            under `pmap` and `shard_map(check_vma=False)`.
        rule: How it is differentiated. "vjp": by the hand-derived pull-back, which saves x itself
            and per-channel vectors; in reverse mode only. "jvp": by the hand-derived
            push-forward, in every mode (`jax.jvp`, `jacfwd`, `hessian`, `linearize`); it takes
            somewhat longer. "autodiff": by JAX, as the plain reference.

    Returns:
        y, of x's shape and dtype, and the `Moments` of the batch (biased variance). All three of
        y, mean and var are differentiable in x, y in γ and β too.

    Raises:
        TypeError: x, gamma, beta or where has a dtype that cannot be normalized.
        ValueError: A shape, axis, eps, rule or group does not fit, or each channel has but one
            value (unless `where` or `axis_name` hides how many there are).

    Example:
        >>> y, moments = batch_norm(jnp.array([[1.0, 10.0], [3.0, 30.0]]), eps=0.0)
        >>> print(y)
        [[-1. -1.]
         [ 1.  1.]]
        >>> print(moments.mean, moments.var)
        [ 2. 20.] [  1. 100.]
    """
    x = floating("batch_norm", "x", x)
    features = _feature_axes("batch_norm", x, axis)
    if gamma is not None:
        gamma = per_channel("batch_norm", "gamma", gamma, x, features)
    if beta is not None:
        beta = per_channel("batch_norm", "beta", beta, x, features)
    weights = _weights("batch_norm", where, x)
    check_eps("batch_norm", eps)
    if rule not in RULES:
        raise ValueError(unknown_name("batch_norm", "rule", rule, RULES))
    how = layout.of(x, features)
    if weights is None and axis_name is None:
        check_batch("batch_norm", x, features)
    x, gamma, beta, axes = collectives.resolve(
        "batch_norm", x, weights, gamma, beta, axis_name, axis_index_groups
    )
    y, moments = RULES[rule](Setting(how, float(eps), axes), x, gamma, beta, weights)
    shape = [x.shape[a] for a in features]
    return y, Moments(*(part.reshape(shape) for part in moments))


def normalize(
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
) -> Array:
    """Normalize with given statistics, sample by sample: y = γ (x − μ) r + β (P.3).

    Args:
        x: Any floating array.
        mean: μ: x's feature axes, in x's order.
        var: σ² ≥ 0, the same shape.
        gamma: γ, the same shape. None stands for 1.
        beta: β, the same shape. None stands for 0.
        axis: The feature axis or axes.
        eps: ε ≥ 0, static. Where σ² + ε = 0, y = β.

    Returns:
        y, of x's shape and dtype. Each sample's y depends on that sample alone, to the last bit,
        whatever its place and company.

    Raises:
        TypeError: An argument is not floating.
        ValueError: A shape, axis or eps does not fit.

    Example:
        >>> print(normalize(jnp.array([[1.0], [5.0]]), jnp.array([3.0]), jnp.array([4.0]), eps=0.0))
        [[-1.]
         [ 1.]]
    """
    x = floating("normalize", "x", x)
    features = _feature_axes("normalize", x, axis)
    check_eps("normalize", eps)
    if mean is None or var is None:
        raise TypeError("normalize: `mean` and `var` are required; got None.")
    mean = per_channel("normalize", "mean", mean, x, features)
    var = per_channel("normalize", "var", var, x, features)
    if gamma is not None:
        gamma = per_channel("normalize", "gamma", gamma, x, features)
    if beta is not None:
        beta = per_channel("normalize", "beta", beta, x, features)
    setting = Setting(layout.of(x, features), float(eps))
    return given(setting, x, mean, var, gamma, beta)


def check_batch(function: str, x: Array, features: tuple[int, ...]) -> None:
    """Refuse a batch with one value per channel: it has no variance."""
    if math.prod(size for a, size in enumerate(x.shape) if a not in features) == 1:
        raise ValueError(
            f"{function}: `x` must leave at least two values per channel to have a variance; got "
            f"shape {x.shape} with feature axes {features}. Use a larger batch, or `normalize` "
            "with statistics gathered in training."
        )


def floating(function: str, name: str, value: ArrayLike) -> Array:
    """Refuse all but floating arrays."""
    # a tracer is left alone: asarray would copy it in an eager pull-back
    array = value if isinstance(value, Array) else jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{function}: `{name}` must be floating (float16, bfloat16, float32 or float64); "
            f"got {array.dtype}. Convert it first: {name}.astype(jnp.float32)."
        )
    return array


def _feature_axes(function: str, x: Array, axis: Axis) -> tuple[int, ...]:
    """Tell the feature axes, ascending and from 0."""
    axes = axis if isinstance(axis, tuple) else (axis,)
    for a in axes:
        if not isinstance(a, int) or not -x.ndim <= a < x.ndim:
            raise ValueError(
                f"{function}: `axis` must name axes of `x`, between {-x.ndim} and {x.ndim - 1} for "
                f"shape {x.shape}; got {axis!r}."
            )
    features = tuple(sorted({a % x.ndim for a in axes}))
    if len(features) != len(axes) or not 0 < len(features) < x.ndim:
        raise ValueError(
            f"{function}: `axis` must name different feature axes and leave at least one sample "
            f"axis of `x`, shape {x.shape}; got {axis!r}."
        )
    return features


def per_channel(
    function: str, name: str, value: ArrayLike, x: Array, features: tuple[int, ...]
) -> Array:
    """Check a per-channel argument; hand it on as a vector in the sums' dtype."""
    array = floating(function, name, value)
    shape = tuple(x.shape[a] for a in features)
    if array.shape != shape:
        axes = features[0] - x.ndim if len(features) == 1 else features
        raise ValueError(
            f"{function}: `{name}` must have shape {shape} to match axis {axes} of `x` with shape "
            f"{x.shape}; got {array.shape}."
        )
    return array.astype(accumulator_dtype(x.dtype)).reshape(-1)


def _weights(function: str, where: ArrayLike | None, x: Array) -> Array | None:
    """Check `where`; hand it on as constant weights of x's rank, in the sums' dtype."""
    if where is None:
        return None
    array = where if isinstance(where, Array) else jnp.asarray(where)
    real = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    if not (real or array.dtype == jnp.bool_):
        raise TypeError(
            f"{function}: `where` must be a boolean mask or real weights; got {array.dtype}."
        )
    shape = (1,) * (x.ndim - array.ndim) + array.shape
    if len(shape) != x.ndim or any(w not in (1, s) for w, s in zip(shape, x.shape, strict=True)):
        raise ValueError(
            f"{function}: `where` must be broadcastable to `x` with shape {x.shape}; "
            f"got {array.shape}."
        )
    return jax.lax.stop_gradient(array.astype(accumulator_dtype(x.dtype)).reshape(shape))


def check_eps(function: str, eps: float) -> None:
    """Refuse an ε that is not static, finite and >= 0."""
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < float("inf"):
        raise ValueError(
            f"{function}: `eps` must be a static, finite Python number >= 0; got {eps!r}."
        )
