"""Arrays in one npz file under a digest, so that no damaged bit is ever taken for a number.

The digest, SHA-256, covers name, dtype, shape and every byte of every array in the file.
"""

import hashlib
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bnjax.app.io import files

_DIGEST = "sha256"


def save(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays, and their digest as one more."""
    np.savez(file, **arrays, **{_DIGEST: np.array(digest(arrays))})  # pyright: ignore[reportArgumentType]


def load(path: Path) -> dict[str, np.ndarray]:
    """Read arrays back.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged. A file of before bnjax 0.2 has no digest, which is accepted.
    """
    files.check_plain(path, most=math.inf)
    with path.open("rb") as file:
        try:
            _check_size(file)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: np.asarray(archive[name]) for name in archive.files}
            wanted = str(arrays.pop(_DIGEST)) if _DIGEST in arrays else None
        except Exception as error:  # whatever a damaged archive makes NumPy and zipfile raise
            raise ValueError(f"a damaged file: {error!r}".splitlines()[0]) from error
    if wanted not in (None, digest(arrays)):
        raise ValueError("a damaged file: the arrays are not those that were written")
    return arrays


def _check_size(file: BinaryIO) -> None:
    """Raise ValueError for an archive that unpacks to more than its own size."""
    with zipfile.ZipFile(file) as archive:
        size = sum(each.file_size for each in archive.infolist())
    if size > file.seek(0, os.SEEK_END):
        raise ValueError(f"it claims to hold {size:,} bytes")
    file.seek(0)


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Compute SHA-256 of named arrays, in the order of their names."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name}\0{array.dtype.descr}\0{array.shape}\0".encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()
