"""Running statistics of flax's batch normalization layers, linen's and nnx's.

Source: flax 0.12, `flax.linen.normalization` and `flax.nnx.nn.normalization`.
"""

from jax import Array
from jax.typing import ArrayLike

from bnjax.conversion.states import export_statistics, import_state
from bnjax.population import PopulationState


def from_flax(
    mean: ArrayLike, var: ArrayLike, *, batches: ArrayLike, count: ArrayLike | None = None
) -> PopulationState:
    """Return the `batch_stats` of a flax layer, linen's or nnx's, as a state.

    Args:
        mean: (n,), real.
        var: (n,), >= 0; flax averages the biased variance.
        batches: k, the number of batches seen, which flax does not store and only further updates
            read (see `bnjax.conversion`).
        count: n > 1, the number of values per channel in each batch, to make the variance unbiased
            (P.2). None: the variance stays as it is, and evaluates as in flax.

    Returns:
        The state: copies, in float32, or float64 for float64 statistics.

    Raises:
        TypeError: An argument is None or of the wrong kind.
        ValueError: A shape does not fit; a value is not finite, or outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> print(from_flax(jnp.array([2.0]), jnp.array([3.0]), batches=1000, count=4).var)
        [4.]
    """
    statistics = {"mean": mean, "var": var}
    return import_state("conversion.from_flax", statistics, ("batches", batches), count)


def to_flax(state: PopulationState, *, count: ArrayLike | None = None) -> dict[str, Array]:
    """Return a state as the `batch_stats` of a flax layer, linen's or nnx's.

    Args:
        state: The state.
        count: n > 1, the number of values per channel in each batch, to make the variance biased
            again (P.2). None: the variance stays as it is, and evaluates as here.

    Returns:
        Mean and variance by flax's names, as `from_flax` takes them; flax does not store the
        number of batches.

    Raises:
        ValueError: `count` does not fit.

    Example:
        >>> from bnjax import population
        >>> print(to_flax(population.init(1)))
        {'mean': Array([0.], ...), 'var': Array([1.], ...)}
    """
    return export_statistics("conversion.to_flax", state, count, "mean", "var")
