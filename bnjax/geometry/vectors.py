"""Columns as vectors in sample space: their direction and their length, however small they are.

(G.1)  â = (a − ⟨a⟩)/σ(a):  ⟨â⟩ = 0,  |â| = √B

Errors of saturated layers are so small that their squares are zero in float32: lengths are formed
beside a factor.

Source: S0/S1 §3.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bnjax import matrix
from bnjax.layout import accumulator_dtype


class Normal(NamedTuple):
    """Columns taken apart: ⟨a⟩ and σ(a), (n,) each, and â, (B, n)."""

    mean: Array
    sd: Array
    hat: Array


def normal(a: Array, weights: Array | None = None) -> Normal:
    """Take columns apart: a = ⟨a⟩ + σ(a) â, with â = 0 where σ(a) = 0 (G.1).

    Args:
        a: (B, n).
        weights: None, or w, (B, 1) in the sums' dtype.

    Returns:
        The `Normal`; â is 0 where the weight is.
    """
    a = a.astype(accumulator_dtype(a.dtype))
    if weights is not None:
        a = jnp.where(weights > 0, a, 0)
    # exact, and without it the squares of an error of 1e-20 would be none
    factor = _power_of_two(jnp.max(jnp.abs(a), 0))
    _, residuals = matrix.normalize_matrix(
        "geometry", a * factor[None], None, None, weights, eps=0.0
    )
    hat, _, (mean, var, _) = matrix.intermediates(residuals)
    return Normal(mean / factor, jnp.sqrt(var) / factor, hat)


def normals(arrays: Sequence[Array], weights: Array | None = None) -> list[Normal]:
    """Take the columns of several arrays (B, n) apart, in one go."""
    whole = normal(jnp.concatenate(arrays, axis=1), weights)
    ends = list(accumulate(a.shape[1] for a in arrays))[:-1]
    parts = (jnp.split(field, ends, axis=-1) for field in whole)
    return [Normal(*fields) for fields in zip(*parts, strict=True)]


def _power_of_two(size: Array) -> Array:
    """Choose for each size the power of two that brings it near one."""
    exponent = jnp.frexp(size)[1]
    most = jnp.finfo(size.dtype).maxexp - 2
    return jnp.ldexp(jnp.ones_like(size), -jnp.clip(exponent, -most, most))


def length(a: Array) -> Array:
    """Form the length of each column, (n,): a gradient of 1e-25 has one, its square does not."""
    largest = jnp.max(jnp.abs(a), 0)
    safe = jnp.where(largest > 0, largest, 1)
    return largest * jnp.sqrt(jnp.sum((a / safe[None]) ** 2, 0))
