"""What all converters share: checked statistics to a `PopulationState`, and back.

A variance that is to be unbiased is multiplied by n/(n − 1), as in P.2.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from bnjax import population
from bnjax._checks import floating, known
from bnjax.layout import accumulator_dtype
from bnjax.population import PopulationState


def import_state(
    function: str,
    statistics: dict[str, ArrayLike],
    batches: tuple[str, ArrayLike],
    count: ArrayLike | None = None,
) -> PopulationState:
    """Check another library's statistics and return them as a state.

    Args:
        function: The public function that was called, for error messages.
        statistics: Mean and variance, (n,) each, by the library's names.
        batches: The library's name of k, and k.
        count: n, to make the variance unbiased (P.2); None leaves it as it is.

    Returns:
        The state: copies, in float32 or float64.

    Raises:
        TypeError: An argument is None or of the wrong kind.
        ValueError: A shape does not fit, or a value is outside its range.
    """
    mean, var = (_statistic(function, name, value) for name, value in statistics.items())
    mean_name, var_name = statistics
    if mean.shape != var.shape:
        raise ValueError(
            f"{function}: `{var_name}` must have shape {mean.shape} to match `{mean_name}`; "
            f"got {var.shape}."
        )
    recompute = " A batch that was not finite has spoiled it: compute the statistics again."
    for name, array in ((mean_name, mean), (var_name, var)):
        _require(function, name, array, "finite", math.isfinite, recompute)
    clip = " Clip values that rounding has made negative."
    _require(function, var_name, var, ">= 0", lambda v: v >= 0, clip)
    k = _batches_per_channel(function, *batches, mean)
    if count is not None:
        var = var * _unbiased_factor(function, count, mean)  # P.2
    return PopulationState(
        mean=mean,
        var=var,
        batches=k,
        skipped=jnp.zeros(mean.shape, jnp.int32),
        remainder=jnp.zeros_like(mean),
        var_remainder=jnp.zeros_like(var),
    )


def export_statistics(
    function: str, state: PopulationState, count: ArrayLike | None, mean_name: str, var_name: str
) -> dict[str, Array]:
    """Return a state's mean and variance by another library's names.

    Args:
        function: The public function that was called, for error messages.
        state: The state.
        count: n, to make the variance biased again (P.2); None leaves it as it is.
        mean_name: The library's name of the mean.
        var_name: The library's name of the variance.

    Raises:
        ValueError: `count` does not fit.
    """
    mean, var = population.statistics(state)
    if count is not None:
        var = var / _unbiased_factor(function, count, mean)  # P.2
    return {mean_name: mean, var_name: var}


def largest_batch_count(state: PopulationState) -> Array:
    """Return the largest k of all channels, for a library that keeps a single one."""
    return jnp.max(state.batches)


def _statistic(function: str, name: str, value: ArrayLike) -> Array:
    """Check and copy one running statistic, (n,), to float32 or float64."""
    if value is None:
        raise TypeError(
            f"{function}: `{name}` must be an array; got None: the layer has no running statistics."
        )
    # a copy: an array shared by DLPack is PyTorch's own buffer, which PyTorch goes on updating
    array = floating(function, name, jnp.array(value))
    if array.ndim != 1:
        raise ValueError(f"{function}: `{name}` must have shape (n,); got {array.shape}.")
    return array.astype(accumulator_dtype(array.dtype))


def _batches_per_channel(function: str, name: str, value: ArrayLike, mean: Array) -> Array:
    """Check k; return one for each channel, (n,) int32."""
    if value is None:
        raise TypeError(f"{function}: `{name}` must be an integer; got None.")
    k = jnp.array(value)
    if not jnp.issubdtype(k.dtype, jnp.integer):
        raise TypeError(f"{function}: `{name}` must be an integer; got {k.dtype}.")
    if k.shape not in ((), mean.shape):
        raise ValueError(
            f"{function}: `{name}` must be one number or have shape {mean.shape}; got {k.shape}."
        )
    _require(function, name, k, ">= 0", lambda k: k >= 0)
    return jnp.broadcast_to(k, mean.shape).astype(jnp.int32)


def _unbiased_factor(function: str, count: ArrayLike, mean: Array) -> Array:
    """Return n/(n − 1)."""
    n = jnp.asarray(count, mean.dtype)
    if n.shape not in ((), mean.shape):
        raise ValueError(
            f"{function}: `count` must be a number or have shape {mean.shape}; got {n.shape}."
        )
    _require(function, "count", n, "> 1, the values per channel in a batch", lambda n: n > 1)
    return n / (n - 1)


def _require(
    function: str,
    name: str,
    array: Array,
    required: str,
    fits: Callable[[Any], bool],
    advice: str = "",
) -> None:
    """Raise a ValueError if a value does not fit, where values are known: outside jit."""
    if not known(array):
        return
    # as Python's numbers: within jit, a comparison of known arrays would be traced
    values = array.tolist()
    for value in values if array.ndim else [values]:
        if not fits(value):
            raise ValueError(f"{function}: `{name}` must be {required}; got {value!r}.{advice}")
