"""What was learnt (BL.6), and what is wrong in which layer."""

import math
from collections.abc import Sequence

from bnjax import geometry
from bnjax.report.drawing import Chart, Charts, Line
from bnjax.report.finding import Finding, register, register_of_curves
from bnjax.report.subject import Subject
from bnjax.report.words import capital, listed, number, sentence, times

_TARGET = 0.95


@register_of_curves
def curves(subjects: Sequence[Subject]) -> Finding | None:
    """Return how far each came, and how soon."""
    ends, figures, reached = [], {}, {}
    for one in subjects:
        steps, cost = one.curves["training cost"]
        figures[one.name] = {"steps": int(steps[-1]), "cost": float(cost[-1])}
        after = f"after {int(steps[-1]):,} mini-batches"
        name = one.title or "the network"
        if not math.isfinite(cost[-1]):
            ends.append(f"{name} diverged: its cost is not finite any more")
        elif "test accuracy" in one.curves:
            _, accuracy = one.curves["test accuracy"]
            figures[one.name]["test_accuracy"] = float(accuracy[-1])
            ends.append(f"{name} gets {100 * accuracy[-1]:.1f} % of the test samples right {after}")
            enough = steps[accuracy >= _TARGET]
            reached[name] = figures[one.name]["steps_to_95"] = (
                int(enough[0]) if len(enough) else None
            )
        else:
            _, test = one.curves["test cost"]
            figures[one.name]["test_cost"] = float(test[-1])
            ends.append(f"{name} has a test cost of {number(float(test[-1]))} {after}")
    return Finding(
        "curves",
        "What was learnt",
        "",
        " ".join([sentence("; ".join(ends)), *_how_soon(reached)]),
        tags=("BL.6", "BN.3"),
        figures=figures,
        strength=10.0,
        pictures=tuple(_pictures(subjects)),
    )


def _how_soon(reached: dict[str, int | None]) -> list[str]:
    """Say which network was there first, and how much longer the others took."""
    there = {name: steps for name, steps in reached.items() if steps is not None}
    never = [name for name, steps in reached.items() if steps is None]
    if not there:
        return ["None of them reached 95 %."] * (len(reached) > 1)
    ordered = sorted(there, key=there.__getitem__)
    first, last = ordered[0], ordered[-1]
    said = [f"{capital(first)} was at 95 % after {there[first]:,} mini-batches."]
    ratio = there[last] / there[first]
    if len(there) > 1:
        said.append(
            f"{capital(last)} needed {there[last]:,}, {times(ratio)} as many."
            if ratio > 1
            else f"So was {last}."
        )
    if never:
        said.append(sentence(f"{listed(never)} never got there"))
    return said


def _pictures(known: Sequence[Subject]) -> list[Charts]:
    """Draw each curve, that of all in one chart."""
    drawn = []
    for name in dict.fromkeys(name for one in known for name in one.curves):
        percent = name == "test accuracy"
        lines = tuple(
            Line(
                one.curves[name].steps,
                one.curves[name].values * (100 if percent else 1),
                one.title,
                color=one.color,
            )
            for one in known
            if name in one.curves
        )
        y, limits = ("correct, %", (0.0, 101.0)) if percent else ("cost per sample", None)
        chart = Chart(name, known[0].color, lines)
        caption = f"{name.capitalize()} after each epoch."
        drawn.append(Charts(caption, (chart,), "mini-batches", y, log=not percent, limits=limits))
    return drawn


@register
def wrong(subjects: Sequence[Subject]) -> Finding | None:
    """Return what is wrong with which layers, what that means, and what to do."""
    says, items, advice, figures = [], {}, {}, {}
    for one in subjects:
        places = {name: at for at, name in enumerate(one.recording.names)}
        of_fault: dict[str, list[geometry.Found]] = {}
        for found in geometry.faults(one.recording):
            of_fault.setdefault(found.fault.name, []).append(found)
        for name, those in of_fault.items():
            worst = max(those, key=lambda found: found.figure)
            where = one.layers([places[found.layer] for found in those])
            of = f" of {one.title}" if one.title else ""
            which = f"at worst, in {one.layer(places[worst.layer])}, " if those[1:] else ""
            text = f"{worst.sentence[0].lower()}{worst.sentence[1:]}"
            says.append(f"{capital(where)}{of}: {which}{text}")
            key = f"{name}{one.inside}"
            first = f"{says[-1]} " if len(says) > 3 else ""
            items[capital(key)] = f"{first}{worst.fault.meaning}"
            advice[name] = f"{capital(name)}: {worst.fault.advice}"
            figures[key] = {found.layer: found.figure for found in those}
    if not items:
        return None
    more = [f"And {len(says) - 3} more."] if len(says) > 3 else []
    return Finding(
        "wrong",
        "What is wrong",
        "",
        " ".join([*says[:3], *more]),
        items=items,
        advice=tuple(advice.values()),
        figures=figures,
        strength=9.0,
    )
