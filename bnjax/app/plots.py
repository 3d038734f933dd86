"""The pictures of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LABELS = {"baseline": "baseline (BL)", "bn": "batch normalization (BN)"}
COLOURS = {"baseline": "#b5541c", "bn": "#1c5cb5"}  # told apart in grey, too


def curves(
    path: Path, metrics: Mapping[str, Sequence[Mapping[str, Any]]], *, data: str, cost: str
) -> None:
    """Draw cost and test accuracy (test cost, for regression) over steps, both networks."""
    unit = "cost per sample" + (", nats" if cost.endswith("cross_entropy") else "")
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, lines in metrics.items():
        steps = [line["step"] for line in lines]
        style = {"label": LABELS[name], "color": COLOURS[name], "linewidth": 2}
        left.plot(steps, [_number(line["cost"]) for line in lines], **style)
        if lines[0]["test_accuracy"] is None:
            right.plot(steps, [_number(line["test_cost"]) for line in lines], **style)
        else:
            right.plot(steps, [100 * line["test_accuracy"] for line in lines], **style)
    left.set_yscale("log")
    _finish(left, "training cost (mean over the epoch's batches)", unit)
    if next(iter(metrics.values()))[0]["test_accuracy"] is None:
        right.set_yscale("log")
        _finish(right, "test cost", unit)
    else:
        right.axhline(95, color="0.6", linewidth=1, linestyle=":")
        right.set_ylim(0, 101)
        _finish(right, "test accuracy", "correct, %")
    figure.suptitle(f"{data}: learning with and without batch normalization")
    figure.savefig(path, dpi=150)


def inputs(
    path: Path, percentiles: Mapping[str, np.ndarray], *, steps_per_epoch: int, activation: str
) -> None:
    """Draw figure 1 (b, c) of Ioffe & Szegedy 2015 on this run's data.

    Args:
        path: Where the picture goes.
        percentiles: Per network (epochs + 1, 3, n): the 15th, 50th and 85th percentile of what
            each neuron of the last hidden layer is fed with, before training and after each epoch.
        steps_per_epoch: Updates in an epoch.
        activation: Its name.
    """
    figure = Figure(figsize=(5 * len(percentiles), 4.2), layout="constrained")
    panels = figure.subplots(1, len(percentiles), squeeze=False, sharey=True)[0]
    for panel, (name, history) in zip(panels, percentiles.items(), strict=True):
        neuron = _typical(history)
        low, middle, high = history[:, :, neuron].T
        steps = steps_per_epoch * np.arange(len(history))
        panel.fill_between(steps, low, high, color=COLOURS[name], alpha=0.2, linewidth=0)
        for values, label, style in (
            (high, "85th", "--"),
            (middle, "50th", "-"),
            (low, "15th", ":"),
        ):
            panel.plot(steps, values, style, color=COLOURS[name], linewidth=2, label=label)
        _finish(panel, f"{LABELS[name]}, neuron {neuron}", f"input of the {activation}")
        panel.legend(title="percentile", loc="best", framealpha=0.9)
    panels[0].figure.suptitle(
        f"What one typical {activation} of the last hidden layer is fed with, over training"
    )
    figure.savefig(path, dpi=150)


def _typical(history: np.ndarray) -> int:
    """Choose the neuron whose spread at the end is the median of its layer's."""
    spread = history[-1, 2] - history[-1, 0]
    return int(np.argsort(spread)[len(spread) // 2])


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("step (mini-batches)")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    axes.legend()
