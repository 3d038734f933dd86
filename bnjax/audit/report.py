"""What an audit found: one row per mode, transform and leaf, and how it reads."""

import html
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

FAILED = ("disagrees", "raises")


class Row(NamedTuple):
    """One leaf of one mode under one transform, at its worst.

    Attributes:
        mode: "value", "vjp", "jvp", "transposition", "rev-over-rev" or "fwd-over-rev"; "taylor"
            without a reference.
        transform: "plain", "jit", "vmap", "scan" or "remat".
        leaf: The argument's path, or the output's for value and jvp.
        dtype: What was computed in where it was worst: the arguments' dtype, or float64.
        absolute: The largest |got − wanted|.
        scaled: The largest |got − wanted| / (eps · size of the result and of the terms that
            cancel): 1 is a rounding, 0 next to nothing.
        relative: ‖got − wanted‖ / ‖wanted‖ over all trials.
        cosine: Between got and wanted over all trials; NaN where either is zero.
        at: Where in the leaf it is worst.
        got: The number there.
        wanted: The reference's.
        verdict: "agrees", "disagrees", "raises", "no forward mode" or "not judged".
        why: The likely kind of error, or what was raised.
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
        """Whether the rule is refused for it."""
        return self.verdict in FAILED

    def place(self) -> str:
        """Name the worst place and the two values there."""
        at = f"[{', '.join(map(str, self.at))}]" if self.at else ""
        return f"{self.leaf}{at} is {self.got:.9g}, not {self.wanted:.9g}"


class Saved(NamedTuple):
    """What a pull-back keeps: distinct arrays, their bytes, and those over the input's bytes."""

    leaves: int
    bytes: int
    of_input: float


class Report(NamedTuple):
    """All that was compared.

    Attributes:
        rows: One `Row` per mode, transform and leaf.
        saved: What is kept for the backward pass, "f" and "g".
        tolerance: The largest `scaled` that agrees.
        tried: How many directions, in words.
        key: What repeats the audit.
        notes: What could not be done, and why.
        name: The function under test.
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
        """The row that is furthest off, among those of the simplest mode that failed, if any."""
        failed = [row for row in self.rows if row.failed]
        simplest = [row for row in failed if row.mode == failed[0].mode]
        return max(simplest or self.rows, key=_badness)

    def raise_if_failed(self) -> None:
        """Raise what went wrong.

        Raises:
            AssertionError: A row failed: the worst leaf, both values, the likely kind of error,
                and how to repeat it.
        """
        if self.ok:
            return
        failed = [row for row in self.rows if row.failed]
        where = ", ".join(dict.fromkeys(f"{row.mode} under {row.transform}" for row in failed))
        raise AssertionError(
            f"{self.name}: {_reason(self.worst)}; "
            f"{len(failed)} of {len(self.rows)} comparisons failed: {where}; to repeat: {self.key}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain dicts and lists; numbers that JSON lacks become None."""
        rows = [{name: _plain(value) for name, value in row._asdict().items()} for row in self.rows]
        saved = {name: one._asdict() for name, one in self.saved.items()}
        return {**self._asdict(), "rows": rows, "saved": saved, "ok": self.ok}

    def __str__(self) -> str:
        """Write the table: what agrees joined over the transforms, each failure on its own."""
        lines = _columns([_HEAD, *(cells for cells, _ in _lines(self.rows))])
        below = [why for _, why in _lines(self.rows)]
        body = [
            line + (f"\n    {why}" if why else "")
            for line, why in zip(lines[1:], below, strict=True)
        ]
        return "\n".join([lines[0], *body, *self._foot()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in _HEAD)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
            + (f'<tr><td colspan="{len(_HEAD)}">{html.escape(why)}</td></tr>' if why else "")
            for cells, why in _lines(self.rows)
        )
        foot = "".join(f"<p>{html.escape(line)}</p>" for line in self._foot())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{foot}"

    def _foot(self) -> list[str]:
        kept = ", ".join(
            f"{name} {one.bytes} bytes in {one.leaves} arrays ({one.of_input:.2g} × the input)"
            for name, one in self.saved.items()
        )
        failed = sum(row.failed for row in self.rows)
        verdict = f"{failed} failed" if failed else "all agree"
        return [
            f"{self.name}: {len(self.rows)} comparisons, {verdict}; up to {self.tolerance:g} eps "
            f"agrees; {self.tried}; {self.key}",
            *([f"saved for backward: {kept}"] if kept else []),
            *self.notes,
        ]


_HEAD = ("mode", "leaf", "under", "dtype", "absolute", "in eps", "cosine", "verdict")


def _lines(rows: Iterable[Row]) -> list[tuple[tuple[str, ...], str]]:
    """Gather the cells of each line, and what is to be said below it."""
    lines = []
    ordered = sorted(rows, key=lambda row: (row.mode, row.leaf))
    first = {(row.mode, row.leaf): i for i, row in reversed(list(enumerate(rows)))}
    for _, group in sorted(
        ((key, list(rows_of)) for key, rows_of in groupby(ordered, lambda r: (r.mode, r.leaf))),
        key=lambda one: first[one[0]],
    ):
        agreeing = [row for row in group if row.verdict == "agrees"]
        if agreeing:
            lines.append(_line(max(agreeing, key=_badness), agreeing))
        others = [row for row in group if row.verdict != "agrees"]
        for what in dict.fromkeys((row.verdict, row.why) for row in others):
            alike = [row for row in others if (row.verdict, row.why) == what]
            lines.append(_line(max(alike, key=_badness), alike))
    return lines


def _line(worst: Row, joined: Sequence[Row]) -> tuple[tuple[str, ...], str]:
    known = worst.verdict in ("agrees", "disagrees")
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
    """Say what went wrong in a row."""
    if row.verdict != "disagrees":
        return row.why
    said = f"{row.mode} under {row.transform} in {row.dtype}: {row.place()}"
    return said + (f": {row.why}" if row.why else "")


def _badness(row: Row) -> float:
    return math.inf if math.isnan(row.scaled) else row.scaled


def _columns(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in table
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else value
