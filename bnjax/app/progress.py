"""Progress on stderr: live bars in a terminal, plain lines elsewhere."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_LINES = 10  # plain lines per network over a whole run


def say(message: str) -> None:
    """Print a line on stderr."""
    Console(stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)


class TrainingProgress:
    """One line per network: epoch, cost, test accuracy, samples per second, time left."""

    def __init__(
        self, networks: tuple[str, ...], epochs: int, *, unit: str = "epoch", silent: bool = False
    ) -> None:
        """Prepare a line for each network; `epochs` are counted in `unit`."""
        self._epochs, self._unit = epochs, unit
        self._every = max(1, epochs // _LINES)
        self._shown = dict.fromkeys(networks, 0)
        self._console = Console(stderr=True, quiet=silent)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bars = Progress(
                TextColumn("{task.description:>8}"),
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
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    def advance(self, name: str, epoch: int, figures: str, seconds_left: float) -> None:
        """Show that `name` has finished an epoch, counted from 1."""
        figures = f"{self._unit} {epoch}/{self._epochs}  {figures}"
        if self._bars is not None:
            self._bars.update(self._tasks[name], completed=epoch, figures=figures)
        elif epoch // self._every > self._shown[name] // self._every or epoch in (1, self._epochs):
            self._shown[name] = epoch
            self.say(f"{name:>8}  {figures}  {seconds_left:.0f} s left")
