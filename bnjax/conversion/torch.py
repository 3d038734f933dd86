"""Running statistics of PyTorch's batch normalization layers, of one or of a whole model.

Source: PyTorch 2.13, `torch.nn.modules.batchnorm`.
"""

from collections.abc import Mapping
from typing import Any, overload

from jax import Array
from jax.typing import ArrayLike

from bnjax import population
from bnjax.conversion.states import import_state, largest_batch_count
from bnjax.conversion.torch_models import fill
from bnjax.population import PopulationState


@overload
def from_torch(
    running_mean: ArrayLike, running_var: ArrayLike, num_batches_tracked: ArrayLike
) -> PopulationState: ...


@overload
def from_torch(running_mean: Any, *, into: Any, names: Mapping[str, str]) -> Any: ...


def from_torch(
    running_mean: Any,
    running_var: Any = None,
    num_batches_tracked: Any = None,
    *,
    into: Any = None,
    names: Mapping[str, str] | None = None,
) -> Any:
    """Return the buffers of a PyTorch layer as a state, or a model filled from a PyTorch model.

    `from_torch(running_mean, running_var, num_batches_tracked)` returns the state of one layer.
    `from_torch(model, into=variables, names={"layer1.0.bn1": "layer1_0/bn1", ...})` returns
    `variables` with the statistics, γ and β of all normalizations of `model`, and evaluates as it.
    Both keep PyTorch's unbiased variance (P.2); ε and momentum are for `options_from`.

    Args:
        running_mean: (n,), real; a tensor on the CPU, or any array. With `into`: the module or its
            state_dict, on the CPU.
        running_var: (n,), >= 0.
        num_batches_tracked: k, an integer, which only further updates read (see
            `bnjax.conversion`). Old checkpoints hold 0: pass the actual number of batches.
        into: The model to fill, a pytree: `variables` of linen, `nnx.state(model)`, or
            {v.path: v.value for v in model.variables} of Keras.
        names: The path of every normalization in `into`, its keys joined by "/" and without linen's
            "params" and "batch_stats", by the name of the layer in PyTorch.

    Returns:
        The state: copies, in float32, or float64 for float64 buffers. With `into`: a copy of it, in
        its dtypes; what belongs to no layer in `names` is as it was.

    Raises:
        TypeError: A buffer is None (track_running_stats=False), or of the wrong kind.
        ValueError: A shape does not fit; a value is not finite, or outside its range; a layer, or
            an array of it, is in PyTorch's model alone, in `names` alone, or in `into` alone.

    Example:
        >>> import jax.numpy as jnp
        >>> state = from_torch(jnp.array([2.0]), jnp.array([4.0]), 1000)
        >>> print(state.mean, state.var, state.batches)
        [2.] [4.] [1000]
    """
    function = "conversion.from_torch"
    if into is None and names is None:
        statistics = {"running_mean": running_mean, "running_var": running_var}
        return import_state(function, statistics, ("num_batches_tracked", num_batches_tracked))
    source = running_mean.state_dict() if hasattr(running_mean, "state_dict") else running_mean
    if not isinstance(source, Mapping) or not isinstance(names, Mapping):
        raise TypeError(
            f"{function}: a model is filled from a module or a state_dict, and `names` must be a "
            f"dict; got {type(source).__name__} and {type(names).__name__}."
        )
    return fill(function, source, into, names)


def to_torch(state: PopulationState) -> dict[str, Array]:
    """Return a state as the buffers of a PyTorch layer.

    Args:
        state: The state.

    Returns:
        The buffers by their names, as `from_torch` takes them. num_batches_tracked, one number for
        all channels, is the largest of theirs. `torch.tensor(numpy.asarray(...))` converts each of
        them for `load_state_dict`.

    Example:
        >>> print(to_torch(population.init(1)))
        {'running_mean': Array([0.], ...), 'running_var': Array([1.], ...),
         'num_batches_tracked': Array(0, dtype=int32)}
    """
    mean, var = population.statistics(state)
    return {
        "running_mean": mean,
        "running_var": var,
        "num_batches_tracked": largest_batch_count(state),
    }
