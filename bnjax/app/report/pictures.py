"""The pictures of a run."""

from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    set_title(figure, f"{data}: learning with and without batch normalization")
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
    set_title(figure, f"What one {activation} of the last hidden layer is fed with, over training")
    figure.savefig(file, format="png", dpi=150)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def set_title(figure: Figure, text: str) -> None:
    """Set the title of a whole figure."""
    # the name of a file may hold anything: no formula, and no half of a character
    figure.suptitle(text.encode("utf-8", "backslashreplace").decode(), parse_math=False)


def _finish(axes: Axes, title: str, unit: str) -> None:
    label_panel(axes, title, "step (mini-batches)", unit)
    axes.legend()


def label_panel(axes: Axes, title: str, over: str, unit: str) -> None:
    """Set a panel's title and the names of its axes."""
    axes.set_title(title)
    axes.set_xlabel(over)
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
