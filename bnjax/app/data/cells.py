"""Cells of text read as numbers, categories or labels."""

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from bnjax.app.data.raw import FINITE, Column, Floats, first_beyond
from bnjax.app.errors import UserError, nearest

_INTEGER = re.compile(r"[+-]?[0-9]+")
_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_MISSING = frozenset({"", "?", "na", "n/a", "nan", "null"})
_MOST_CATEGORIES = 1000
_LONGEST_LABEL = 1000  # each sample's takes as much memory as the longest

Reject = Callable[[int, str, str], UserError]  # (row, expected, way out)


def code(
    cells: Sequence[str], reject: Reject, column: Column | None, refuse: bool
) -> tuple[Floats, tuple[str, ...] | None]:
    """Return a feature as numbers, and its categories where it has any.

    Args:
        cells: the column's.
        reject: says that a row's cell is not as expected.
        column: what is known of it; None to find out: it has categories where most cells are text.
        refuse: whether missing values are refused.

    Returns:
        Numbers, (N,), the index of the category where there are categories, and NaN where a value
        is missing; the categories in order, or None.
    """
    known = {cell: _number(cell) for cell in set(cells)}  # once: pixels repeat
    text = {cell for cell, number in known.items() if number is None}
    if column is not None:
        numbers = column.categories is None
    else:
        numbers = not text or 2 * sum(map(text.__contains__, cells)) <= sum(
            not is_missing(cell) for cell in cells
        )
    if refuse and any(map(is_missing, known)):
        row = next(row for row, cell in enumerate(cells) if is_missing(cell))
        expected = "a number" if numbers else "a category"
        raise reject(row, expected, "add it, or train with --missing fill")
    if not numbers:
        return _categories([cell.strip() for cell in cells], reject, column)
    if text:
        row = next(row for row, cell in enumerate(cells) if cell in text)
        raise reject(row, "a number", "correct it or empty the cell, as the column holds numbers")
    values = np.fromiter(map(known.__getitem__, cells), np.float64, len(cells))
    if column is None and np.isnan(values).all():
        raise reject(0, "some values in the column", "remove the column")
    if (bad := first_beyond(np.where(np.isnan(values), 0, values))) is not None:
        raise reject(bad[0], FINITE, "replace it or remove the line")
    return values, None


def _categories(
    cells: Sequence[str], reject: Reject, column: Column | None
) -> tuple[Floats, tuple[str, ...]]:
    """Return the code of each cell, and the categories."""
    distinct = set(cells)
    found = {cell for cell in distinct if not is_missing(cell)}
    categories = (column and column.categories) or tuple(sorted(found))
    codes = dict.fromkeys(distinct - found, math.nan)
    codes |= {name: float(number) for number, name in enumerate(categories)}
    for row, cell in enumerate(cells):
        if _COMMA.fullmatch(cell):
            raise reject(row, "a number", "write its decimals with a point")
        if len(categories) > _MOST_CATEGORIES and cell in found:
            expected = f"numbers or at most {_MOST_CATEGORIES} different texts in the column"
            raise reject(row, f"{expected} ({len(found)} are)", "remove it if it names the samples")
        if cell not in codes:
            way_out = f"{nearest(cell[:80], categories)}; or empty the cell, as if it were missing"
            raise reject(row, "a category that was trained on", way_out)
    return np.fromiter(map(codes.__getitem__, cells), np.float64, len(cells)), categories


def labels(cells: Sequence[str], reject: Reject) -> np.ndarray:
    """Return int64 where every label is an integer, float64 where a number, else strings."""
    cells = [cell.strip() for cell in cells]
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


def _number(cell: str) -> float | None:
    """Return the number in a cell, NaN where it is missing, None for text."""
    try:
        number = float(cell)
    except ValueError:
        return math.nan if is_missing(cell) else None
    return None if "_" in cell else number  # Python reads 1_0 as 10


def is_missing(cell: str) -> bool:
    """Return whether a cell says that there is no value."""
    return cell.strip().lower() in _MISSING


def is_number(cell: str) -> bool:
    """Return whether a cell is a number."""
    return _number(cell) is not None and not is_missing(cell)


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
