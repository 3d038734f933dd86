"""Columns that are copies of one another: |Corr(a_j, a_k)| ≈ 1 (G.1)."""

import jax.numpy as jnp
from jax import Array

from bnjax.geometry.vectors import Standardized

COPIED = 0.9999  # |Corr| from which two columns count as copies: within a degree


def copied(a: Standardized) -> Array:
    """Mark the columns that are, but for shift and factor, a copy of another one.

    Their projections on any vector are the same but for the sign: only neighbours in the order of
    these are compared, so that the time does not grow with the square of their number.

    Args:
        a: The columns, standardized, (B, n).

    Returns:
        (n,) bool; False where a column does not vary.
    """
    n = len(a.hat)
    # any vector without a pattern that data may have
    at = jnp.arange(1, n + 1, dtype=a.hat.dtype)
    projection = jnp.abs(jnp.sin(at**2) @ a.hat)
    order = jnp.argsort(projection)
    hat = a.hat[:, order]
    same = jnp.abs(jnp.sum(hat[:, 1:] * hat[:, :-1], 0) / n) >= COPIED
    of_any = jnp.pad(same, (0, 1)) | jnp.pad(same, (1, 0))
    return jnp.zeros_like(of_any).at[order].set(of_any)
