"""Reads a table of text, FILE.csv or FILE.tsv, with a header or without, into coded columns."""

import contextlib
import csv
import io
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bnjax.app.data.cells import code, is_decimal, is_missing, is_name, is_number, labels, shown
from bnjax.app.data.raw import BYTES, Column, Floats, Raw, check_size, opened, read_at_most
from bnjax.app.errors import UserError, nearest

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_BLOCK = 256  # rows turned into columns at once: they fit into a processor's cache
_LOOKED_AT = 20  # rows, to tell the delimiter
_INDEX_NAMES = ("", "Unnamed: 0")  # of the column in which pandas leaves a frame's index

_Row = tuple[int, list[str]]  # the line it begins on, and its cells


class Known(NamedTuple):
    """What is known of a table to predict: its features, and the name of the label's column."""

    columns: tuple[Column, ...]
    label: str

    @property
    def names(self) -> tuple[str, ...]:
        """Return the features' names if columns can be found by them."""
        names = tuple(column.name for column in self.columns)
        return names if all(names) and len(set(names)) == len(names) else ()


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
    rows = _rows(path, max_size)
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
    rows = _rows(path, max_size)
    first = [cell.strip() for cell in rows[0][1]]
    width, n = len(first), len(known.columns)
    notes = ()
    if known.names and (set(known.names) & set(first) - {""}) and _all_found(path, known, first):
        header = first
        features = [first.index(name) for name in known.names]
        wanted = label or known.label
        if label is not None and first.count(label) != 1:
            raise _no_column(path, rows, label, first)
        at = first.index(wanted) if wanted in first and wanted not in known.names else None
        used = (*features, at)
        if ignored := [name for i, name in enumerate(first) if i not in used and name]:
            notes = (f"{path}: not trained on, and left out: {', '.join(map(shown, ignored))}",)
    else:
        at = None
        if label is not None or width == n + 1:
            header, at = _layout(path, rows, label)
        else:
            header = first if _is_header(first, _below(rows, width), None) else None
        features = [column for column in range(width) if column != at]
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
    if numbers and cells.dtype.kind in "biuf":
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


def _all_found(path: Path, known: Known, first: list[str]) -> bool:
    """Raise where a header lacks some of the features' names, or has one of them twice."""
    if any(map(is_number, known.names)) and first != list(known.names):
        return set(known.names) <= set(first)  # a sample may hold such numbers too
    for name in known.names:
        if first.count(name) != 1:
            problem = "no column" if name not in first else "several columns"
            raise UserError(
                f"{path}: the header has {problem} {shown(name)}, which the network was trained "
                f"on; {nearest(name, first)}"
            )
    return True


def _rows(path: Path, max_size: float) -> list[_Row]:
    """Return each row that is not blank with the line it begins on, all of one width."""
    limit = int(max_size * 2**30)
    with opened(path) as file:
        content = read_at_most(file, limit + 1)
    check_size(path, "the text", len(content), max_size)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise UserError(
            f"{path}, line {line}: expected UTF-8 text, got byte 0x{byte:02x}; save it as UTF-8"
        ) from error
    delimiter = _delimiter(path, text)
    rows: list[_Row] = []
    line, count = 1, 0
    try:
        reader = _reader(text, delimiter)
        for cells in reader:
            if any(cells):
                rows.append((line, cells))
                count += len(cells)
                if not len(rows) % 1000:
                    check_size(path, f"{count} cells", BYTES * count, max_size)
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line}: expected {_DELIMITERS[delimiter]}-separated cells, got a "
            f"row that cannot be taken apart ({error}); look for an open quote"
        ) from error
    if not rows:
        raise UserError(f"{path}: expected rows of data, got an empty file; add some")
    return rows


def _reader(text: str, delimiter: str):  # noqa: ANN202 (csv's reader has no public type)
    # strict: an open quote would otherwise swallow the rest of the file
    source = io.StringIO(text, newline="")
    return csv.reader(source, strict=True, skipinitialspace=True, delimiter=delimiter)


def _delimiter(path: Path, text: str) -> str:
    """Return what separates the cells: what cuts all of the first rows alike."""
    if ".tsv" in path.suffixes[-2:]:
        return "\t"
    fitting, first = [], {}
    for delimiter in _DELIMITERS:
        widths = []
        with contextlib.suppress(csv.Error):  # reading all of it names the line
            found = (len(cells) for cells in _reader(text, delimiter) if any(cells))
            widths.extend(islice(found, _LOOKED_AT))
        first[delimiter] = widths[0] if widths else 0
        if len(set(widths)) == 1 and widths[0] > 1:
            fitting.append(delimiter)
    if len(fitting) > 1:
        names = " or ".join(f"{_DELIMITERS[each]}s" for each in fitting)
        raise UserError(
            f"{path}, line 1: expected columns separated in one way, got rows that {names} cut "
            "alike; name the columns in a first line, and write decimals with a point"
        )
    return fitting[0] if fitting else max(first, key=first.__getitem__)


def _below(rows: list[_Row], width: int) -> list[list[str]]:
    return [cells for _, cells in rows[1:] if len(cells) == width]


def _body(
    path: Path, rows: list[_Row], header: list[str] | None
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


def _layout(path: Path, rows: list[_Row], label: str | None) -> tuple[list[str] | None, int]:
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


def _no_column(path: Path, rows: list[_Row], label: str, first: list[str]) -> UserError:
    problem = "several columns" if label in first else "no column"
    return UserError(
        f"{path}, line {rows[0][0]}: the header has {problem} {shown(label)} for --label; "
        f"{nearest(label, first)}"
    )


def _is_header(first: list[str], below: list[list[str]], at: int | None) -> bool:
    """Tell names from a sample: names stand above numbers, or nowhere below themselves."""
    if len(first) > 2 and first[first[0] == "" :] == [
        str(i) for i in range(len(first) - (first[0] == ""))
    ]:
        return True  # as pandas numbers columns
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
