"""The summary of a run: gathered, and shown to a person as tables."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table

from bnjax.app.io.terminal import console as make_console
from bnjax.app.run.config import device_name
from bnjax.app.run.metrics import TARGET_ACCURACY, epoch_seconds, steps_to_target
from bnjax.app.run.networks import TITLES
from bnjax.app.run.session import Session
from bnjax.network import NormDense
from bnjax.report.words import times

_UNKNOWN = {"samples_per_second": "needs 2 epochs"}
STEPS_TO_TARGET = f"steps to {TARGET_ACCURACY:.0%}".replace("%", " %")


def gather(session: Session) -> dict[str, Any]:
    """Gather what the run showed, ready for JSON."""
    options, data = session.options, session.data
    networks = {}
    for name, run in session.runs.items():
        if not run.metrics:
            continue
        accuracies = [a for line in run.metrics if (a := line["test_accuracy"]) is not None]
        test_costs = [line["test_cost"] for line in run.metrics]
        seconds = epoch_seconds(run.metrics)
        networks[name] = {
            "final_test_accuracy": accuracies[-1] if data.classes else None,
            "best_test_accuracy": max(accuracies) if data.classes else None,
            "steps_to_95": steps_to_target(run.metrics),
            "final_test_cost": test_costs[-1],
            "best_test_cost": float(np.nanmin(test_costs))
            if np.isfinite(test_costs).any()
            else None,
            "samples_per_second": None if seconds is None else len(data.x_train) / seconds,
            "steps": run.metrics[-1]["step"],
        }
    return {
        "data": {
            "name": data.name,
            "train_samples": len(data.x_train),
            "test_samples": len(data.x_test),
            "features": data.n_in,
            "classes": list(data.classes),
            "split": data.split,
            "scaling": data.scaling,
            "notes": list(data.notes),
        },
        "options": dataclasses.asdict(options),
        "learning_rate": options.resolved_learning_rate(),
        "batch_size": session.batch_size,
        "networks": networks,
        "gradient_difference": session.checks,
        "diverged": {name: found._asdict() for name, found in session.diverged.items()},
        "device": device_name(),
    }


def show(summary: dict[str, Any]) -> None:
    """Print the summary for a person, on stdout."""
    console = make_console(soft_wrap=True)
    data, networks = summary["data"], summary["networks"]
    classes = data["classes"]
    kind = f"{len(classes)} classes: {', '.join(classes)}" if classes else "regression"
    console.print(f"data: {data['name']}, {data['features']} features, {kind}")
    console.print(f"      {data['split']}; features {data['scaling']}")
    for note in data["notes"]:
        console.print(f"      {note}")
    table = Table("network")
    columns = {
        "final test accuracy": ("final_test_accuracy", ".1%"),
        "best": ("best_test_accuracy", ".1%"),
        STEPS_TO_TARGET: ("steps_to_95", ",d"),
    }
    if not classes:
        columns = {
            "final test cost": ("final_test_cost", ".4g"),
            "best": ("best_test_cost", ".4g"),
        }
    columns["samples/s"] = ("samples_per_second", ",.0f")
    for title in columns:
        table.add_column(title, justify="right")
    for name, figures in networks.items():
        cells = (
            _UNKNOWN.get(key, "never") if figures[key] is None else format(figures[key], shape)
            for key, shape in columns.values()
        )
        table.add_row(name, *cells)
    console.print(table)
    for line in comparison(summary):
        console.print(line)
    for name, figures in networks.items():
        for target, error in figures.get("test_error", {}).items():
            console.print(f"{name}: root mean square test error of {target}: {error:.4g}")
        if classes and "statistics" in figures:
            console.print(_statistics(figures["statistics"], summary["options"]["statistics"]))
        if figures.get("folded", {}).get("test_predictions_changed"):
            changed = figures["folded"]["test_predictions_changed"]
            console.print(f"folded.npz is not written: folding changes {changed} test predictions")
    if summary["gradient_difference"]:
        table = Table("gradients: by hand and by JAX differ by")
        for title in ("W", "γ", "β"):
            table.add_column(title, justify="right")
        for moment, differences in summary["gradient_difference"].items():
            table.add_row(moment, *(f"{differences[kind]:.1e}" for kind in NormDense._fields))
        console.print(table)
    console.print(f"{summary['device']}, {summary['seconds']:.1f} s, run folder {summary['out']}")


def comparison(summary: Mapping[str, Any]) -> list[str]:
    """Say which network needs more steps, and what the comparison holds for."""
    networks, options = summary["networks"], summary["options"]
    if len(networks) < 2:
        return []
    lines = []
    steps = {name: figures["steps_to_95"] for name, figures in networks.items()}
    slow, fast = sorted(steps, key=lambda name: steps[name] or np.inf, reverse=True)
    if steps[slow] and steps[slow] > steps[fast]:
        factor = times(steps[slow] / steps[fast])
        lines.append(f"{TITLES[slow]} needs {factor} as many steps to 95 % as {TITLES[fast]}")
    start = f"{options['initializer']}, scale {options['init_scale']:g}"
    lines += [
        f"both have the same initial weights ({start}) and learning rate "
        f"({summary['learning_rate']:g}), which may suit one of them better:",
        "bnjax sweep --vary init_scale=1,2,4 compares each at its best",
    ]
    return lines


def _statistics(kinds: dict[str, dict[str, float]], used: str) -> Table:
    """Lay out what each kind of statistics makes of the normalized network."""
    table = Table("bn, evaluated with")
    table.add_column("test accuracy", justify="right")
    table.add_column("percentage points against training mode", justify="right")
    for kind, figures in kinds.items():
        gap = figures.get("accuracy_gap")
        table.add_row(
            kind.replace("_", " ") + (" (used)" if kind == used else ""),
            f"{figures['test_accuracy']:.1%}",
            "" if gap is None else f"{-100 * gap + 0.0:+.1f}",
        )
    return table
