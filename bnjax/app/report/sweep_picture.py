"""The picture of a sweep: lines over what is varied, or a map over two things that are."""

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from bnjax.app.report.pictures import COLOURS, LABELS, label_panel, set_title
from bnjax.app.report.sweep_table import grouped, median, values

Rows = Sequence[Mapping[str, Any]]


_MAP = colormaps["Blues"].with_extremes(bad="0.88")


class _Measure(NamedTuple):
    """A figure of each network: its key and factor, how it is named, written, and called if inf."""

    key: str
    factor: float
    title: str
    unit: str
    shape: str
    beyond: str


_ACCURACY = _Measure("final_test_accuracy", 100, "final test accuracy", "correct, %", ".1f", "")
_STEPS = _Measure("steps_to_95", 1, "steps to 95 % test accuracy", "mini-batches", ",.0f", "never")
_COST = _Measure("final_test_cost", 1, "final test cost", "cost per sample", ".3g", "not finite")


def draw(file: BinaryIO, rows: Rows, *, varied: str | None, data: str, classify: bool) -> None:
    """Draw what became of each network of a sweep.

    Over one thing that is varied, the learning rate or another option, lines are drawn: median,
    range, and a point for each network. Over both, maps are, of the medians.

    Args:
        file: Where the picture goes.
        rows: As in `sweep_table.best`.
        varied: The option that is varied beside the learning rate, if any.
        data: Its name.
        classify: Whether there are classes; otherwise test costs are drawn.
    """
    measures = [_ACCURACY, _STEPS] if classify else [_COST]
    seeds = len({row["seed"] for row in rows})
    over = f"{seeds} seeds" if seeds > 1 else "1 seed"
    if varied is not None and len({row["learning_rate"] for row in rows}) > 1:
        figure = _maps(rows, measures, varied)
        over = f"median of {over}" if seeds > 1 else over
        if any(row["diverged_in_epoch"] is not None for row in rows):
            over += " (×: some diverged)"
    else:
        figure = _lines(rows, measures, varied or "learning_rate")
    set_title(figure, f"{data}: with and without batch normalization, {over}")
    figure.savefig(file, format="png", dpi=150)


def _lines(rows: Rows, measures: Sequence[_Measure], over: str) -> Figure:
    """Draw each measure over one option."""
    figure = Figure(figsize=(2 + 4.5 * len(measures), 4.6), layout="constrained")
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for panel, measure in zip(panels, measures, strict=True):
        if measure is _ACCURACY:
            panel.set_ylim(0, 101)
        else:
            panel.set_yscale("log")
        _over(panel, rows, over, measure)
        label_panel(panel, measure.title, over.replace("_", " "), measure.unit)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2 * len(panels)
    )
    return figure


def _over(panel: Axes, rows: Rows, option: str, measure: _Measure) -> None:
    """Draw median, range and each network; what is not finite stands above, by its word."""
    found = measure.factor * values(rows, measure.key)
    finite = np.isfinite(found)
    never = np.inf if finite.all() else 2 * found[finite].max() if finite.any() else 1.0
    shown = np.where(finite, found, never)
    each, at = np.unique([row[option] for row in rows], return_inverse=True)  # evenly spaced
    lost = np.array([row["diverged_in_epoch"] is not None for row in rows])
    names = np.array([row["network"] for row in rows])
    for shift, (name, label) in zip((-0.05, 0.05), LABELS.items(), strict=True):
        mine, colour, places = names == name, COLOURS[name], np.arange(len(each))
        of_each = [np.sort(shown[mine & (at == place)]) for place in places]
        low, high = (np.array([column[end] for column in of_each]) for end in (0, -1))
        middle = np.array([column[(len(column) - 1) // 2] for column in of_each])
        reached = middle < never  # no line leads to where nothing was measured
        line = np.where(reached, middle, np.nan)
        panel.plot(places, line, "o-", linewidth=2, color=colour, label=f"{label}: median, range")
        panel.fill_between(places, low, high, where=reached, alpha=0.15, linewidth=0, color=colour)
        sound, gone = mine & ~lost, mine & lost
        panel.plot(at[sound] + shift, shown[sound], "o", markersize=3, alpha=0.6, color=colour)
        if gone.any():
            label = f"{'BN' if name == 'bn' else 'BL'} diverged"
            style = {"markersize": 8, "markeredgewidth": 2, "color": colour, "label": label}
            panel.plot(at[gone] + shift, shown[gone], "x", **style)
    if not finite.all():
        panel.axhline(never, color="0.6", linewidth=1, linestyle=":")
        panel.annotate(measure.beyond, (0, never), color="0.3", va="bottom")
    panel.set_xticks(range(len(each)), [f"{one:g}" for one in each])
    if panel.get_yscale() == "log":
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        panel.yaxis.set_minor_locator(NullLocator())


def _maps(rows: Rows, measures: Sequence[_Measure], varied: str) -> Figure:
    """Draw a map of each measure and network over the varied option and the learning rate."""
    across, up = (sorted({row[key] for row in rows}) for key in (varied, "learning_rate"))
    groups = {
        name: grouped([row for row in rows if row["network"] == name], varied) for name in LABELS
    }
    size = 2.2 + 1.3 * len(across), len(measures) * (1.3 + 0.42 * len(up))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(measures), len(LABELS), squeeze=False, sharex=True, sharey=True)
    for line, measure in zip(panels, measures, strict=True):
        found = {
            name: np.array([[median(of[a, b], measure.key) for a in across] for b in up])
            for name, of in groups.items()
        }
        quality = _qualities(list(found.values()), measure)
        for panel, name, share in zip(line, LABELS, quality, strict=True):
            panel.imshow(share, cmap=_MAP, vmin=0, vmax=1.2, origin="lower", aspect="auto")
            for (row, column), value in np.ndenumerate(measure.factor * found[name]):
                text = format(value, measure.shape) if np.isfinite(value) else measure.beyond
                of_cell = groups[name][across[column], up[row]]
                text += " ×" * any(one["diverged_in_epoch"] is not None for one in of_cell)
                colour = "1" if share[row, column] > 0.6 else "0.15"
                panel.annotate(
                    text, (column, row), ha="center", va="center", fontsize=8, color=colour
                )
            panel.set_title(f"{LABELS[name]}: {measure.title}", fontsize=10)
            panel.set_xticks(range(len(across)), [f"{one:g}" for one in across])
            panel.set_yticks(range(len(up)), [f"{one:g}" for one in up])
        line[0].set_ylabel("learning rate")
    for panel in panels[-1]:
        panel.set_xlabel(varied.replace("_", " "))
    return figure


def _qualities(medians: Sequence[np.ndarray], measure: _Measure) -> Sequence[np.ndarray]:
    """Return how good each median is, from 0 to 1; NaN where it is not finite."""
    if measure is _ACCURACY:
        return medians
    costs = [np.where(np.isfinite(each) & (each > 0), each, np.nan) for each in medians]
    logs = np.log(costs)
    if np.isnan(logs).all():
        return costs
    low, high = np.nanmin(logs), np.nanmax(logs)
    return 1 - (logs - low) / max(high - low, 1e-9)
