"""Running statistics of other libraries, to and from `PopulationState`.

(P.2)  σ²_BN = mean over mini-batches of n/(n − 1) σ_B²
(P.7)  m_k = d m_(k−1) + (1 − d) μ_k, read as m_k / (1 − d^k)

Source: S3; the libraries' own code (PyTorch 2.13, flax 0.12, Keras 3.15, dm-haiku 0.0.17).
"""

import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from bnjax import population
from bnjax.conversion.options import check_decay, require_keys
from bnjax.moments import accumulator_dtype
from bnjax.norm import floating
from bnjax.population import PopulationState


def from_torch(
    running_mean: ArrayLike, running_var: ArrayLike, num_batches_tracked: ArrayLike
) -> PopulationState:
    """Take in the buffers of a PyTorch layer (P.2: its variance is unbiased, as here).

    Args:
        running_mean: (n,), real; a CPU tensor or any array.
        running_var: (n,), >= 0.
        num_batches_tracked: k, an integer; read by further updates only (see the module). Old
            checkpoints have 0 here: put in how many batches there were.

    Returns:
        The state: copies, in float32, or float64 for float64 buffers.

    Raises:
        TypeError: A buffer is missing (track_running_stats=False), or of the wrong kind.
        ValueError: A shape does not fit; a value is not finite, or negative where it must not be.

    Example:
        >>> state = from_torch(jnp.array([2.0]), jnp.array([4.0]), 1000)
        >>> print(state.mean, state.var, state.batches)
        [2.] [4.] [1000]
    """
    return _state(
        "conversion.from_torch",
        {"running_mean": running_mean, "running_var": running_var},
        ("num_batches_tracked", num_batches_tracked),
    )


def to_torch(state: PopulationState) -> dict[str, Array]:
    """Write a state as the buffers of a PyTorch layer.

    Args:
        state: What was seen here.

    Returns:
        By the buffers' names, as `from_torch` takes them; num_batches_tracked, one for all
        channels, is the largest of theirs. `torch.tensor(numpy.asarray(...))` makes tensors of
        them, for `load_state_dict`.

    Example:
        >>> print(to_torch(population.init(1)))
        {'running_mean': Array([0.], ...), 'running_var': Array([1.], ...),
         'num_batches_tracked': Array(0, dtype=int32)}
    """
    mean, var = population.statistics(state)
    return {"running_mean": mean, "running_var": var, "num_batches_tracked": _most(state)}


def from_flax(
    mean: ArrayLike, var: ArrayLike, *, batches: ArrayLike, count: ArrayLike | None = None
) -> PopulationState:
    """Take in the `batch_stats` of a flax layer, linen's or nnx's.

    Args:
        mean: (n,), real.
        var: (n,), >= 0; flax averages the biased variance.
        batches: k, how many batches went in, which flax does not keep; read by further updates
            only (see the module).
        count: n > 1, the values per channel in each batch, to make the variance unbiased (P.2).
            None: it stays as it is, and evaluates as in flax.

    Returns:
        The state: copies, in float32, or float64 for float64 statistics.

    Raises:
        TypeError: An argument is missing or of the wrong kind.
        ValueError: A shape does not fit; a value is not finite, or outside its range.

    Example:
        >>> print(from_flax(jnp.array([2.0]), jnp.array([3.0]), batches=1000, count=4).var)
        [4.]
    """
    return _state("conversion.from_flax", {"mean": mean, "var": var}, ("batches", batches), count)


def to_flax(state: PopulationState, *, count: ArrayLike | None = None) -> dict[str, Array]:
    """Write a state as the `batch_stats` of a flax layer, linen's or nnx's.

    Args:
        state: What was seen here.
        count: n > 1, the values per channel in each batch, to make the variance biased again.
            None: it stays as it is, and evaluates as here.

    Returns:
        By flax's names, as `from_flax` takes them; the number of batches is left behind.

    Raises:
        ValueError: count does not fit.

    Example:
        >>> print(to_flax(population.init(1)))
        {'mean': Array([0.], ...), 'var': Array([1.], ...)}
    """
    return _named("conversion.to_flax", state, count, "mean", "var")


def from_keras(
    moving_mean: ArrayLike,
    moving_variance: ArrayLike,
    *,
    batches: ArrayLike,
    count: ArrayLike | None = None,
) -> PopulationState:
    """Take in the moving statistics of a Keras layer.

    Args:
        moving_mean: (n,), real.
        moving_variance: (n,), >= 0; Keras averages the biased variance.
        batches: k, how many batches went in, which Keras does not keep; read by further updates
            only (see the module).
        count: n > 1, the values per channel in each batch, to make the variance unbiased (P.2).
            None: it stays as it is, and evaluates as in Keras, with its ε: 1e-3 by default.

    Returns:
        The state: copies, in float32, or float64 for float64 statistics.

    Raises:
        TypeError: An argument is missing or of the wrong kind.
        ValueError: A shape does not fit; a value is not finite, or outside its range.

    Example:
        >>> print(from_keras(jnp.array([2.0]), jnp.array([3.0]), batches=1000).var)
        [3.]
    """
    return _state(
        "conversion.from_keras",
        {"moving_mean": moving_mean, "moving_variance": moving_variance},
        ("batches", batches),
        count,
    )


def to_keras(state: PopulationState, *, count: ArrayLike | None = None) -> dict[str, Array]:
    """Write a state as the moving statistics of a Keras layer.

    Args:
        state: What was seen here.
        count: n > 1, the values per channel in each batch, to make the variance biased again.
            None: it stays as it is, and evaluates as here.

    Returns:
        By Keras' names, as `from_keras` takes them: `layer.moving_mean.assign(...)`. The number of
        batches is left behind.

    Raises:
        ValueError: count does not fit.

    Example:
        >>> print(to_keras(population.init(1)))
        {'moving_mean': Array([0.], ...), 'moving_variance': Array([1.], ...)}
    """
    return _named("conversion.to_keras", state, count, "moving_mean", "moving_variance")


def from_haiku(
    mean_ema: Mapping[str, ArrayLike],
    var_ema: Mapping[str, ArrayLike],
    *,
    count: ArrayLike | None = None,
) -> PopulationState:
    """Take in the two averages of a haiku layer, zero-debiased as here (P.7).

    Args:
        mean_ema: The layer's state "…/~/mean_ema". Read are `average`, x's feature axis with 1 for
            each sample axis, and `counter`, k; `hidden` = average · (1 − d^k) says nothing more.
        var_ema: The same of "…/~/var_ema"; haiku averages the biased variance.
        count: n > 1, the values per channel in each batch, to make the variance unbiased (P.2).
            None: it stays as it is, and evaluates as in haiku.

    Returns:
        The state, its parts of shape (n,): copies, in float32, or float64 for float64 averages.
        A layer that has seen no batch reads mean 0 and variance 0.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: A key is missing, a shape does not fit, the counters differ, a value is not
            finite or outside its range.

    Example:
        >>> mean_ema = {"average": jnp.array([[2.0]]), "counter": 3}
        >>> var_ema = {"average": jnp.array([[4.0]]), "counter": 3}
        >>> print(from_haiku(mean_ema, var_ema).mean)
        [2.]
    """
    function = "conversion.from_haiku"
    averages, counters = {}, []
    for name, ema in (("mean_ema", mean_ema), ("var_ema", var_ema)):
        require_keys(function, name, ema, ("average", "counter"))
        average = jnp.array(ema["average"])
        if average.size != max(average.shape, default=0):
            raise ValueError(
                f"{function}: `average` of `{name}` must have one feature axis, and 1 for each "
                f"other; got shape {average.shape}."
            )
        averages[f"{name}['average']"] = average.reshape(-1)
        counters.append(jnp.asarray(ema["counter"]))
    if _known(*counters) and counters[0].tolist() != counters[1].tolist():
        raise ValueError(
            f"{function}: `counter` must be the same in `mean_ema` and `var_ema`, which one layer "
            f"updates together; got {counters[0]} and {counters[1]}."
        )
    return _state(function, averages, ("counter", counters[0]), count)


def to_haiku(
    state: PopulationState,
    *,
    decay: float,
    count: ArrayLike | None = None,
    shape: tuple[int, ...] | None = None,
) -> dict[str, dict[str, Array]]:
    """Write a state as the two averages of a haiku layer, `hidden` = average · (1 − d^k) (P.7).

    Args:
        state: What was seen here.
        decay: d, the layer's decay_rate, in [0, 1).
        count: n > 1, the values per channel in each batch, to make the variance biased again.
            None: it stays as it is, and evaluates as here.
        shape: The averages' shape: x's, with 1 for each sample axis. None: (1, n), for x of shape
            (B, n).

    Returns:
        "mean_ema" and "var_ema", as `from_haiku` takes them, for the layer's states of these names;
        counter, one for all channels, is the largest of theirs.

    Raises:
        ValueError: decay, count or shape does not fit.

    Example:
        >>> print(to_haiku(population.init(2), decay=0.9)["var_ema"])
        {'hidden': Array([[0., 0.]], ...), 'average': Array([[1., 1.]], ...),
         'counter': Array(0, dtype=int32)}
    """
    function = "conversion.to_haiku"
    check_decay(function, decay)
    mean, var = population.statistics(state)
    shape = (1, mean.size) if shape is None else shape
    if math.prod(shape) != mean.size or mean.size not in shape:
        raise ValueError(
            f"{function}: `shape` must hold the state's {mean.size} channels on one axis, and 1 on "
            f"each other; got {shape}."
        )
    k = _most(state)
    averages = _named(function, state, count, "mean_ema", "var_ema")
    # rounded as haiku rounds it: its next average divides by the like
    share = 1 - jnp.asarray(decay, mean.dtype) ** k
    return {
        name: {
            "hidden": (average * share).reshape(shape),
            "average": average.reshape(shape),
            "counter": jnp.array(k),  # each its own: a buffer cannot be donated twice
        }
        for name, average in averages.items()
    }


def _require(function: str, name: str, array: Array, required: str, fits: Callable) -> None:
    """Refuse a value that does not fit, where values are known: outside jit."""
    if not _known(array):
        return
    # as Python's numbers: within jit, a comparison of known arrays would be traced
    values = array.tolist()
    for value in values if array.ndim else [values]:
        if not fits(value):
            raise ValueError(f"{function}: `{name}` must be {required}; got {value!r}.")


def _known(*arrays: Array) -> bool:
    return not any(isinstance(array, Tracer) for array in arrays)


def _statistic(function: str, name: str, value: ArrayLike) -> Array:
    """Copy one running statistic, (n,), in float32 or float64."""
    if value is None:
        raise TypeError(f"{function}: `{name}` must be an array; got None: the layer keeps none.")
    # a copy: what came by DLPack is PyTorch's own buffer, which it goes on writing into
    array = floating(function, name, jnp.array(value))
    if array.ndim != 1:
        raise ValueError(f"{function}: `{name}` must have shape (n,); got {array.shape}.")
    return array.astype(accumulator_dtype(array.dtype))


def _unbiased_factor(function: str, count: ArrayLike, mean: Array) -> Array:
    """Form n/(n − 1) of P.2."""
    n = jnp.asarray(count, mean.dtype)
    if n.shape not in ((), mean.shape):
        raise ValueError(
            f"{function}: `count` must be a number or have shape {mean.shape}; got {n.shape}."
        )
    _require(function, "count", n, "> 1, the values per channel in a batch", lambda n: n > 1)
    return n / (n - 1)


def _state(
    function: str,
    statistics: dict[str, ArrayLike],
    batches: tuple[str, ArrayLike],
    count: ArrayLike | None = None,
) -> PopulationState:
    """Check what came, by its names there: mean and variance, and k."""
    mean, var = (_statistic(function, name, value) for name, value in statistics.items())
    mean_name, var_name = statistics
    if mean.shape != var.shape:
        raise ValueError(
            f"{function}: `{var_name}` must have shape {mean.shape} to match `{mean_name}`; "
            f"got {var.shape}."
        )
    for name, array in ((mean_name, mean), (var_name, var)):
        required = "finite (a batch that was not has spoilt it: gather it anew)"
        _require(function, name, array, required, math.isfinite)
    _require(function, var_name, var, ">= 0 (clip what rounding made negative)", lambda v: v >= 0)
    k = _batches(function, *batches, mean)
    if count is not None:
        var = var * _unbiased_factor(function, count, mean)  # P.2
    return PopulationState(
        mean=mean,
        var=var,
        batches=k,
        skipped=jnp.zeros(mean.shape, jnp.int32),
        remainder=jnp.zeros_like(mean),
    )


def _batches(function: str, name: str, value: ArrayLike, mean: Array) -> Array:
    """Give every channel its k, (n,) int32."""
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


def _named(
    function: str, state: PopulationState, count: ArrayLike | None, mean_name: str, var_name: str
) -> dict[str, Array]:
    """Read a state under another library's names, its variance biased again where n is given."""
    mean, var = population.statistics(state)
    if count is not None:
        var = var / _unbiased_factor(function, count, mean)
    return {mean_name: mean, var_name: var}


def _most(state: PopulationState) -> Array:
    """Choose k for a library that has one for all channels."""
    return jnp.max(state.batches)
