"""Reads a table of comma-separated values, FILE.csv, with a header or without."""

import contextlib
import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bnjax.app.data.raw import FINITE, Floats, Raw, first_beyond
from bnjax.app.errors import UserError, nearest

_INTEGER = re.compile(r"[+-]?[0-9]+")
_MISSING = frozenset({"", "?", "na", "n/a", "nan", "null"})
_ENOUGH = 4096

_Row = tuple[int, list[str]]  # the line it begins on, and its cells


def read(path: Path, label: str | None) -> Raw:
    """Read the table at `path`, its labels in the column `label`, the last one if None."""
    rows = _rows(path)
    header, at = _layout(path, rows, label)
    names = _names(header, len(rows[0][1]))
    x = _features(path, rows, header, at, hint=label is None)
    rows = rows if header is None else rows[1:]

    def reject(row: int, expected: str) -> UserError:
        return _rejection(path, rows[row], at, names, expected, "correct it or remove the line")

    y = _labels([cells[at].strip() for _, cells in rows], reject)
    return Raw(x, y, path.name, target=names[at], lines=tuple(line for line, _ in rows))


def read_samples(path: Path, label: str | None, n_in: int) -> tuple[Floats, np.ndarray | None]:
    """Read features, and labels too where --label or one column more than `n_in` tells so."""
    rows = _rows(path)
    first = [cell.strip() for cell in rows[0][1]]
    if label is not None or len(first) == n_in + 1:
        raw = read(path, label)
        return raw.x, raw.y
    return _features(path, rows, first if any(map(_is_name, first)) else None, None), None


def _names(header: list[str] | None, width: int) -> list[str]:
    return [
        f"column {name!r}" if name else f"column {column} (counted from 0)"
        for column, name in enumerate(header or [""] * width)
    ]


def _rejection(
    path: Path, row: _Row, column: int, names: list[str], expected: str, way_out: str
) -> UserError:
    line, cells = row
    got = _shown(cells[column])
    return UserError(
        f"{path}, line {line}, {names[column]}: expected {expected}, got {got}; {way_out}"
    )


def _features(
    path: Path, rows: list[_Row], header: list[str] | None, at: int | None, *, hint: bool = False
) -> Floats:
    """Return the numbers of all columns but the label's, which is at `at`, if anywhere."""
    top, width = rows[0][0], len(rows[0][1])
    names = _names(header, width)
    rows = rows if header is None else rows[1:]
    if not rows:
        raise UserError(f"{path}: expected rows of data, got only the header; add some below it")
    features = [column for column in range(width) if column != at]
    x = np.empty((len(rows), len(features)))
    known: dict[str, float] = {}
    for row, (line, cells) in enumerate(rows):
        if len(cells) != width:
            raise UserError(
                f"{path}, line {line}: expected {width} columns like line {top}, got {len(cells)}; "
                "correct the line or remove it"
            )
        own = cells if at is None else cells[:at] + cells[at + 1 :]
        try:
            x[row] = _numbers(own, known)
        except ValueError:
            column = next(column for column in features if not _is_number(cells[column]))
            way_out = "correct it" + (", or name the label's column with --label" * hint)
            way_out += _delimiter_hint(cells[column])
            raise _rejection(path, rows[row], column, names, "a number", way_out) from None
    if (bad := first_beyond(x)) is not None:
        way_out = "replace it or remove the line"
        raise _rejection(path, rows[bad[0]], features[bad[1]], names, FINITE, way_out)
    return x


def _rows(path: Path) -> list[_Row]:
    """Return each row that is not blank with the line it begins on."""
    rows: list[_Row] = []
    line = 1
    try:
        text = io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
        # strict: an open quote would otherwise swallow the rest of the file
        reader = csv.reader(text, strict=True, skipinitialspace=True)
        for cells in reader:
            if any(cells):
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line}: expected comma-separated cells, got a row that cannot be taken "
            f"apart ({error}); look for an open quote"
        ) from error
    except UnicodeDecodeError as error:
        line, byte = error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise UserError(
            f"{path}, line {line}: expected UTF-8 text, got byte 0x{byte:02x}; save it as UTF-8"
        ) from error
    if not rows:
        raise UserError(f"{path}: expected rows of data, got an empty file; add some")
    return rows


def _layout(path: Path, rows: list[_Row], label: str | None) -> tuple[list[str] | None, int]:
    """Return the header, or None where there is none, and the index of the label's column."""
    first, rest = [cell.strip() for cell in rows[0][1]], [cells for _, cells in rows[1:]]
    width = len(first)
    if width < 2:
        raise UserError(
            f"{path}, line {rows[0][0]}: expected at least two columns, features and a label, got "
            f"one, {_shown(first[0])}{_delimiter_hint(first[0]) or '; add the others'}"
        )
    index = int(label) if label is not None and _INTEGER.fullmatch(label) else None
    at = width - 1
    if index is not None and -width <= index < width:
        at = index % width
    elif index is None and label in first:
        at = first.index(label)
    below = [cells[at].strip() for cells in rest if len(cells) == width]
    features = [cell for column, cell in enumerate(first) if column != at]
    if index is None and first[at] == label and label not in below:
        is_header = True
    else:
        is_header = any(map(_is_name, features)) or (
            _is_name(first[at]) and bool(below) and all(map(_is_number, below))
        )
        # a decimal is no name: better an error about its neighbour than a sample lost unseen
        is_header &= not any(map(_is_decimal, features))
    if not is_header:
        if label is not None and (index is None or not -width <= index < width):
            raise UserError(
                f"{path}: expected a column's index, 0 to {width - 1}, for --label, as line "
                f"{rows[0][0]} is no header; got {label!r}; add a header or give the index"
            )
        return None, at
    if label is None:
        return first, width - 1
    if first.count(label) != 1:
        problem = "several columns" if label in first else "no column"
        raise UserError(
            f"{path}, line {rows[0][0]}: the header has {problem} {label!r} for --label; "
            f"{nearest(label, first)}"
        )
    return first, first.index(label)


def _labels(cells: Sequence[str], reject: Callable[[int, str], UserError]) -> np.ndarray:
    """Return int64 where every label is an integer, float64 where a number, else strings."""
    numeric = [_is_number(cell) for cell in cells]
    real = any(map(_is_decimal, cells))
    for row, cell in enumerate(cells):
        if cell.lower() in _MISSING:
            raise reject(row, "a label")
        if real and not numeric[row]:
            raise reject(row, "a number like the other labels")
    if not all(numeric):
        return np.array(cells)
    if all(_INTEGER.fullmatch(cell) for cell in cells):
        try:
            return np.array([int(cell) for cell in cells], np.int64)
        except OverflowError:  # too long for a number that was meant as one: an identifier
            return np.array(cells)
    y = np.array(cells).astype(np.float64)
    if (bad := first_beyond(y)) is not None:
        raise reject(bad[0], FINITE)
    return y


def _numbers(cells: list[str], known: dict[str, float]) -> Floats | list[float]:
    """Return the number in each cell: looked up in `known`, faster, or read and added to it."""
    with contextlib.suppress(KeyError):
        return [known[cell] for cell in cells]
    if "_" in "".join(cells):
        raise ValueError("Python reads 1_0 as 10")
    numbers = np.array(cells, np.float64)
    if len(known) < _ENOUGH:  # pixels repeat, measurements would only fill the memory
        known.update(zip(cells, numbers.tolist(), strict=True))
    return numbers


def _is_number(cell: str) -> bool:
    with contextlib.suppress(ValueError):
        float(cell)
        return "_" not in cell
    return False


def _is_name(cell: str) -> bool:
    return not _is_number(cell) and cell.lower() not in _MISSING


def _is_decimal(cell: str) -> bool:
    return _is_number(cell) and math.isfinite(float(cell)) and not _INTEGER.fullmatch(cell)


def _shown(cell: str) -> str:
    if not cell.strip():
        return "an empty cell"
    return repr(cell if len(cell) <= 40 else cell[:39] + "…")


def _delimiter_hint(cell: str) -> str:
    seen = [name for mark, name in ((";", "semicolons"), ("\t", "tabs")) if mark in cell]
    return f"; are its columns separated by {seen[0]}? save it with commas" if seen else ""
