"""Charts as SVG: those side by side have one scale, and no legend covers what it explains."""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bnjax.report.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#b5541c", "#1c5cb5", "#2f7d4f", "#7a3fa0", "#80690a", "#00707a")  # differ in grey, too
_STYLES = ("-", "--", "-.", ":")
_MOST_LAYERS = 4  # of more, some are drawn


class Line(NamedTuple):
    """One line, the lighter the smaller `share`; in the colour of its chart if it has none."""

    x: np.ndarray
    y: np.ndarray
    label: str
    share: float = 1.0
    style: str = "-"
    color: int | None = None


class Chart(NamedTuple):
    """Lines on one pair of axes, or a map of how cosines are spread, (40, L)."""

    title: str
    color: int
    lines: tuple[Line, ...] = ()
    shares: np.ndarray | None = None


@dataclass(frozen=True)
class Charts:
    """Charts side by side, on one scale.

    Attributes:
        caption: What they show.
        charts: The charts.
        x: What the horizontal axis counts.
        y: What the vertical axis measures.
        log: Whether it is logarithmic.
        limits: Its ends, where they are known.
        level: A value to mark, and what it is.
    """

    caption: str
    charts: tuple[Chart, ...]
    x: str
    y: str
    log: bool = False
    limits: tuple[float, float] | None = None
    level: tuple[float, str] | None = None

    def draw(self) -> list[str]:
        """Return each chart as SVG."""
        limits = self.limits or self._common_limits()
        return [self._draw(chart, limits) for chart in self.charts]

    def _common_limits(self) -> tuple[float, float] | None:
        lines = [line.y for chart in self.charts for line in chart.lines]
        values = np.concatenate([*lines, [self.level[0]] if self.level else []])
        values = values[np.isfinite(values) & ((values > 0) | (not self.log))]
        if not values.size:
            return None
        low, high = float(values.min()), float(values.max())
        if self.log:
            return low / 1.5, high * 1.5
        return min(low, 0.0), high + 0.05 * (high - min(low, 0.0)) or 1.0

    def _draw(self, chart: Chart, limits: tuple[float, float] | None) -> str:
        figure, axes = new_figure(chart.title)
        from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

        axes.set_xlabel(self.x)
        axes.set_ylabel(self.y)
        if chart.shares is not None:
            _map(axes, chart.shares, _color(chart.color))
        else:
            axes.grid(alpha=0.3)
            if self.log:
                axes.set_yscale("log")
                few = limits is not None and limits[1] < 200 * limits[0]
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_formatter(NullFormatter())
            if limits:
                axes.set_ylim(*limits)
        for line in chart.lines:
            _line(axes, line, _color(chart.color if line.color is None else line.color), self.log)
        if self.level:
            value, label = self.level
            axes.axhline(value, color="0.3", linewidth=1.2, linestyle=(0, (1, 1)), label=label)
        if self.x.startswith("layer"):
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        if len(axes.get_legend_handles_labels()[0]) > 1:
            for text in figure.legend(
                loc="outside lower center", ncols=2, fontsize=9, frameon=False
            ).get_texts():
                text.set_parse_math(False)
        return svg(figure)


def over_layers(
    subjects: Sequence[Subject],
    values: Callable[[Subject], np.ndarray],
    caption: str,
    y: str,
    between: int,
    **more: Any,
) -> tuple[Charts, ...]:
    """Draw figures, (K, L), over the layers: at the first look, at step `between`, at the last."""
    charts = []
    for one in subjects:
        steps, at = one.recording.steps, np.arange(one.count)
        moments = sorted({0, int(np.abs(steps - between).argmin()), len(steps) - 1})
        styles = [f"{style}o" for style in _STYLES[len(moments) - 1 :: -1]]
        lines = [
            Line(at, values(one)[k], one.when(k), (n + 1) / len(moments), styles[n])
            for n, k in enumerate(moments)
        ]
        charts.append(_chart(one, lines, one.count))
    return _charts(charts, caption, "layer, from input to output", y, more)


def over_time(
    subjects: Sequence[Subject],
    values: Callable[[Subject], np.ndarray],
    caption: str,
    y: str,
    between: int,
    **more: Any,
) -> tuple[Charts, ...]:
    """Draw figures, (K, L), over the training: a line for each layer, of many for some."""
    charts = []
    for one in subjects:
        steps, known = one.recording.steps, np.flatnonzero(np.isfinite(values(one)).any(0))
        lines = [
            Line(steps, values(one)[:, at], f"layer {at}", (at + 1) / one.count, _STYLES[n])
            for n, at in enumerate(known[_spread(len(known))])
        ]
        charts.append(_chart(one, lines, len(steps)))
    return _charts(charts, caption, subjects[0].unit, y, more)


def _chart(one: Subject, lines: list[Line], points: int) -> Chart:
    """Make a chart of the lines that have something to show; a single point has not."""
    known = [line for line in lines if points > 1 and np.isfinite(line.y).any()]
    return Chart(one.title, one.color, tuple(known))


def _charts(
    charts: list[Chart], caption: str, x: str, y: str, more: dict[str, Any]
) -> tuple[Charts, ...]:
    drawn = tuple(chart for chart in charts if chart.lines)
    return (Charts(caption, drawn, x, y, **more),) if drawn else ()


def _spread(count: int) -> list[int]:
    """Choose all of few, of many the first, the last and some between."""
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, _MOST_LAYERS))})


def _color(place: int) -> str:
    return COLORS[place % len(COLORS)]


def new_figure(title: str, size: tuple[float, float] = (4.4, 3.1)) -> tuple["Figure", "Axes"]:
    """Make a figure of one chart."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "geometry.report: pictures need matplotlib, which is not installed; "
            "pip install 'bnjax[cli]', or print(report), which draws nothing",
            name=error.name,
        ) from error
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    # a title may hold anything: no formula, and no half of a character
    shown = title[:60].encode("utf-8", "backslashreplace").decode()
    axes.set_title(shown, fontsize=11, parse_math=False)
    return figure, axes


def svg(figure: "Figure") -> str:
    """Write a figure as SVG without a background, the same bytes each time."""
    import matplotlib

    written = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "bnjax"}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a character that the font lacks
        figure.savefig(written, format="svg", metadata={"Date": None}, transparent=True)
    return written.getvalue()


def _line(axes: "Axes", line: Line, color: str, log: bool) -> None:
    y = np.where(line.y > 0, line.y, np.nan) if log else line.y
    look = {"color": shade(color, line.share), "linewidth": 2, "markersize": 4}
    axes.plot(line.x, y, line.style, label=line.label, **look)


def shade(color: str, share: float) -> tuple[float, ...]:
    """Mix a color with white: the smaller the share, the lighter."""
    from matplotlib.colors import to_rgb

    mixed = 0.35 + 0.65 * share
    return tuple(mixed * part + 1 - mixed for part in to_rgb(color))


def _map(axes: "Axes", shares: np.ndarray, color: str) -> None:
    """Draw how cosines are spread, (40, L): darker where more are."""
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgb

    dark = tuple(0.55 * part for part in to_rgb(color))
    colors = LinearSegmentedColormap.from_list("shares", ["white", color, dark])
    scale = PowerNorm(0.5, 0, max(float(np.nanmax(shares, initial=0)), 1e-3))
    extent = (-0.5, shares.shape[1] - 0.5, -1.0, 1.0)
    axes.imshow(shares, extent=extent, origin="lower", aspect="auto", cmap=colors, norm=scale)
    axes.axhline(0, color="0.4", linewidth=0.6)
