"""Reads text into rows of cells, whatever separates them."""

import contextlib
import csv
import io
from itertools import islice
from pathlib import Path

from bnjax.app.data.raw import BYTES, check_size, opened, read_at_most
from bnjax.app.errors import UserError

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_LOOKED_AT = 20  # rows, to tell the delimiter

Row = tuple[int, list[str]]  # the line it begins on, and its cells


def read_rows(path: Path, max_size: float) -> list[Row]:
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
    rows: list[Row] = []
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
