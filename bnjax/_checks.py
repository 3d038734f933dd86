"""What public functions check of their arguments, and how the library words an error.

Every message names function, argument, what is required, what came and the way out. `function` is
the name the user called.
"""

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import partial
from numbers import Real
from operator import index
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from bnjax.layout import accumulator_dtype, channel_vector

Axis = int | Sequence[int]
_FLOATS = [jnp.dtype(name) for name in ("float16", jnp.bfloat16, "float32", "float64")]


def unknown_name(function: str, argument: str, got: object, valid: Iterable[str]) -> str:
    """Return the message that `got` is none of `valid`, and which of them it resembles most."""
    names = sorted(valid)
    near = get_close_matches(str(got), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{function}: `{argument}` must be one of {', '.join(names)}; got {got!r}{hint}"


def floating(function: str, name: str, value: ArrayLike) -> Array:
    """Return a floating array; refuse any other dtype."""
    # a tracer is left alone: asarray would copy it in an eager pull-back
    array = value if isinstance(value, Array) else jnp.asarray(value)
    if array.dtype not in _FLOATS:
        raise TypeError(
            f"{function}: `{name}` must be floating (float16, bfloat16, float32 or float64); "
            f"got {array.dtype}. Convert it first: {name}.astype(jnp.float32)."
        )
    return array


def batch(function: str, x: ArrayLike) -> Array:
    """Return x as a floating array: integers in JAX's default float, as JAX's functions do."""
    array = x if isinstance(x, Array) else jnp.asarray(x)
    if jnp.issubdtype(array.dtype, jnp.integer):
        array = array.astype(jnp.result_type(float))
    if array.ndim == 0:
        raise ValueError(
            f"{function}: `x` must have at least one feature and one sample axis; got shape (). "
            "Give one sample of n features the shape (1, n)."
        )
    return floating(function, "x", array)


def result_dtype(function: str, dtype: DTypeLike | None) -> jnp.dtype | None:
    """Return the dtype that is asked for; refuse what is not floating."""
    if dtype is None:
        return None
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found not in _FLOATS:  # None is equal to float64's dtype
        raise TypeError(
            f"{function}: `dtype` must be None for that of `x`, or one of float16, bfloat16, "
            f"float32 and float64; got {dtype!r}."
        )
    return found


def matrix(function: str, name: str, value: ArrayLike) -> Array:
    """Return a floating array of two axes, samples first."""
    array = floating(function, name, value)
    if array.ndim != 2:
        raise ValueError(
            f"{function}: `{name}` must have two axes, samples first; got shape {array.shape}."
        )
    return array


def feature_axes(function: str, x: Array, axis: Axis) -> tuple[int, ...]:
    """Return the feature axes, ascending and counted from 0."""
    try:
        axes = tuple(index(a) for a in (axis if isinstance(axis, Sequence) else (axis,)))
    except TypeError:
        axes = (x.ndim,)  # which is no axis either
    for a in axes:
        if not -x.ndim <= a < x.ndim:
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
    """Return a per-channel argument as a vector (channels,) in the sums' dtype."""
    array = floating(function, name, value)
    shape = tuple(x.shape[a] for a in features)
    if array.shape != shape:
        axes = features[0] - x.ndim if len(features) == 1 else features
        raise ValueError(
            f"{function}: `{name}` must have shape {shape} to match axis {axes} of `x` with shape "
            f"{x.shape}; got {array.shape}."
        )
    return channel_vector(array.astype(accumulator_dtype(x.dtype)), x, features)


def sample_weights(function: str, where: ArrayLike | None, x: Array) -> Array | None:
    """Return `where` as constant weights of x's rank in the sums' dtype, or None."""
    if where is None:
        return None
    array = weights(function, where, accumulator_dtype(x.dtype))
    shape = (1,) * (x.ndim - array.ndim) + array.shape
    if len(shape) != x.ndim or any(w not in (1, s) for w, s in zip(shape, x.shape, strict=True)):
        raise ValueError(
            f"{function}: `where` must be broadcastable to `x` with shape {x.shape}; "
            f"got {array.shape}."
        )
    return jax.lax.stop_gradient(array.reshape(shape))


def weights(function: str, where: ArrayLike, dtype: jnp.dtype) -> Array:
    """Return a mask or weights in `dtype`; refuse what is negative, infinite or NaN.

    Where the values are traced, each of these becomes NaN, and so does all that it weighs.
    """
    with jax.ensure_compile_time_eval():  # under jit, too, what is not traced is known
        array = where if isinstance(where, Array) else jnp.asarray(where)
    if array.dtype == jnp.bool_ or jnp.issubdtype(array.dtype, jnp.unsignedinteger):
        return array.astype(dtype)
    if not jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.kind != "i":
        raise TypeError(
            f"{function}: `where` must be a boolean mask or real weights; got {array.dtype}."
        )
    if not known(array):
        cast = array.astype(dtype)
        return jnp.where(_are_weights(cast), cast, jnp.nan)
    with jax.ensure_compile_time_eval():
        valid = bool(_all_weights(array, dtype))
    if not valid:
        values = jax.device_get(array).astype(dtype).ravel()
        wrong = [value for value in values.tolist() if not 0 <= value < math.inf]
        raise ValueError(
            f"{function}: `where` must hold finite weights >= 0; got {wrong[0]} in {len(wrong)} of "
            f"{len(values)} places. Give samples that are not to count the weight 0."
        )
    return array.astype(dtype)


def _are_weights(w: Array) -> Array:
    return (w >= 0) & (w < jnp.inf)


@partial(jax.jit, static_argnums=1)  # one program, which writes out nothing of w's size
def _all_weights(array: Array, dtype: jnp.dtype) -> Array:
    return jnp.all(_are_weights(array.astype(dtype)))


def single_value(x: Array, features: tuple[int, ...]) -> bool:
    """Return whether there is one value per channel, as far as sizes are known."""
    return math.prod(size for a, size in enumerate(x.shape) if a not in features) == 1


def several_samples(function: str, x: Array, features: tuple[int, ...]) -> None:
    """Refuse a batch with one value per channel: it has no variance."""
    if single_value(x, features):
        raise ValueError(
            f"{function}: `x` must leave at least two values per channel to have a variance; got "
            f"shape {x.shape} with feature axes {features}. Use a larger batch, `normalize` with "
            "statistics gathered in training, or `allow_single_value=True` in `batch_norm` or "
            "`renorm`, where x̂ is 0."
        )


def finite_eps(function: str, eps: float) -> None:
    """Refuse an ε that is not static, finite and ≥ 0."""
    # a NumPy scalar is a `Real`, too
    if isinstance(eps, bool) or not isinstance(eps, Real) or not 0 <= eps < float("inf"):
        raise ValueError(
            f"{function}: `eps` must be a static, finite Python number >= 0; got {eps!r}."
        )


def decay_or_none(function: str, name: str, decay: float | None) -> None:
    """Refuse a weight on the old statistics that is neither None nor in [0, 1)."""
    if decay is not None and not 0 <= decay < 1:
        raise ValueError(
            f"{function}: `{name}`, the weight on the old statistics, must be None or in [0, 1); "
            f"got {decay!r}."
        )


def known(tree: Any) -> bool:
    """Return whether all numbers in a tree can be read here: none is traced or on another host."""
    return all(
        not isinstance(leaf, Tracer)
        and (not isinstance(leaf, Array) or leaf.is_fully_addressable or leaf.is_fully_replicated)
        for leaf in jax.tree.leaves(tree)
    )
