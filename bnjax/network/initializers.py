"""How initial weights are drawn: JAX's initializers, by name.

Source: Glorot & Bengio 2010, He et al. 2015, LeCun et al. 1998, Saxe et al. 2014.
"""

from collections.abc import Callable
from typing import Any

from jax import Array
from jax.nn import initializers

from bnjax._checks import unknown_name

# (key, shape, dtype) -> W; a shape is (n_in, n_out)
Initializer = Callable[[Array, tuple[int, int], Any], Array]

INITIALIZERS: dict[str, Initializer] = {
    "glorot_uniform": initializers.glorot_uniform(),
    "glorot_normal": initializers.glorot_normal(),
    "he_uniform": initializers.he_uniform(),
    "he_normal": initializers.he_normal(),
    "lecun_uniform": initializers.lecun_uniform(),
    "lecun_normal": initializers.lecun_normal(),
    "orthogonal": initializers.orthogonal(),
}


def get(initializer: str | Initializer) -> Initializer:
    """Return the initializer of a name; a function is returned as it is.

    Args:
        initializer: One of the names in `INITIALIZERS`, which are those of `jax.nn.initializers`,
            or a function (key, shape, dtype) -> W.

    Returns:
        The function.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> import jax
        >>> W = get("he_uniform")(jax.random.key(0), (6, 50), float)
        >>> print(W.shape, abs(W).max() <= 1)
        (6, 50) True
    """
    if callable(initializer):
        return initializer
    if initializer not in INITIALIZERS:
        raise ValueError(unknown_name("Network", "initializer", initializer, INITIALIZERS))
    return INITIALIZERS[initializer]
