"""What every reader returns, raw arrays, and the check of their numbers that readers share."""

import zipfile
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# beyond it the squares that a standard deviation sums overflow float64
_LARGEST = 1e150

FINITE = f"a finite number below {_LARGEST:g}"
DAMAGE = (ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Raw(NamedTuple):
    """Data as found: checked for shape, size and finite numbers, not yet split or scaled."""

    x: Floats  # (N, n_in)
    y: np.ndarray  # (N,) or (N, k): int, str or float64
    name: str
    test: tuple[Floats, np.ndarray] | None = None  # where a test set came with the data
    target: str = "labels"  # what messages call y: "column 'species'", "array 'y'"
    lines: tuple[int, ...] | None = None  # of a text file: the line of each sample, from 1
    images: bool = False  # features are the intensities of pixels


def first_beyond(values: np.ndarray) -> tuple[int, ...] | None:
    """Return where the first NaN, infinite or too large value is."""
    if values.dtype.kind != "f" or (good := np.abs(values) <= _LARGEST).all():
        return None
    return tuple(int(i) for i in np.argwhere(~good)[0])
