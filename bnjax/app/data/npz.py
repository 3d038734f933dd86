"""Reads a NumPy archive, FILE.npz: x and y, perhaps x_test and y_test, or Keras' x_train, y_train.

The header of each array is held against the file before anything is allocated.
"""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from bnjax.app.data.raw import BYTES, FINITE, Floats, Raw, check_size, first_beyond
from bnjax.app.errors import UserError

_HOW = "write it with np.savez('FILE.npz', x=..., y=...)"
_KEYS = ("x", "y", "x_train", "y_train", "x_test", "y_test")
_HEADERS: dict[Any, Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read(path: Path, max_size: float) -> Raw:
    """Read the archive at `path`."""
    arrays, found = _arrays(path, max_size)
    end = "_train" * ("x" not in arrays and "x_train" in arrays)
    pairs = [(f"x{end}", f"y{end}")]
    pairs += [("x_test", "y_test")] * any(key.endswith("_test") for key in arrays)
    for pair in pairs:
        if any(key not in arrays for key in pair):
            got = ", ".join(map(repr, found)) or "none"
            raise UserError(
                f"{path}: expected arrays {pair[0]!r} and {pair[1]!r}, got {got}; {_HOW}"
            )
    if not end and "x_train" in arrays:
        raise UserError(f"{path}: expected 'x' or 'x_train', got both; leave one out")
    (x, y), *tests = [_pair(path, arrays, *pair) for pair in pairs]
    for x_test, _ in tests:
        if x_test.shape[1] != x.shape[1]:
            raise UserError(
                f"{path}, array 'x_test': expected {x.shape[1]} features per sample like "
                f"{pairs[0][0]!r}, got {x_test.shape[1]}; store both alike"
            )
    return Raw(x, y, path.name, tests[0] if tests else None, f"array {pairs[0][1]!r}")


def read_samples(path: Path, max_size: float) -> tuple[Floats, np.ndarray | None]:
    """Read x alone, and y where there is one."""
    arrays, found = _arrays(path, max_size)
    if "x" not in arrays:
        got = ", ".join(map(repr, found)) or "none"
        raise UserError(f"{path}: expected an array 'x', got {got}; {_HOW}")
    if "y" in arrays:
        return _pair(path, arrays, "x", "y")
    unlabelled = {"x": arrays["x"], "y": np.zeros(arrays["x"].shape[:1] or 1, np.int64)}
    return _pair(path, unlabelled, "x", "y")[0], None


def _arrays(path: Path, max_size: float) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays that have a meaning here, and the names of all there are."""
    arrays: dict[str, np.ndarray] = {}
    with path.open("rb") as file:
        head = file.read(4)
        if head not in (b"PK\3\4", b"PK\5\6"):
            raise UserError(
                f"{path}: expected a NumPy .npz archive, got one that begins with {head!r}; {_HOW}"
            )
        file.seek(0)
        where = f"{path}"
        try:
            with zipfile.ZipFile(file) as archive:
                found = [name.removesuffix(".npy") for name in archive.namelist()]
                for key in _KEYS:
                    if f"{key}.npy" in archive.namelist():
                        where = f"{path}, array {key!r}"
                        arrays[key] = _array(archive, f"{key}.npy", where, max_size)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # whatever a damaged archive makes zipfile and NumPy raise
            raise UserError(
                f"{where}: expected a whole archive, got a truncated or damaged one "
                f"({str(error)[:200]}); copy or write it again"
            ) from error
    return arrays, found


def _array(archive: zipfile.ZipFile, name: str, where: str, max_size: float) -> np.ndarray:
    """Read an array whose header claims what the file holds."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"version {version} of the .npy format is unknown")
        shape, fortran, dtype = _HEADERS[version](file)
        if dtype.hasobject:
            raise UserError(
                f"{where}: expected numbers or strings, got pickled Python objects, which are "
                "never loaded; save an array of a plain dtype, with rows of equal length"
            )
        if not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"the header claims the shape {shape}")
        size = math.prod(shape)
        claimed, held = size * dtype.itemsize, archive.getinfo(name).file_size - file.tell()
        if claimed != held:
            raise ValueError(
                f"the header claims {claimed:.6g} bytes of data, the file holds {held}"
            )
        check_size(where, f"an array of shape {shape}", max(claimed, BYTES * size), max_size)
        data = file.read(claimed + 1)  # to the end of the file, where zipfile checks its digest
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _pair(
    path: Path, arrays: dict[str, np.ndarray], x_key: str, y_key: str
) -> tuple[Floats, np.ndarray]:
    """Return features and labels, checked."""
    x, y = arrays[x_key], arrays[y_key]

    def reject(key: str, expected: str, way_out: str) -> UserError:
        got = f"dtype {arrays[key].dtype} and shape {arrays[key].shape}"
        return UserError(f"{path}, array {key!r}: expected {expected}, got {got}; {way_out}")

    if x.dtype.kind not in "biuf":
        raise reject(x_key, "integers, booleans or floats", "convert it before saving")
    if x.ndim < 2:
        raise reject(x_key, "one row per sample", "for one feature save x.reshape(-1, 1)")
    if x.size == 0:
        raise reject(x_key, "at least one sample and one feature", "save some data")
    if y.dtype.kind not in "biufUS":
        raise reject(y_key, "integers, strings or floats", "convert it before saving")
    if y.ndim not in (1, 2) or y.shape[1:] == (0,):
        raise reject(y_key, "shape (N,) or (N, k)", "reshape it before saving")
    if len(x) != len(y):
        raise reject(y_key, f"{len(x)} samples like {x_key!r}", "save one label for each sample")
    if y.dtype.kind in "US":
        y = _text(path, y_key, y)
    with np.errstate(over="ignore"):  # a long double beyond float64 is refused below
        if y.dtype.kind in "bf":
            y = y.astype(np.int64 if y.dtype.kind == "b" else np.float64)
        x = x.astype(np.float64)
    for key, values in ((x_key, x), (y_key, y)):
        if (bad := first_beyond(values)) is not None:
            column = f", column {', '.join(map(str, bad[1:]))}" if bad[1:] else ""
            raise UserError(
                f"{path}, array {key!r}, sample {bad[0]}{column} (counted from 0): "
                f"expected {FINITE}, got {values[bad]}; replace it or leave the sample out"
            )
    return x.reshape(len(x), -1), y


def _text(path: Path, key: str, y: np.ndarray) -> np.ndarray:
    """Return strings; refuse those that are no text, which could fall into one class."""
    try:
        if y.dtype.kind == "S":
            return np.char.decode(y, "utf-8")
        points = np.ascontiguousarray(y).view(f"{y.dtype.byteorder}u4")
        if np.any((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))):
            raise ValueError("no character has such a code")
        return y
    except (UnicodeError, ValueError) as error:
        raise UserError(
            f"{path}, array {key!r}: expected UTF-8 text as labels, got other bytes ({error}); "
            "save them as str, or as integers"
        ) from error
