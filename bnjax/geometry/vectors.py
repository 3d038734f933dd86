"""Columns as vectors in sample space: mean, standard deviation and direction.

A column a holds one number per sample: a = ⟨a⟩ + σ(a) â with ⟨â⟩ = 0 and |â| = √B (G.1).

Errors of saturated layers are so small that their squares underflow in float32: σ(a) comes from
moments that are scaled by a power of two (`moments`).

Source: S0/S1 §3.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bnjax import matrix
from bnjax.layout import accumulator_dtype


class Standardized(NamedTuple):
    """Columns a = ⟨a⟩ + σ(a) â: ⟨a⟩ and σ(a), (n,) each, and â, (B, n)."""

    mean: Array
    sd: Array
    hat: Array


def standardize(a: Array, weights: Array | None = None) -> Standardized:
    """Compute mean, standard deviation and direction of columns (G.1).

    Args:
        a: (B, n).
        weights: None, or w, (B, 1) in the sums' dtype.

    Returns:
        The `Standardized`; â is 0 where σ(a) is, and in samples of zero weight.
    """
    a = a.astype(accumulator_dtype(a.dtype))
    _, residuals = matrix.normalize_matrix("geometry", a, None, None, weights, eps=0.0)
    hat, _, moments = matrix.unpack(residuals)
    split = residuals.split
    return Standardized(moments.mean, jnp.sqrt(split.var) / split.unit, hat)


def standardize_all(arrays: Sequence[Array], weights: Array | None = None) -> list[Standardized]:
    """Standardize the columns of several arrays (B, n) in one pass."""
    whole = standardize(jnp.concatenate(arrays, axis=1), weights)
    ends = list(accumulate(a.shape[1] for a in arrays))[:-1]
    parts = (jnp.split(field, ends, axis=-1) for field in whole)
    return [Standardized(*fields) for fields in zip(*parts, strict=True)]


def column_norms(a: Array) -> Array:
    """Return the Euclidean norm of each column, (n,), also where its square underflows."""
    if not len(a):  # nothing has no maximum
        return jnp.zeros_like(a, shape=a.shape[1:])
    largest = jnp.max(jnp.abs(a), 0)
    safe = jnp.where(largest > 0, largest, 1)
    return largest * jnp.sqrt(jnp.sum((a / safe[None]) ** 2, 0))
