"""Powers of two that bring a number near one: a product with them rounds nothing."""

import jax.numpy as jnp
from jax import Array, lax


def scale_to_one(size: Array) -> Array:
    """Return for each size ≥ 0 the power of two whose product with it is near one."""
    info = jnp.finfo(size.dtype)
    smallest = float(info.smallest_normal)
    inverse = jnp.clip(1 / size, smallest, 1 / smallest)
    return lax.reduce_precision(inverse, exponent_bits=info.nexp, mantissa_bits=0)
