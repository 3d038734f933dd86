"""How the charts of claims are drawn: median and range over the seeds."""

from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from bnjax.app.report.drawing import STYLES, Panel, shade, svg
from bnjax.app.report.pictures import COLOURS
from bnjax.claims import Chart, Curve, over_seeds

_SIZE = (4.6, 4.2)
_MARKERS = "os^Dv"
_APART = 0.12  # of names on an axis
_FEW_DECADES = 300


def picture(charts: Sequence[Chart]) -> Callable[[BinaryIO], object]:
    """Return the function that writes charts side by side, as PNG."""
    figure = Figure(figsize=(_SIZE[0] * len(charts), _SIZE[1]), layout="constrained")
    for axes, chart in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
        _draw(axes, chart)
    return lambda file: figure.savefig(file, format="png", dpi=110)


def panels(section: str, charts: Sequence[Chart]) -> list[Panel]:
    """Return one picture for each chart, for a page."""
    found = []
    for chart in charts:
        figure = Figure(figsize=_SIZE, layout="constrained")
        _draw(figure.subplots(), chart)
        caption = f"{chart.title}: median (line) and range (area) over the seeds."
        found.append(Panel(section, svg(figure), caption))
    return found


def _draw(axes: Axes, chart: Chart) -> None:
    if chart.log_x:
        axes.set_xscale("log")
    if chart.log_y:
        axes.set_yscale("log")
    factor = 100 if chart.percent else 1
    beyond = _beyond(chart)
    missing = False
    for number, curve in enumerate(chart.curves):
        low, middle, high = (factor * each for each in over_seeds(curve.values))
        missing |= not np.isfinite(high).all()
        x = _places(axes, curve, number, len(chart.curves))
        _draw_curve(axes, curve, x, low, middle, high, beyond)
    if missing:
        axes.axhline(beyond, color="0.6", linewidth=1, linestyle=":")
        axes.annotate(
            "never, or not finite",
            (0.01, beyond),
            color="0.3",
            va="bottom",
            xycoords=("axes fraction", "data"),
            fontsize=8,
        )
    if chart.threshold is not None:
        axes.axhline(factor * chart.threshold, color="0.6", linewidth=1, linestyle=":")
    if chart.percent:
        axes.set_ylim(0, 101)
    if chart.log_y:
        _label_powers(axes)
    axes.set_title(chart.title, fontsize=10, parse_math=False)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(f"{chart.y}, %" if chart.percent else chart.y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False)


def _label_powers(axes: Axes) -> None:
    """Label a logarithmic y axis: 1, 2, 5, 10, ... where it spans few decades."""
    low, high = axes.get_ylim()
    if high < _FEW_DECADES * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_curve(
    axes: Axes,
    curve: Curve,
    x: np.ndarray,
    low: np.ndarray,
    middle: np.ndarray,
    high: np.ndarray,
    beyond: float,
) -> None:
    colour = shade(COLOURS[curve.network], 1 / (1 + 0.6 * curve.style))
    style = STYLES[curve.style % len(STYLES)]
    marker = _MARKERS[curve.style % len(_MARKERS)]
    low, shown, high = (np.where(np.isfinite(each), each, beyond) for each in (low, middle, high))
    look = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 2}
    if isinstance(curve.x[0], str):
        ends = np.stack([shown - low, high - shown])
        axes.errorbar(x, shown, ends, linestyle="none", capsize=3, label=curve.label, **look)
    else:
        line = np.where(np.isfinite(middle), middle, np.nan)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(x, line, style, label=curve.label, **look)
        lost = ~np.isfinite(middle)
        axes.plot(x[lost], shown[lost], "x", color=colour, markersize=7)


def _places(axes: Axes, curve: Curve, number: int, count: int) -> np.ndarray:
    """Return where a curve's points stand: numbers, or names side by side."""
    if not isinstance(curve.x[0], str):
        return np.asarray(curve.x, float)
    axes.set_xticks(range(len(curve.x)), [str(name) for name in curve.x])
    return np.arange(len(curve.x)) + _APART * (number - (count - 1) / 2)


def _beyond(chart: Chart) -> float:
    """Return where that is drawn which was never reached, or is not finite: above all else."""
    found = np.concatenate([curve.values.ravel() for curve in chart.curves])
    found = found[np.isfinite(found)]
    most = (100 if chart.percent else 1) * (found.max() if found.size else 1.0)
    return float(2 * most if chart.log_y else 1.15 * most)
