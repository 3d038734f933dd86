"""What a sweep found: each network at its best, and a table for a person."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from bnjax.app.io.terminal import console as make_console
from bnjax.app.report.tables import STEPS_TO_TARGET
from bnjax.app.run.networks import TITLES
from bnjax.report.words import times

Row = Mapping[str, Any]
Setting = tuple[float, ...]  # the value of what is varied, if anything is, and the learning rate


def best(rows: Sequence[Row], varied: str | None) -> dict[str, dict[str, float | None]]:
    """Return for each network the setting that needs the fewest steps to 95 %, by the median.

    Where none gets there, or there are no classes, it is the setting with the highest accuracy, or
    the lowest test cost.

    Args:
        rows: One per network: network, learning_rate, the varied option, seed,
            final_test_accuracy (None: no classes), final_test_cost, steps_to_95 (None: never) and
            diverged_in_epoch (None: not).
        varied: The option that is varied beside the learning rate, if any.
    """
    found = {}
    for name in dict.fromkeys(row["network"] for row in rows):
        mine = grouped([row for row in rows if row["network"] == name], varied)
        setting = min(mine, key=lambda setting: _rank(mine[setting]))
        of_setting = mine[setting]
        steps, accuracy = (
            median(of_setting, key) for key in ("steps_to_95", "final_test_accuracy")
        )
        found[name] = {
            **({} if varied is None else {varied: setting[0]}),
            "learning_rate": setting[-1],
            "steps_to_95": steps if np.isfinite(steps) else None,
            "final_test_accuracy": accuracy if np.isfinite(accuracy) else None,
            "final_test_cost": median(of_setting, "final_test_cost"),
        }
    return found


def grouped(rows: Sequence[Row], varied: str | None) -> dict[Setting, list[Row]]:
    """Group one kind of network by setting, the settings in order."""
    keys = ("learning_rate",) if varied is None else (varied, "learning_rate")
    groups: dict[Setting, list[Row]] = {}
    for row in sorted(rows, key=lambda row: [row[key] for key in keys]):
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def values(rows: Sequence[Row], key: str) -> np.ndarray:
    """Return a figure of each network; infinite where it is never reached or not finite."""
    found = np.array([np.inf if row[key] is None else row[key] for row in rows], float)
    return np.where(np.isfinite(found), found, np.inf)


def median(rows: Sequence[Row], key: str) -> float:
    """Return a figure's median over networks: one that was there, as "never" has no mean."""
    return float(np.percentile(values(rows, key), 50, method="lower"))


def show(result: dict[str, Any]) -> None:
    """Print what a sweep found for a person, on stdout: medians over the seeds."""
    console = make_console(soft_wrap=True)
    rows, varied, classify = result["networks"], result["varied"], bool(result["classes"])
    several = varied is not None and len({row["learning_rate"] for row in rows}) > 1
    of_rates = f", each {varied} with its best learning rate" if several else ""
    console.print(f"data: {result['data']}; median (least–most) over the seeds{of_rates}")
    table = Table("network")
    titles = ["test accuracy", STEPS_TO_TARGET] if classify else ["test cost"]
    for title in (*([] if varied is None else [varied]), "rate", *titles, "diverged"):
        table.add_column(title, justify="right")
    for name in dict.fromkeys(row["network"] for row in rows):
        groups = grouped([row for row in rows if row["network"] == name], varied)
        for setting, of_setting in (_best_rates(groups) if several else groups).items():
            lost = sum(row["diverged_in_epoch"] is not None for row in of_setting)
            cells = [f"{number:g}" for number in setting] + _figures(of_setting, classify)
            table.add_row(name, *cells, f"{lost} of {len(of_setting)}" if lost else "")
    console.print(table)
    for line in comparisons(result):
        console.print(line)
    console.print(f"{result['how']}")
    console.print(f"{result['device']}, {result['seconds']:.1f} s, folder {result['out']}")


def comparisons(result: Mapping[str, Any]) -> list[str]:
    """Say how many steps each network needs: at its best, and from the same initial weights."""
    rows, varied, found = result["networks"], result["varied"], result["best"]
    # steps of batches or of training sets of other sizes are not the same steps
    if not result["classes"] or varied not in (None, "init_scale"):
        return []
    if varied is None:
        return [f"each at its best, from the same initial weights: {_compare(found, varied)}"]
    lines = [f"each at its best: {_compare(found, varied)}"]
    own = float(result["options"]["init_scale"])
    if same := [row for row in rows if row[varied] == own]:
        lines.append(f"from the same initial weights: {_compare(best(same, varied), varied)}")
    return lines


def _compare(found: Mapping[str, Mapping[str, float | None]], varied: str | None) -> str:
    """Say after how many steps each network is at 95 %, and which needs more."""
    parts, steps = [], {}
    for name, figures in found.items():
        keys = ("learning_rate",) if varied is None else (varied, "learning_rate")
        where = ", ".join(f"{key.replace('_', ' ')} {figures[key]:g}" for key in keys)
        steps[name] = figures["steps_to_95"] or np.inf
        after = (
            f"at 95 % after {steps[name]:,.0f} steps"
            if np.isfinite(steps[name])
            else "never at 95 %"
        )
        parts.append(f"{TITLES[name]} {after} ({where})")
    text = "; ".join(parts)
    slow, fast = sorted(steps, key=lambda name: -steps[name])
    if np.isfinite(steps[slow]) and steps[slow] > steps[fast]:
        text += f"; {TITLES[slow]} needs {times(steps[slow] / steps[fast])} as many"
    return text


def _best_rates(groups: Mapping[Setting, list[Row]]) -> dict[Setting, list[Row]]:
    """Keep the best learning rate of each value of what is varied."""
    found: dict[float, Setting] = {}
    for setting in sorted(groups, key=lambda setting: _rank(groups[setting])):
        found.setdefault(setting[0], setting)
    return {setting: groups[setting] for setting in sorted(found.values())}


def _rank(rows: Sequence[Row]) -> tuple[float, float, float]:
    """Return what is smaller for a better setting."""
    accuracy = median(rows, "final_test_accuracy")
    return (
        median(rows, "steps_to_95"),
        -accuracy if np.isfinite(accuracy) else 0.0,
        median(rows, "final_test_cost"),
    )


def _figures(rows: Sequence[Row], classify: bool) -> list[str]:
    if not classify:
        return [_spread(values(rows, "final_test_cost"), ".4g").replace("inf", "not finite")]
    return [
        _spread(values(rows, "final_test_accuracy"), ".1%"),
        _spread(values(rows, "steps_to_95"), ",.0f").replace("inf", "never"),
    ]


def _spread(found: np.ndarray, shape: str) -> str:
    figures = (np.percentile(found, 50, method="lower"), found.min(), found.max())
    middle, low, high = (format(figure, shape) for figure in figures)
    return middle if low == high else f"{middle} ({low}–{high})"
