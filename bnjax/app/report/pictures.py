"""The pictures of a run."""

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from bnjax.app.run.metrics import TARGET_ACCURACY, Line

LABELS = {"baseline": "baseline (BL)", "bn": "batch normalization (BN)"}
COLOURS = {"baseline": "#b5541c", "bn": "#1c5cb5"}  # told apart in grey, too


def curves(file: BinaryIO, metrics: Mapping[str, Sequence[Line]], *, data: str, cost: str) -> None:
    """Draw cost and test accuracy (test cost, for regression) over steps, both networks."""
    unit = "cost per sample" + (", nats" if cost.endswith("cross_entropy") else "")
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, lines in metrics.items():
        steps = [line["step"] for line in lines]
        style = {"label": LABELS[name], "color": COLOURS[name], "linewidth": 2}
        left.plot(steps, [line["cost"] for line in lines], **style)
        if lines[0]["test_accuracy"] is None:
            right.plot(steps, [line["test_cost"] for line in lines], **style)
        else:
            right.plot(steps, [100 * _number(line["test_accuracy"]) for line in lines], **style)
    left.set_yscale("log")
    _finish(left, "training cost (mean over the epoch's batches)", unit)
    if next(iter(metrics.values()))[0]["test_accuracy"] is None:
        right.set_yscale("log")
        _finish(right, "test cost", unit)
    else:
        right.axhline(100 * TARGET_ACCURACY, color="0.6", linewidth=1, linestyle=":")
        right.set_ylim(0, 101)
        _finish(right, "test accuracy", "correct, %")
    _title(figure, f"{data}: learning with and without batch normalization")
    figure.savefig(file, format="png", dpi=150)


def inputs(file: BinaryIO, metrics: Mapping[str, Sequence[Line]], *, activation: str) -> None:
    """Draw figure 1 (b, c) of Ioffe & Szegedy 2015 on this run's data, from its metrics."""
    figure = Figure(figsize=(5 * len(metrics), 4.2), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for panel, (name, lines) in zip(panels, metrics.items(), strict=True):
        seen = [(line["step"], line["inputs"]) for line in lines if "inputs" in line]
        if not seen:  # a run of before the lines held them
            continue
        neuron = seen[0][1]["neuron"]
        steps = [step for step, _ in seen]
        low, middle, high = np.array([found["percentiles"] for _, found in seen], float).T
        panel.fill_between(steps, low, high, color=COLOURS[name], alpha=0.2, linewidth=0)
        for values, label, style in (
            (high, "85th", "--"),
            (middle, "50th", "-"),
            (low, "15th", ":"),
        ):
            panel.plot(steps, values, style, color=COLOURS[name], linewidth=2, label=label)
        _finish(panel, f"{LABELS[name]}, neuron {neuron}", f"input of the {activation}")
        panel.legend(title="percentile", loc="best", framealpha=0.9)
    _title(figure, f"What one {activation} of the last hidden layer is fed with, over training")
    figure.savefig(file, format="png", dpi=150)


def sweep(file: BinaryIO, rows: Sequence[Mapping[str, Any]], *, data: str, classify: bool) -> None:
    """Draw what became of each network of a sweep over its learning rate.

    Args:
        file: Where the picture goes.
        rows: One per network: network, learning_rate, seed, final_test_accuracy, final_test_cost,
            steps_to_95 (None: never) and diverged_in_epoch (None: not).
        data: Its name.
        classify: Whether there are classes; otherwise test costs are drawn.
    """
    if classify:
        measures = {
            "final test accuracy": ("correct, %", [100 * r["final_test_accuracy"] for r in rows]),
            "steps to 95 % test accuracy": (
                "steps (mini-batches)",
                [np.inf if r["steps_to_95"] is None else r["steps_to_95"] for r in rows],
            ),
        }
    else:
        measures = {"final test cost": ("cost per sample", [r["final_test_cost"] for r in rows])}
    figure = Figure(figsize=(2 + 4.5 * len(measures), 4.6), layout="constrained")
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for panel, (title, (unit, values)) in zip(panels, measures.items(), strict=True):
        panel.set_xscale("log")
        if title == "final test accuracy":
            panel.set_ylim(0, 101)
        else:
            panel.set_yscale("log")
        beyond = "never" if title.startswith("steps") else "not finite"
        _over_rates(panel, rows, np.asarray(values, float), beyond)
        _label(panel, title, "learning rate", unit)
    seeds = len({row["seed"] for row in rows})
    over = f"{seeds} seeds" if seeds > 1 else "1 seed"
    _title(figure, f"{data}: with and without batch normalization, {over}")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2 * len(panels)
    )
    figure.savefig(file, format="png", dpi=150)


def _over_rates(
    panel: Axes, rows: Sequence[Mapping[str, Any]], values: np.ndarray, beyond: str
) -> None:
    """Draw median, range and each network; what is not finite stands above, as `beyond`."""
    finite = np.isfinite(values)
    never = np.inf if finite.all() else 2 * values[finite].max() if finite.any() else 1.0
    shown = np.where(finite, values, never)
    rates = np.array([row["learning_rate"] for row in rows])
    lost = np.array([row["diverged_in_epoch"] is not None for row in rows])
    names = np.array([row["network"] for row in rows])
    for shift, (name, label) in zip((0.97, 1.03), LABELS.items(), strict=True):
        mine = names == name
        colour = COLOURS[name]
        each = np.unique(rates[mine])
        of_rate = [np.sort(shown[mine & (rates == rate)]) for rate in each]
        low, high = (np.array([column[end] for column in of_rate]) for end in (0, -1))
        middle = np.array([column[(len(column) - 1) // 2] for column in of_rate])
        reached = middle < never  # no line leads to where nothing was measured
        line = np.where(reached, middle, np.nan)
        panel.plot(each, line, "o-", linewidth=2, color=colour, label=f"{label}: median, range")
        panel.fill_between(each, low, high, where=reached, alpha=0.15, linewidth=0, color=colour)
        sound = mine & ~lost
        panel.plot(shift * rates[sound], shown[sound], "o", markersize=3, alpha=0.6, color=colour)
        if (gone := mine & lost).any():
            short = "BN" if name == "bn" else "BL"
            panel.plot(
                shift * rates[gone],
                shown[gone],
                "x",
                markersize=8,
                markeredgewidth=2,
                color=colour,
                label=f"{short} diverged",
            )
    if not finite.all():
        panel.axhline(never, color="0.6", linewidth=1, linestyle=":")
        panel.annotate(beyond, (rates.min(), never), color="0.3", va="bottom")
    ticks = np.unique(rates)
    panel.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
    panel.xaxis.set_minor_locator(NullLocator())
    if panel.get_yscale() == "log":
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        panel.yaxis.set_minor_locator(NullLocator())


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _title(figure: Figure, text: str) -> None:
    # the name of a file may hold anything: no formula, and no half of a character
    figure.suptitle(text.encode("utf-8", "backslashreplace").decode(), parse_math=False)


def _finish(axes: Axes, title: str, unit: str) -> None:
    _label(axes, title, "step (mini-batches)", unit)
    axes.legend()


def _label(axes: Axes, title: str, over: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(over)
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
