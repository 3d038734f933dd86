"""A finding about one quantity of the layers: what it is, its extreme, its chart, in one place."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnjax.report.drawing import Charts, over_layers
from bnjax.report.finding import Finding
from bnjax.report.subject import Peak, Subject, peak, ratio_of
from bnjax.report.words import number, sentence, times

Values = Callable[[Subject], np.ndarray]


@dataclass(frozen=True)
class Quantity:
    """A quantity of each layer at each look; called with subjects it is a finding.

    Attributes:
        name: As of a `Finding`, as are title, measure and tags.
        title: As above.
        measure: As above.
        tags: As above.
        values: Of a subject the figures, (K, L); NaN where a layer has none.
        says: A sentence on the extreme, with {place}, {when}, {value} and {last} (", and ... at the
            last look", or nothing).
        y: What the chart's axis measures.
        none: What is said instead where all figures are 0, with {inside}.
        order: What makes a figure extreme: the largest is.
        at_end: Whether the last look alone counts.
        write: Makes a figure text.
        detail: More to say.
        compared: Whether two networks of as many layers are compared, as "{noun} was ...".
        strength: Of the peaks found.
        chart: `over_layers` or `over_time`.
        drawn: What is drawn, if not `values`.
        caption: Of the chart, if it says more than the title.
        axes: More for the chart: log, limits, level.
    """

    name: str
    title: str
    measure: str
    tags: tuple[str, ...]
    values: Values
    says: str
    y: str
    none: str = ""
    order: Callable[[np.ndarray], np.ndarray] = np.asarray
    at_end: bool = False
    write: Callable[[float], str] = number
    detail: Callable[[Sequence[Subject]], str] | None = None
    compared: str = ""
    strength: Callable[[Sequence[Peak]], float] = lambda peaks: 0.0
    chart: Callable[..., tuple[Charts, ...]] = over_layers
    drawn: Values | None = None
    caption: str = ""
    axes: dict[str, Any] = field(default_factory=dict)

    def __call__(self, subjects: Sequence[Subject]) -> Finding | None:
        """Return what is to be said of these; nothing where no figure is known."""
        of: dict[str, tuple[Subject, Peak]] = {}
        for one in subjects:
            values = self.values(one)
            values[: -1 if self.at_end else 0] = np.nan
            if (found := peak(values, self.order(values))) is not None:
                of[one.name] = one, found
        if not of:
            return None
        known, peaks = [one for one, _ in of.values()], [found for _, found in of.values()]
        says = [self._say(one, found) for one, found in of.values()]
        extreme = max(of.values(), key=lambda pair: float(self.order(np.array(pair[1].value))))
        step = int(extreme[0].recording.steps[extreme[1].look])
        strength = self.strength(peaks)
        figures: dict[str, Any] = {name: self._figures(*pair) for name, pair in of.items()}
        if self.compared and len(known) > 1 and (found := self._compare(known[0], known[1])):
            says = [found[0]]
            figures["compared"] = found[1]
            step = found[1]["step"]
            strength = max(strength, float(farthest(np.array(found[1]["ratio"]))) - 0.3)
        return Finding(
            self.name,
            self.title,
            self.measure,
            " ".join(dict.fromkeys(says)),
            "" if self.detail is None else self.detail(known),
            tags=self.tags,
            figures=figures,
            strength=strength,
            pictures=self.chart(
                known,
                self.drawn or self.values,
                self.caption,
                self.y,
                step,
                **self.axes,
            ),
        )

    def _say(self, one: Subject, found: Peak) -> str:
        if self.none and found.value == 0:
            return self.none.format(inside=one.inside)
        later = found.look + 1 < len(one.recording.steps)
        end = "none" if math.isnan(found.last) else self.write(found.last)
        return sentence(
            self.says.format(
                place=one.place(found.layer),
                when=one.when(found.look),
                value=self.write(found.value),
                last=f", and {end} at the last look" if later else "",
            )
        )

    def _figures(self, one: Subject, found: Peak) -> dict[str, Any]:
        step = int(one.recording.steps[found.look])
        return {"layer": found.layer, "step": step, "value": found.value, "last": found.last}

    def _compare(self, a: Subject, b: Subject) -> tuple[str, dict[str, Any]] | None:
        """Say where two networks of as many layers differ most."""
        steps, in_a, in_b = np.intersect1d(
            a.recording.steps, b.recording.steps, return_indices=True
        )
        if a.count != b.count or not len(steps):
            return None
        ratio = ratio_of(self.values(b)[in_b], self.values(a)[in_a])
        found = peak(ratio, farthest(ratio))
        if found is None:
            return None
        figures = {"layer": found.layer, "step": int(steps[found.look])}
        figures |= {"ratio": found.value, "ratio_at_end": found.last}
        if 0.5 < found.value < 2:
            text = f"{self.compared} differed by less than a factor of 2 in every layer at any look"
            return sentence(text), figures
        where = f"in {b.layer(found.layer)} {self.compared}"
        text = f"{b.when(in_b[found.look])}, {where} were {_larger(found.value, a, b)}"
        if found.look + 1 < len(steps) and not math.isnan(found.last):
            text += f"; at the last look they are {_larger(found.last, a, b)}"
        return sentence(text), figures


def _larger(ratio: float, a: Subject, b: Subject) -> str:
    if 0.95 < ratio < 1.05:
        return "as large in both"
    large, small = (b, a) if ratio >= 1 else (a, b)
    return f"{times(max(ratio, 1 / ratio))} as large in {large.title} as in {small.title}"


def farthest(figures: np.ndarray) -> np.ndarray:
    """Return how far ratios are from 1, in orders of magnitude."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(np.log10(figures))


def apart(peaks: Sequence[Peak]) -> float:
    """Return how far the extremes of several subjects are apart, in orders of magnitude."""
    values = [found.value for found in peaks if found.value > 0]
    return math.log10(max(values) / min(values)) if len(values) > 1 else 0.0
