"""Running averages of haiku's batch normalization layer.

Source: dm-haiku 0.0.17, `haiku.BatchNorm` and `haiku.ExponentialMovingAverage`.
"""

import math
from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from bnjax import _checks, population
from bnjax.conversion.options import check_decay, require_keys
from bnjax.conversion.states import export_statistics, import_state, largest_batch_count
from bnjax.population import PopulationState


def from_haiku(
    mean_ema: Mapping[str, ArrayLike],
    var_ema: Mapping[str, ArrayLike],
    *,
    count: ArrayLike | None = None,
) -> PopulationState:
    """Return the two averages of a haiku layer as a state. Both are zero-debiased (P.7).

    Args:
        mean_ema: The layer's state "…/~/mean_ema". It must hold `average`, of x's rank with 1 for
            each sample axis, and `counter`, k; `hidden` = average · (1 − d^k) is redundant.
        var_ema: The layer's state "…/~/var_ema", alike; haiku averages the biased variance.
        count: n > 1, the number of values per channel in each batch, to make the variance unbiased
            (P.2). None: the variance stays as it is, and evaluates as in haiku.

    Returns:
        The state, with arrays of shape (n,): copies, in float32, or float64 for float64 averages.
        A layer that has seen no batch has mean 0 and variance 0.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: A key is missing, a shape does not fit, the counters differ, or a value is not
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
                f"{function}: `average` of `{name}` must have one feature axis, and length 1 on "
                f"all others; got shape {average.shape}."
            )
        averages[f"{name}['average']"] = average.reshape(-1)
        counters.append(jnp.asarray(ema["counter"]))
    if _checks.known(counters) and counters[0].tolist() != counters[1].tolist():
        raise ValueError(
            f"{function}: `counter` must be the same in `mean_ema` and `var_ema`, which a layer "
            f"updates together; got {counters[0]} and {counters[1]}."
        )
    return import_state(function, averages, ("counter", counters[0]), count)


def to_haiku(
    state: PopulationState,
    *,
    decay: float,
    count: ArrayLike | None = None,
    shape: tuple[int, ...] | None = None,
) -> dict[str, dict[str, Array]]:
    """Return a state as the two averages of a haiku layer, `hidden` = average · (1 − d^k) (P.7).

    Args:
        state: The state.
        decay: d, the layer's decay_rate, in [0, 1).
        count: n > 1, the number of values per channel in each batch, to make the variance biased
            again (P.2). None: the variance stays as it is, and evaluates as here.
        shape: The shape of the averages: that of x, with 1 for each sample axis. None: (1, n), for
            x of shape (B, n).

    Returns:
        "mean_ema" and "var_ema", as `from_haiku` takes them, for the layer's states of these names.
        counter, one number for all channels, is the largest of theirs.

    Raises:
        ValueError: `decay`, `count` or `shape` does not fit.

    Example:
        >>> print(to_haiku(population.init(2), decay=0.9)["var_ema"])
        {'hidden': Array([[0., 0.]], ...), 'average': Array([[1., 1.]], ...),
         'counter': Array(0, dtype=int32)}
    """
    function = "conversion.to_haiku"
    check_decay(function, decay)
    mean, _ = population.statistics(state)
    shape = (1, mean.size) if shape is None else shape
    if math.prod(shape) != mean.size or mean.size not in shape:
        raise ValueError(
            f"{function}: `shape` must hold the state's {mean.size} channels on one axis, and have "
            f"length 1 on all others; got {shape}."
        )
    k = largest_batch_count(state)
    averages = export_statistics(function, state, count, "mean_ema", "var_ema")
    # rounded as haiku rounds it: its next average divides by the same number
    seen = 1 - jnp.asarray(decay, mean.dtype) ** k
    return {
        name: {
            "hidden": (average * seen).reshape(shape),
            "average": average.reshape(shape),
            "counter": jnp.array(k),  # one array each: a buffer cannot be donated twice
        }
        for name, average in averages.items()
    }
