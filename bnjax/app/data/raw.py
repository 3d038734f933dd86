"""What every reader returns, and what readers share: opening a file, bounds, checks of numbers."""

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnjax.app.errors import UserError

Floats = NDArray[np.float64]

# beyond it the squares that a standard deviation sums overflow float64
_LARGEST = 1e150

FINITE = f"a finite number below {_LARGEST:g}"
DAMAGE = (ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)
MAX_SIZE = 2.0  # GiB, of an array as float64 and of a file once decompressed
BYTES = 8  # of a float64
_PIECE = 2**20


class Column(NamedTuple):
    """A column of a table: of numbers where `categories` is None.

    `fill` replaces a missing value; None where missing values are refused.
    """

    name: str  # empty where the table has no header
    categories: tuple[str, ...] | None = None
    fill: float | str | None = None


class Raw(NamedTuple):
    """Data as found, not yet split or scaled: shape, size and numbers are checked."""

    x: Floats  # (N, n), n = n_in but for a table, which has codes of categories, NaN for missing
    y: np.ndarray  # (N,) or (N, k): int, str or float64
    name: str
    test: tuple[Floats, np.ndarray] | None = None  # where a test set came with the data
    target: str = "labels"  # what messages call y: "column 'species'", "array 'y'"
    label: str = "y"  # the bare name
    lines: tuple[int, ...] | None = None  # of a text file: the line of each sample, from 1
    images: bool = False  # features are the intensities of pixels
    columns: tuple[Column, ...] = ()  # of a table
    notes: tuple[str, ...] = ()  # what was decided about the file, for the user to know


def first_beyond(values: np.ndarray) -> tuple[int, ...] | None:
    """Return where the first NaN, infinite or too large value is."""
    if values.dtype.kind != "f" or (good := np.abs(values) <= _LARGEST).all():
        return None
    return tuple(int(i) for i in np.argwhere(~good)[0])


def check_size(place: object, what: str, needed: int, max_size: float) -> None:
    """Refuse what would need more than `max_size` GiB, before anything is allocated."""
    if needed > max_size * 2**30:
        raise UserError(
            f"{place}: {what} would need {needed / 2**30:.3g} GiB of memory, more than --max-size "
            f"{max_size:g}; raise it if that is meant, or bring less data"
        )


def read_at_most(file: IO[bytes], count: int) -> bytes:
    """Read `count` bytes, fewer where the file ends; memory is taken as they come."""
    found = bytearray()
    while len(found) < count and (piece := file.read(min(_PIECE, count - len(found)))):
        found += piece
    return bytes(found)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read its bytes, decompressed where they are gzip's."""
    with path.open("rb") as file:
        head = file.read(2)
        file.seek(0)
        if head != b"\x1f\x8b":
            yield file
            return
        try:
            with gzip.GzipFile(fileobj=file) as packed:
                yield packed  # type: ignore[misc]
        except DAMAGE as error:
            raise UserError(
                f"{path}: expected a whole gzip file, got a truncated or damaged one ({error}); "
                "download it again"
            ) from error
