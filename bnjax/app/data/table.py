"""Reads a table of text, FILE.csv or FILE.tsv, with a header or without, into coded columns."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bnjax.app.data.cells import code, is_decimal, is_missing, is_name, is_number, labels, shown
from bnjax.app.data.raw import Column, Floats, Raw
from bnjax.app.data.rows import Row, read_rows
from bnjax.app.errors import UserError, nearest

_BLOCK = 256  # rows turned into columns at once: they fit into a processor's cache
_INDEX_NAMES = ("", "Unnamed: 0")  # of the column in which pandas leaves a frame's index


class Known(NamedTuple):
    """What is known of a table to predict: its features, and the name of the label's column."""

    columns: tuple[Column, ...]
    label: str

    @property
    def names(self) -> tuple[str, ...]:
        """Return the features' names if columns can be found by them."""
        names = tuple(column.name for column in self.columns)
        return names if all(names) and len(set(names)) == len(names) else ()

    def found_in(self, first: list[str]) -> bool:
        """Return whether a first line holds the features' names."""
        if all(map(is_number, self.names)):  # so could a sample
            return self.names == tuple(first[first[0] == "" :][: len(self.names)]) != ()
        return not set(self.names).isdisjoint(first)


class _Table(NamedTuple):
    """Columns of equal length, and which of them have which part."""

    path: Path
    header: list[str] | None
    lines: list[int]
    columns: list[list[str]]
    features: list[int]
    at: int | None  # the label's column

    def name(self, column: int) -> str:
        """Return the name of a column; empty without a header."""
        return "" if self.header is None else self.header[column]

    def title(self, column: int) -> str:
        """Name a column for a message."""
        name = self.name(column)
        return f"column {shown(name)}" if name else f"column {column} (counted from 0)"

    def cells(self, column: int) -> tuple[list[str], Callable[[int, str, str], UserError]]:
        """Return a column's cells, and what says that one of them is not as expected."""

        def reject(row: int, expected: str, way_out: str) -> UserError:
            return UserError(
                f"{self.path}, line {self.lines[row]}, {self.title(column)}: expected {expected}, "
                f"got {shown(self.columns[column][row].strip())}; {way_out}"
            )

        return self.columns[column], reject

    def labels(self) -> np.ndarray:
        """Return what the label's column holds."""
        return labels(*self.cells(self.at or 0))

    def code(self, columns: Sequence[Column] | None, refuse: bool) -> tuple[Floats, list[Column]]:
        """Return the features as numbers, and their columns, new ones where none are known."""
        x, found = np.empty((len(self.lines), len(self.features))), []
        for number, column in enumerate(self.features):
            known = None if columns is None else columns[number]
            refused = refuse if known is None else known.fill is None
            x[:, number], categories = code(*self.cells(column), known, refused)
            found.append(known or Column(self.name(column), categories))
        return x, found


def read(path: Path, label: str | None, missing: str, max_size: float) -> Raw:
    """Read the table at `path`, its labels in the column `label`, the last one if None."""
    rows = read_rows(path, max_size)
    header, at = _layout(path, rows, label)
    features = [column for column in range(len(rows[0][1])) if column != at]
    notes = []
    if header is not None and not any(map(is_name, header)):
        notes.append(f"{path}: the numbers {', '.join(header[:3])}, … in line 1 are read as names")
    if header is not None and features[0] == 0 and header[0] in _INDEX_NAMES and features[1:]:
        features = features[1:]
        notes.append(f"{path}: the first column, without a name, is an index and left out")
    table = _Table(path, header, *_body(path, rows, header), features, at)
    y = table.labels()
    x, columns = table.code(None, missing == "refuse")
    return Raw(
        x,
        y,
        path.name,
        target=table.title(at),
        label=table.name(at) or "y",
        lines=tuple(table.lines),
        columns=tuple(columns),
        notes=tuple(notes),
    )


def read_samples(
    path: Path, label: str | None, known: Known, max_size: float
) -> tuple[Floats, np.ndarray | None, tuple[str, ...]]:
    """Read features as the network knows them, labels where there are any, and notes."""
    rows = read_rows(path, max_size)
    first, n = [cell.strip() for cell in rows[0][1]], len(known.columns)
    header, at = None, None
    named = known.found_in(first)
    if label is not None or (len(first) == n + 1 and not named):
        header, at = _layout(path, rows, label)
    elif named or _is_header(first, _below(rows, len(first)), None):
        header = first
    notes = ()
    if named or (header is not None and known.names and not all(map(is_number, known.names))):
        features = [_find(path, name, first) for name in known.names]
        if label is None:
            at = first.index(known.label) if known.label in first else None
        used = (*features, at)
        if ignored := [name for i, name in enumerate(first) if i not in used and name]:
            notes = (f"{path}: not trained on, and left out: {', '.join(map(shown, ignored))}",)
    else:
        features = [column for column in range(len(first)) if column != at]
        if len(features) != n:
            raise UserError(
                f"{path}: expected {n} features per sample, as the network was trained on, got "
                f"{len(features)}; bring the same ones in the same order"
            )
    table = _Table(path, header, *_body(path, rows, header), features, at)
    x, _ = table.code(known.columns, refuse=True)
    return x, None if at is None else table.labels(), notes


def as_columns(x: ArrayLike, columns: tuple[Column, ...]) -> Floats:
    """Return raw columns in Python, (N, n) numbers or text, as `Raw` has those of a table."""
    cells = np.asarray(x)
    numbers = all(column.categories is None for column in columns)
    if not columns or (numbers and cells.dtype.kind in "biuf"):
        return cells.astype(np.float64)
    if cells.ndim != 2 or cells.shape[1] != len(columns):
        raise UserError(
            f"x: expected {len(columns)} columns, as the network was trained on, got shape "
            f"{cells.shape}; bring the same ones in the same order"
        )
    texts = [["" if cell is None else str(cell) for cell in column] for column in cells.T]
    lines = [*range(len(cells))]
    names = [column.name for column in columns]
    table = _Table(Path("x"), names, lines, texts, [*range(len(columns))], None)
    return table.code(columns, refuse=True)[0]


def _find(path: Path, name: str, header: list[str]) -> int:
    """Return where a feature is, by its name."""
    if header.count(name) != 1:
        problem = "several columns" if name in header else "no column"
        raise UserError(
            f"{path}: the header has {problem} {shown(name)}, which the network was trained on; "
            f"{nearest(name, header)}"
        )
    return header.index(name)


def _below(rows: list[Row], width: int) -> list[list[str]]:
    return [cells for _, cells in rows[1:] if len(cells) == width]


def _body(
    path: Path, rows: list[Row], header: list[str] | None
) -> tuple[list[int], list[list[str]]]:
    """Return the line of each row of data, and the columns; all rows have the same width."""
    top, width = rows[0][0], len(rows[0][1])
    rows = rows if header is None else rows[1:]
    if not rows:
        raise UserError(f"{path}: expected rows of data, got only the header; add some below it")
    for line, cells in rows:
        if len(cells) != width:
            raise UserError(
                f"{path}, line {line}: expected {width} columns like line {top}, got {len(cells)}; "
                "correct the line or remove it"
            )
    columns: list[list[str]] = [[] for _ in range(width)]
    for block in range(0, len(rows), _BLOCK):
        part = zip(*(cells for _, cells in rows[block : block + _BLOCK]), strict=True)
        for column, cells in zip(columns, part, strict=True):
            column.extend(cells)
    return [line for line, _ in rows], columns


def _layout(path: Path, rows: list[Row], label: str | None) -> tuple[list[str] | None, int]:
    """Return the header, or None where there is none, and the index of the label's column."""
    first = [cell.strip() for cell in rows[0][1]]
    width = len(first)
    if width < 2:
        raise UserError(
            f"{path}, line {rows[0][0]}: expected at least two columns, features and a label, got "
            f"one, {shown(first[0])}; add the others, or separate them with commas"
        )
    whole = label is not None and len(label) < 20 and re.fullmatch(r"[+-]?[0-9]+", label)
    index = int(label) if label is not None and whole else None
    at = width - 1
    if index is not None and -width <= index < width:
        at = index % width
    elif index is None and label in first:
        at = first.index(label)
    below = _below(rows, width)
    named = index is None and first[at] == label and label not in [r[at].strip() for r in below]
    if not (named or _is_header(first, below, at)):
        if label is not None and (index is None or not -width <= index < width):
            raise UserError(
                f"{path}: expected a column's index, 0 to {width - 1}, for --label, as line "
                f"{rows[0][0]} is no header; got {shown(label)}; add a header or give the index"
            )
        return None, at
    if label is None:
        return first, width - 1
    if first.count(label) != 1:
        raise _no_column(path, rows, label, first)
    return first, first.index(label)


def _no_column(path: Path, rows: list[Row], label: str, first: list[str]) -> UserError:
    problem = "several columns" if label in first else "no column"
    return UserError(
        f"{path}, line {rows[0][0]}: the header has {problem} {shown(label)} for --label; "
        f"{nearest(label, first)}"
    )


def _is_header(first: list[str], below: list[list[str]], at: int | None) -> bool:
    """Tell names from a sample: names stand above numbers, or nowhere below themselves."""
    numbered = first[first[0] == "" :]
    if len(first) > 2 and numbered == [str(number) for number in range(len(numbered))]:
        return True  # as pandas numbers columns, the index without a name
    # a decimal is no name: better an error about its neighbour than a sample lost unseen
    if any(is_decimal(cell) for column, cell in enumerate(first) if column != at):
        return False
    for column, cell in enumerate(first):
        if is_name(cell):
            known = [row[column] for row in below if not is_missing(row[column])]
            if known and 2 * sum(map(is_number, known)) > len(known):
                return True
    names = [cell for cell in first if cell]
    return (
        all(map(is_name, names))
        and len(set(names)) == len(names)
        and not any(cell == row[i].strip() for row in below for i, cell in enumerate(first) if cell)
    )
