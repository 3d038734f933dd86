"""Running statistics of Keras' batch normalization layer.

Source: Keras 3.15, `keras.src.layers.normalization.batch_normalization`.
"""

from jax import Array
from jax.typing import ArrayLike

from bnjax.conversion.states import export_statistics, import_state
from bnjax.population import PopulationState


def from_keras(
    moving_mean: ArrayLike,
    moving_variance: ArrayLike,
    *,
    batches: ArrayLike,
    count: ArrayLike | None = None,
) -> PopulationState:
    """Return the moving statistics of a Keras layer as a state.

    Args:
        moving_mean: (n,), real.
        moving_variance: (n,), >= 0; Keras averages the biased variance.
        batches: k, the number of batches seen, which Keras does not store and only further updates
            read (see `bnjax.conversion`).
        count: n > 1, the number of values per channel in each batch, to make the variance unbiased
            (P.2). None: the variance stays as it is, and evaluates as in Keras, with Keras' ε:
            1e-3 by default.

    Returns:
        The state: copies, in float32, or float64 for float64 statistics.

    Raises:
        TypeError: An argument is None or of the wrong kind.
        ValueError: A shape does not fit; a value is not finite, or outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> print(from_keras(jnp.array([2.0]), jnp.array([3.0]), batches=1000).var)
        [3.]
    """
    statistics = {"moving_mean": moving_mean, "moving_variance": moving_variance}
    return import_state("conversion.from_keras", statistics, ("batches", batches), count)


def to_keras(state: PopulationState, *, count: ArrayLike | None = None) -> dict[str, Array]:
    """Return a state as the moving statistics of a Keras layer.

    Args:
        state: The state.
        count: n > 1, the number of values per channel in each batch, to make the variance biased
            again (P.2). None: the variance stays as it is, and evaluates as here.

    Returns:
        Mean and variance by Keras' names, as `from_keras` takes them, for
        `layer.moving_mean.assign(...)`; Keras does not store the number of batches.

    Raises:
        ValueError: `count` does not fit.

    Example:
        >>> from bnjax import population
        >>> print(to_keras(population.init(1)))
        {'moving_mean': Array([0.], ...), 'moving_variance': Array([1.], ...)}
    """
    names = "moving_mean", "moving_variance"
    return export_statistics("conversion.to_keras", state, count, *names)
