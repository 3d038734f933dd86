"""The report of an audit: one row per mode, transform and leaf, and its table."""

import html
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

FAILED = ("disagrees", "coarse", "raises")


class Row(NamedTuple):
    """One leaf of one mode under one transform, at its worst place.

    Attributes:
        mode: "value", "vjp", "jvp", "transposition", "rev-over-rev" or "fwd-over-rev"; "taylor"
            without a reference.
        transform: "plain", "jit", "vmap", "scan" or "remat".
        leaf: The path of the argument, or of the output for value and jvp.
        dtype: The dtype of the worse of the two computations: the arguments' dtype, or float64.
        absolute: The largest |got − wanted|.
        scaled: The largest |got − wanted| / (eps · size of the result and of the terms that
            cancel): about 1 for a single rounding error.
        relative: ‖got − wanted‖ / ‖wanted‖ over all trials.
        cosine: The cosine of the angle between got and wanted over all trials; NaN where either is
            zero.
        at: The index of the worst place in the leaf.
        got: The number there.
        wanted: The reference's number there.
        verdict: "agrees", "disagrees", "coarse" (a derivative that only agrees with an epsilon
            coarser than the value's), "raises", "no forward mode" or "not judged".
        why: The likely mistake, or what was raised.
    """

    mode: str
    transform: str
    leaf: str
    dtype: str
    absolute: float = 0.0
    scaled: float = 0.0
    relative: float = 0.0
    cosine: float = math.nan
    at: tuple[int, ...] = ()
    got: float = math.nan
    wanted: float = math.nan
    verdict: str = "agrees"
    why: str = ""

    @property
    def failed(self) -> bool:
        """Whether this row shows that the rule is wrong."""
        return self.verdict in FAILED

    def place(self) -> str:
        """Return the worst place and the two numbers there, in words."""
        at = f"[{', '.join(map(str, self.at))}]" if self.at else ""
        return f"{self.leaf}{at} is {self.got:.9g}, not {self.wanted:.9g}"


class Saved(NamedTuple):
    """What a function saves for its backward pass.

    Attributes:
        leaves: The number of distinct arrays.
        bytes: Their size.
        of_input: Their size divided by that of the arguments.
    """

    leaves: int
    bytes: int
    of_input: float


class Report(NamedTuple):
    """The result of one comparison; printing it shows a table.

    Attributes:
        rows: One `Row` per mode, transform and leaf.
        saved: What "f" and the reference "g" save for the backward pass.
        tolerance: The largest `scaled` that agrees.
        tried: How many directions were tried, in words.
        key: The key that reproduces the audit.
        notes: What could not be done, and why.
        name: The name of the function.
    """

    rows: tuple[Row, ...]
    saved: dict[str, Saved]
    tolerance: float
    tried: str
    key: str
    notes: tuple[str, ...]
    name: str

    @property
    def ok(self) -> bool:
        """Whether no row failed."""
        return not any(row.failed for row in self.rows)

    @property
    def worst(self) -> Row:
        """The row with the largest error; if any row failed, of the simplest mode that failed."""
        failed = [row for row in self.rows if row.failed]
        simplest = [row for row in failed if row.mode == failed[0].mode]
        return max(simplest or self.rows, key=_severity)

    def raise_if_failed(self) -> None:
        """Raise an error if a row failed.

        Raises:
            AssertionError: A row failed. The message holds the worst leaf, both numbers, the likely
                mistake and the key that reproduces it.
        """
        if self.ok:
            return
        failed = [row for row in self.rows if row.failed]
        where = ", ".join(dict.fromkeys(f"{row.mode} under {row.transform}" for row in failed))
        raise AssertionError(
            f"{self.name}: {_reason(self.worst)}; {len(failed)} of {len(self.rows)} comparisons "
            f"failed: {where}; to repeat: {self.key}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as dicts and lists; numbers that JSON does not have become None."""
        rows = [
            {name: _to_json(value) for name, value in row._asdict().items()} for row in self.rows
        ]
        saved = {name: one._asdict() for name, one in self.saved.items()}
        return {**self._asdict(), "rows": rows, "saved": saved, "ok": self.ok}

    def __str__(self) -> str:
        """Return the table: rows that agree joined over the transforms, failures one by one."""
        lines = _table_lines(self.rows)
        head, *body = _align([_HEAD, *(cells for cells, _ in lines)])
        reasons = (f"\n    {why}" if why else "" for _, why in lines)
        body = [line + why for line, why in zip(body, reasons, strict=True)]
        return "\n".join([head, *body, *self._foot()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in _HEAD)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
            + (f'<tr><td colspan="{len(_HEAD)}">{html.escape(why)}</td></tr>' if why else "")
            for cells, why in _table_lines(self.rows)
        )
        foot = "".join(f"<p>{html.escape(line)}</p>" for line in self._foot())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{foot}"

    def _foot(self) -> list[str]:
        saved = ", ".join(
            f"{name} {one.bytes} bytes in {one.leaves} arrays ({one.of_input:.2g} × the input)"
            for name, one in self.saved.items()
        )
        failed = sum(row.failed for row in self.rows)
        verdict = f"{failed} failed" if failed else "all agree"
        return [
            f"{self.name}: {len(self.rows)} comparisons, {verdict}; tolerance "
            f"{self.tolerance:g} eps; {self.tried}; {self.key}",
            *([f"saved for the backward pass: {saved}"] if saved else []),
            *self.notes,
        ]


_HEAD = ("mode", "leaf", "under", "dtype", "absolute", "in eps", "cosine", "verdict")


def _table_lines(rows: Iterable[Row]) -> list[tuple[tuple[str, ...], str]]:
    """Return the cells of each line of the table, and the reason to print below it."""
    lines = []
    ordered = sorted(rows, key=lambda row: (row.mode, row.leaf))
    first = {(row.mode, row.leaf): i for i, row in reversed(list(enumerate(rows)))}
    for _, group in sorted(
        ((key, list(rows_of)) for key, rows_of in groupby(ordered, lambda r: (r.mode, r.leaf))),
        key=lambda one: first[one[0]],
    ):
        agreeing = [row for row in group if row.verdict == "agrees"]
        if agreeing:
            lines.append(_table_line(max(agreeing, key=_severity), agreeing))
        others = [row for row in group if row.verdict != "agrees"]
        for what in dict.fromkeys((row.verdict, row.why) for row in others):
            alike = [row for row in others if (row.verdict, row.why) == what]
            lines.append(_table_line(max(alike, key=_severity), alike))
    return lines


def _table_line(worst: Row, joined: Sequence[Row]) -> tuple[tuple[str, ...], str]:
    known = worst.verdict in ("agrees", "disagrees", "coarse")
    numbers = (
        (f"{worst.absolute:.1e}", f"{worst.scaled:.2g}", f"{worst.cosine:.6g}")
        if known
        else ("", "", "")
    )
    if worst.mode == "taylor" and known:
        numbers = (f"order {worst.got:.2f}", "", "")
    under = " ".join(dict.fromkeys(row.transform for row in joined))
    cells = (worst.mode, worst.leaf, under, worst.dtype, *numbers, worst.verdict)
    return cells, "" if worst.verdict == "agrees" else _reason(worst)


def _reason(row: Row) -> str:
    """Return what went wrong in a row, in words."""
    if row.verdict not in ("disagrees", "coarse"):
        return row.why
    place = f"{row.mode} under {row.transform} in {row.dtype}: {row.place()}"
    return place + (f": {row.why}" if row.why else "")


def _severity(row: Row) -> float:
    return math.inf if math.isnan(row.scaled) else row.scaled


def _align(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in table
    ]


def _to_json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else value
