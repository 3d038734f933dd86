"""What a person reads: results on stdout; messages and progress on stderr.

Progress is a live bar in a terminal and plain lines elsewhere. NO_COLOR turns all styles off.
"""

import io
import os
import sys
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from bnjax.app.errors import printable

_LINES = 10  # plain lines per network over a whole run


class _PlainConsole(Console):
    """Shows what text holds: a control character of a file's is no command to the terminal.

    A table whose words do not fit side by side is printed row by row, no word cut.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        shown = []
        for each in objects:
            if isinstance(each, Table):
                room = self.options.update(max_width=10_000)
                if self.measure(each, options=room).minimum > self.width:
                    each, options = _rows(each), options | {"soft_wrap": True}
            shown.append(printable(each, keep="\n") if isinstance(each, str) else each)
        super().print(*shown, **options)


def _rows(table: Table) -> str:
    titles = [column.header for column in table.columns]
    blocks = []
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        pairs = zip(titles, cells, strict=True)
        blocks.append("\n  ".join(f"{title}: {cell}" for title, cell in pairs if cell != ""))
    return "\n".join([str(table.title)] * bool(table.title) + blocks)


def console(*, stderr: bool = False, **options: Any) -> Console:
    """Return the console that prints plain text, without styles where NO_COLOR asks for none."""
    if os.environ.get("NO_COLOR"):
        options["color_system"] = None
    return _PlainConsole(stderr=stderr, highlight=False, markup=False, **options)


def say(message: str) -> None:
    """Print a line on stderr."""
    console(stderr=True).print(message, soft_wrap=True)


def show_everything() -> None:
    """Let no character that an output's encoding lacks, or a lone surrogate, end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class TrainingProgress:
    """One line per network: epoch, cost, test accuracy, samples per second, time left."""

    def __init__(
        self, networks: tuple[str, ...], epochs: int, *, unit: str = "epoch", silent: bool = False
    ) -> None:
        """Prepare a line for each network; `epochs` are counted in `unit`."""
        self._epochs, self._unit = epochs, unit
        self._every = max(1, epochs // _LINES)
        self._shown = dict.fromkeys(networks, 0)
        self._width = max(map(len, (*networks, "baseline")))
        self._console = console(stderr=True, quiet=silent)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bars = Progress(
                TextColumn(f"{{task.description:>{self._width}}}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            for name in networks:
                self._tasks[name] = self._bars.add_task(name, total=epochs, figures="")

    def __enter__(self) -> "TrainingProgress":
        """Show the lines."""
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the lines as they are."""
        if self._bars is not None:
            self._bars.stop()

    def say(self, message: str) -> None:
        """Print a line beside the progress."""
        self._console.print(message, soft_wrap=True)

    def advance(self, name: str, epoch: int, figures: str, seconds_left: float) -> None:
        """Show that `name` has finished an epoch, counted from 1."""
        figures = f"{self._unit} {epoch}/{self._epochs}  {figures}"
        if self._bars is not None:
            self._bars.update(self._tasks[name], completed=epoch, figures=figures)
        elif epoch // self._every > self._shown[name] // self._every or epoch in (1, self._epochs):
            self._shown[name] = epoch
            self.say(f"{name:>{self._width}}  {figures}  {seconds_left:.0f} s left")
