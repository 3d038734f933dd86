"""Data as they come on the host: lists, DataFrames, tensors of other libraries."""

from typing import Any

import numpy as np
from jax import Array


def as_numbers(function: str, name: str, value: Any) -> Array | np.ndarray:
    """Return an array of JAX as it is, anything else as NumPy converts it; refuse text."""
    if isinstance(value, Array):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "OSUMm":
        raise TypeError(
            f"{function}: `{name}` must hold numbers; got {type(value).__name__} of dtype "
            f"{array.dtype}. Encode text and categories first, for instance with "
            "pandas.get_dummies(x, dtype=float), and fill missing values."
        )
    return array
