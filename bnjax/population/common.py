"""What running and pooled statistics share: sums in two floats, and checks."""

from jax import Array

from bnjax.moments import Moments

Shape = int | tuple[int, ...]


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a + b as sum + remainder, exactly (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def check_channels(function: str, have: Array, moments: Moments) -> None:
    """Refuse moments of other channels than those seen before."""
    if moments.mean.shape != have.shape:
        raise ValueError(
            f"{function}: `moments` must be of the channels seen before, shape {have.shape}; got "
            f"{moments.mean.shape}. Start with the shape of the feature axes."
        )


def check_stacked(function: str, moments: Moments) -> None:
    """Refuse moments without a leading axis of batches."""
    if moments.mean.ndim < 2:
        raise ValueError(
            f"{function}: `moments` must be stacked along a leading axis, (K, n) each; got "
            f"{moments.mean.shape}. Use jax.tree.map(lambda *m: jnp.stack(m), *list_of_moments)."
        )
