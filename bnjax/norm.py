"""Batch normalization over the sample axes, with its hand-derived pull-back.

(BN.2)  x̂ = (x − μ) r,  r = (σ² + ε)^(−1/2)
(BN.3)  y = γ x̂ + β
(D.4)   ∂C/∂x = K(Δ)
(D.5)   ∂C/∂γ = Σ_s Δ_s x̂_s,  ∂C/∂β = Σ_s Δ_s
(D.7)   μ and σ² are outputs too, and pull back through x as well
(D.17)  with weights w: x̂ = 0 where w = 0, and the pull-back is w K(·/w)
(P.3)   y = γ (x − μ) r + β for given statistics

Source: S0/S1 §2, S3; Ioffe & Szegedy 2015.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from bnjax import kernel
from bnjax._errors import unknown_name
from bnjax.moments import Centre, Moments, accumulator_dtype, centred, measure

Axis = int | tuple[int, ...]


def batch_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
    where: ArrayLike | None = None,
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
        rule: How it is differentiated. "vjp": by the hand-derived pull-back, which saves x itself
            and per-channel vectors. "autodiff": by JAX, as the plain reference.

    Returns:
        y, of x's shape and dtype, and the `Moments` of the batch (biased variance). All three of
        y, mean and var are differentiable in x, y in γ and β too.

    Raises:
        TypeError: x, gamma, beta or where has a dtype that cannot be normalized.
        ValueError: A shape, axis, eps or rule does not fit, or each channel has but one value.

    Example:
        >>> y, moments = batch_norm(jnp.array([[1.0, 10.0], [3.0, 30.0]]), eps=0.0)
        >>> print(y)
        [[-1. -1.]
         [ 1.  1.]]
        >>> print(moments.mean, moments.var)
        [ 2. 20.] [  1. 100.]
    """
    x = _floating("batch_norm", "x", x)
    features, samples = _split_axes("batch_norm", x, axis)
    if gamma is not None:
        gamma = _per_channel("batch_norm", "gamma", gamma, x, features)
    if beta is not None:
        beta = _per_channel("batch_norm", "beta", beta, x, features)
    weights = _weights("batch_norm", where, x)
    _check_eps("batch_norm", eps)
    if rule not in _RULES:
        raise ValueError(unknown_name("batch_norm", "rule", rule, _RULES))
    values = 1
    for a in samples:
        values *= x.shape[a]
    if values == 1 and weights is None:
        raise ValueError(
            "batch_norm: `x` must leave at least two values per channel to have a variance; got "
            f"shape {x.shape} with feature axes {features}. Use a larger batch, or `normalize` "
            "with statistics gathered in training."
        )
    y, moments = _RULES[rule](samples, float(eps), x, gamma, beta, weights)
    shape = [x.shape[a] for a in features]
    return y, Moments(*(part.reshape(shape) for part in moments))


class _Saved(NamedTuple):
    """What the pull-back reads: x itself and per-channel vectors."""

    x: Array
    gamma: Array | None
    beta: Array | None
    weights: Array | None
    centre: Centre
    inv_std: Array


def _forward(
    samples: tuple[int, ...],
    eps: float,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    weights: Array | None,
) -> tuple[Array, Centre, Array]:
    """Normalize: the one forward of every rule."""
    x = _present(x, weights)
    centre = measure(x, samples, weights)
    inv_std = kernel.inverse_std(centre.var, eps)
    y = _affine(centred(x, centre), inv_std, gamma, beta, weights)
    return y.astype(x.dtype), centre, inv_std


def _present(t: Array, weights: Array | None) -> Array:
    """Put zeros where the weight is zero: 0 · t would not hide NaN and infinity (D.17)."""
    return t if weights is None else jnp.where(weights > 0, t, 0)


def _affine(
    deviation: Array,
    inv_std: Array,
    gamma: Array | None,
    beta: Array | None,
    weights: Array | None = None,
) -> Array:
    """Form γ r (x − μ) + β, and β where the weight is zero."""
    # one product of x's size: γ r is per channel
    y = _present(deviation * _scale(gamma, inv_std), weights)
    return y if beta is None else y + beta


def _scale(gamma: Array | None, inv_std: Array) -> Array:
    return inv_std if gamma is None else gamma * inv_std


def _by_autodiff(samples, eps, x, gamma, beta, weights):
    y, centre, _ = _forward(samples, eps, x, gamma, beta, weights)
    return y, centre.moments()


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_vjp(samples, eps, x, gamma, beta, weights):
    return _by_autodiff(samples, eps, x, gamma, beta, weights)


def _by_vjp_fwd(samples, eps, x, gamma, beta, weights):
    y, centre, inv_std = _forward(samples, eps, x, gamma, beta, weights)
    return (y, centre.moments()), _Saved(x, gamma, beta, weights, centre, inv_std)


def _by_vjp_bwd(samples, eps, saved, bars):
    del eps
    y_bar, (mean_bar, var_bar, _) = bars
    x, gamma, beta, weights, centre, inv_std = saved
    y_bar = y_bar.astype(centre.shift.dtype)
    beta_bar = None if beta is None else jnp.sum(y_bar, samples, keepdims=True)  # D.5
    y_bar, x = _present(y_bar, weights), _present(x, weights)
    along = kernel.overlaps(y_bar, x, centre, samples)
    x_bar = kernel.project(  # D.4, D.7
        y_bar,
        x,
        centre,
        _scale(gamma, inv_std),
        inv_std,
        along,
        weights=weights,
        mean_bar=mean_bar,
        var_bar=var_bar,
    )
    gamma_bar = None if gamma is None else inv_std * along.deviations  # D.5
    return x_bar.astype(x.dtype), gamma_bar, beta_bar, None


_by_vjp.defvjp(_by_vjp_fwd, _by_vjp_bwd)

_RULES = {"vjp": _by_vjp, "autodiff": _by_autodiff}


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
        y, of x's shape and dtype. Each sample's y depends on that sample alone.

    Raises:
        TypeError: An argument is not floating.
        ValueError: A shape, axis or eps does not fit.

    Example:
        >>> print(normalize(jnp.array([[1.0], [5.0]]), jnp.array([3.0]), jnp.array([4.0]), eps=0.0))
        [[-1.]
         [ 1.]]
    """
    x = _floating("normalize", "x", x)
    features, _ = _split_axes("normalize", x, axis)
    _check_eps("normalize", eps)
    if mean is None or var is None:
        raise TypeError("normalize: `mean` and `var` are required; got None.")
    mean = _per_channel("normalize", "mean", mean, x, features)
    inv_std = kernel.inverse_std(_per_channel("normalize", "var", var, x, features), eps)
    if gamma is not None:
        gamma = _per_channel("normalize", "gamma", gamma, x, features)
    if beta is not None:
        beta = _per_channel("normalize", "beta", beta, x, features)
    return _affine(x - mean, inv_std, gamma, beta).astype(x.dtype)


def _floating(function: str, name: str, value: ArrayLike) -> Array:
    # a tracer is left alone: asarray would copy it in an eager pull-back
    array = value if isinstance(value, Array) else jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{function}: `{name}` must be floating (float16, bfloat16, float32 or float64); "
            f"got {array.dtype}. Convert it first: {name}.astype(jnp.float32)."
        )
    return array


def _split_axes(function: str, x: Array, axis: Axis) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split x's axes into (feature axes, sample axes), both ascending."""
    axes = axis if isinstance(axis, tuple) else (axis,)
    for a in axes:
        if not isinstance(a, int) or not -x.ndim <= a < x.ndim:
            raise ValueError(
                f"{function}: `axis` must name axes of `x`, between {-x.ndim} and {x.ndim - 1} for "
                f"shape {x.shape}; got {axis!r}."
            )
    features = tuple(sorted({a % x.ndim for a in axes}))
    samples = tuple(a for a in range(x.ndim) if a not in features)
    if len(features) != len(axes) or not features or not samples:
        raise ValueError(
            f"{function}: `axis` must name different feature axes and leave at least one sample "
            f"axis of `x`, shape {x.shape}; got {axis!r}."
        )
    return features, samples


def _per_channel(
    function: str, name: str, value: ArrayLike, x: Array, features: tuple[int, ...]
) -> Array:
    """Check a per-channel argument; hand it on in the sums' dtype, broadcastable to x."""
    array = _floating(function, name, value)
    shape = tuple(x.shape[a] for a in features)
    if array.shape != shape:
        axes = features[0] - x.ndim if len(features) == 1 else features
        raise ValueError(
            f"{function}: `{name}` must have shape {shape} to match axis {axes} of `x` with shape "
            f"{x.shape}; got {array.shape}."
        )
    kept = [size if a in features else 1 for a, size in enumerate(x.shape)]
    return array.astype(accumulator_dtype(x.dtype)).reshape(kept)


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


def _check_eps(function: str, eps: float) -> None:
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < float("inf"):
        raise ValueError(
            f"{function}: `eps` must be a static, finite Python number >= 0; got {eps!r}."
        )
