"""Reads a NumPy archive, FILE.npz: arrays x and y, and perhaps x_test and y_test."""

from pathlib import Path

import numpy as np

from bnjax.app.data.raw import DAMAGE, FINITE, Floats, Raw, first_beyond
from bnjax.app.errors import UserError

_HOW = "write it with np.savez('FILE.npz', x=..., y=...)"


def read(path: Path) -> Raw:
    """Read the archive at `path`."""
    arrays, found = _arrays(path)
    pairs = [("x", "y")] + [("x_test", "y_test")] * any(key.endswith("_test") for key in arrays)
    for pair in pairs:
        if any(key not in arrays for key in pair):
            got = ", ".join(map(repr, found)) or "none"
            raise UserError(
                f"{path}: expected arrays {pair[0]!r} and {pair[1]!r}, got {got}; {_HOW}"
            )
    (x, y), *tests = [_pair(path, arrays, *pair) for pair in pairs]
    for x_test, _ in tests:
        if x_test.shape[1] != x.shape[1]:
            raise UserError(
                f"{path}, array 'x_test': expected {x.shape[1]} features per sample like 'x', "
                f"got {x_test.shape[1]}; store both alike"
            )
    return Raw(x, y, path.name, tests[0] if tests else None, "array 'y'")


def read_samples(path: Path) -> tuple[Floats, np.ndarray | None]:
    """Read x alone, and y where there is one."""
    arrays, found = _arrays(path)
    if "x" not in arrays:
        got = ", ".join(map(repr, found)) or "none"
        raise UserError(f"{path}: expected an array 'x', got {got}; {_HOW}")
    if "y" in arrays:
        return _pair(path, arrays, "x", "y")
    unlabelled = {"x": arrays["x"], "y": np.zeros(len(arrays["x"]), np.int64)}
    return _pair(path, unlabelled, "x", "y")[0], None


def _arrays(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
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
            with np.load(file, allow_pickle=False) as archive:
                found = archive.files
                for key in found:
                    if key in ("x", "y", "x_test", "y_test"):
                        where = f"{path}, array {key!r}"
                        arrays[key] = np.asarray(archive[key])
        except DAMAGE as error:
            if "allow_pickle" in str(error):
                raise UserError(
                    f"{where}: expected numbers or strings, got pickled Python objects, which "
                    "are never loaded; save an array of a plain dtype, with rows of equal length"
                ) from error
            raise UserError(
                f"{where}: expected a whole archive, got a truncated or damaged one "
                f"({error}); copy or write it again"
            ) from error
    return arrays, found


def _pair(
    path: Path, arrays: dict[str, np.ndarray], x_key: str, y_key: str
) -> tuple[Floats, np.ndarray]:
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
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "replace")
    elif y.dtype.kind in "bf":
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
