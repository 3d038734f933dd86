"""Cells of text read as numbers, categories or labels."""

import contextlib
import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from bnjax.app.data.raw import FINITE, Column, Floats, first_beyond
from bnjax.app.errors import UserError, nearest

_INTEGER = re.compile(r"[+-]?[0-9]+")
_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_MISSING = frozenset({"", "?", "na", "n/a", "nan", "null"})
_ENOUGH = 4096
_MOST_CATEGORIES = 1000
_LONGEST_LABEL = 1000  # each sample's takes as much memory as the longest

Reject = Callable[[int, str, str], UserError]  # (row, expected, way out)


def code(
    cells: Sequence[str], reject: Reject, column: Column | None, refuse: bool
) -> tuple[Floats, tuple[str, ...] | None]:
    """Return a feature as numbers, and its categories where it has any.

    Args:
        cells: the column's, without space around them.
        reject: says that a row's cell is not as expected.
        column: what is known of it; None to find out: it has categories where most cells are text.
        refuse: whether missing values are refused.

    Returns:
        Numbers, (N,), the index of the category where there are categories, and NaN where a value
        is missing; the categories in order, or None.
    """
    if column is None or column.categories is None:
        numbers, text = _numbers(cells)
        if not text or column is not None or 2 * len(text) <= _present(cells):
            return _checked(cells, numbers, text, reject, refuse, column is None), None
    if refuse:
        _refuse_missing(cells, reject, "a category")
    for row, cell in enumerate(cells):
        if _COMMA.fullmatch(cell):
            raise reject(row, "a number", "write its decimals with a point")
    found = {cell for cell in cells if not is_missing(cell)}
    categories = tuple(sorted(found)) if column is None else column.categories or ()
    if column is None and len(found) > _MOST_CATEGORIES:
        row = next(row for row, cell in enumerate(cells) if not is_missing(cell))
        expected = f"numbers or at most {_MOST_CATEGORIES} categories, of which there are "
        raise reject(row, f"{expected}{len(found)}", "remove the column if it names the samples")
    codes = {name: float(number) for number, name in enumerate(categories)}
    for row, cell in enumerate(cells):
        if cell in found - codes.keys():
            way_out = f"{nearest(cell[:80], categories)}; or empty the cell, as if it were missing"
            raise reject(row, "a category that was trained on", way_out)
    return np.array([codes.get(cell, math.nan) for cell in cells]), categories


def labels(cells: Sequence[str], reject: Reject) -> np.ndarray:
    """Return int64 where every label is an integer, float64 where a number, else strings."""
    numeric = [is_number(cell) for cell in cells]
    real = any(map(is_decimal, cells))
    way_out = "correct it or remove the line"
    for row, cell in enumerate(cells):
        if is_missing(cell):
            raise reject(row, "a label", way_out)
        if len(cell) > _LONGEST_LABEL:
            raise reject(row, f"a label of at most {_LONGEST_LABEL} characters", way_out)
        if real and not numeric[row]:
            raise reject(row, "a number like the other labels", way_out)
    if not all(numeric):
        return np.array(cells)
    if all(_INTEGER.fullmatch(cell) for cell in cells):
        try:
            return np.array([int(cell) for cell in cells], np.int64)
        except (OverflowError, ValueError):  # too long for a number that was meant as one: a name
            return np.array(cells)
    y = np.array(cells).astype(np.float64)
    if (bad := first_beyond(y)) is not None:
        raise reject(bad[0], FINITE, way_out)
    return y


def _checked(
    cells: Sequence[str],
    numbers: Floats,
    text: list[int],
    reject: Reject,
    refuse: bool,
    new: bool,
) -> Floats:
    """Return the numbers; refuse text among them, missing values if asked to, and infinity."""
    if text:
        way_out = "correct it or empty the cell, as the column holds numbers"
        raise reject(text[0], "a number", way_out)
    missing = np.isnan(numbers)
    if refuse and missing.any():
        _refuse_missing(cells, reject, "a number")
    if missing.all() and new:
        raise reject(0, "some values in the column", "remove the column")
    if (bad := first_beyond(np.where(missing, 0, numbers))) is not None:
        raise reject(bad[0], FINITE, "replace it or remove the line")
    return numbers


def _refuse_missing(cells: Sequence[str], reject: Reject, expected: str) -> None:
    for row, cell in enumerate(cells):
        if is_missing(cell):
            raise reject(row, expected, "add it, or train with --missing fill")


def _present(cells: Sequence[str]) -> int:
    return sum(not is_missing(cell) for cell in cells)


def _numbers(cells: Sequence[str]) -> tuple[Floats, list[int]]:
    """Return the number in each cell, NaN where there is none, and the rows that hold text."""
    known: dict[str, float] = {}
    values, text = np.empty(len(cells)), []
    for row, cell in enumerate(cells):
        value = known.get(cell)
        if value is None:
            value = math.nan
            if is_number(cell):
                value = float(cell)
            elif not is_missing(cell):
                text.append(row)
                continue
            if len(known) < _ENOUGH:  # pixels repeat, measurements would only fill the memory
                known[cell] = value
        values[row] = value
    return values, text


def is_missing(cell: str) -> bool:
    """Return whether a cell says that there is no value."""
    return cell.strip().lower() in _MISSING


def is_number(cell: str) -> bool:
    """Return whether a cell is a number, NaN included."""
    with contextlib.suppress(ValueError):
        float(cell)
        return "_" not in cell  # Python reads 1_0 as 10
    return False


def is_name(cell: str) -> bool:
    """Return whether a cell holds text."""
    return not is_number(cell) and not is_missing(cell)


def is_decimal(cell: str) -> bool:
    """Return whether a cell is a finite number that is not written as an integer."""
    return is_number(cell) and math.isfinite(float(cell)) and not _INTEGER.fullmatch(cell)


def shown(cell: str) -> str:
    """Quote a cell for a message, a long one cut."""
    if not cell.strip():
        return "an empty cell"
    return repr(cell if len(cell) <= 40 else cell[:39] + "…")
