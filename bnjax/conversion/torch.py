"""Running statistics of PyTorch's batch normalization layers.

Source: PyTorch 2.13, `torch.nn.modules.batchnorm`.
"""

from jax import Array
from jax.typing import ArrayLike

from bnjax import population
from bnjax.conversion.states import import_state, largest_batch_count
from bnjax.population import PopulationState


def from_torch(
    running_mean: ArrayLike, running_var: ArrayLike, num_batches_tracked: ArrayLike
) -> PopulationState:
    """Return the buffers of a PyTorch layer as a state. Both have an unbiased variance (P.2).

    Args:
        running_mean: (n,), real; a tensor on the CPU, or any array.
        running_var: (n,), >= 0.
        num_batches_tracked: k, an integer, which only further updates read (see
            `bnjax.conversion`). Old checkpoints hold 0: pass the actual number of batches.

    Returns:
        The state: copies, in float32, or float64 for float64 buffers.

    Raises:
        TypeError: A buffer is None (track_running_stats=False), or of the wrong kind.
        ValueError: A shape does not fit; a value is not finite, or outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> state = from_torch(jnp.array([2.0]), jnp.array([4.0]), 1000)
        >>> print(state.mean, state.var, state.batches)
        [2.] [4.] [1000]
    """
    return import_state(
        "conversion.from_torch",
        {"running_mean": running_mean, "running_var": running_var},
        ("num_batches_tracked", num_batches_tracked),
    )


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
