"""What the layers compute: γ, flat activations (BL.9), how much neurons differ (G.1)."""

from collections.abc import Sequence

import numpy as np

from bnjax import geometry
from bnjax.report.drawing import Chart, Charts, Line, over_layers
from bnjax.report.finding import Finding, register
from bnjax.report.subject import Subject, peak
from bnjax.report.words import number, share


@register()
def gamma(subjects: Sequence[Subject]) -> Finding | None:
    """Return what the factors γ have become."""
    parts, figures = [], {}
    for one in subjects:
        sizes = one.figures("gamma")[-1:]
        if not np.isfinite(sizes).any():
            continue
        large, small = int(np.nanargmax(sizes)), int(np.nanargmin(sizes))
        figures[one.name] = {"largest": large, "smallest": small, "sizes": sizes[0].tolist()}
        parts.append(
            f"At the last look{one.inside} γ is largest in {one.layer(large)} "
            f"({number(sizes[0, large])}) and smallest in {one.layer(small)} "
            f"({number(sizes[0, small])})."
        )
    if not parts:
        return None
    return Finding(
        "gamma",
        "What γ has become",
        "A normalized neuron's output is γ x̂ + β: γ is the size that it is given, and 0 switches "
        "it off. It begins as 1, as a rule. The figures are root mean squares over a layer's "
        "neurons.",
        " ".join(parts),
        tags=("BN.3",),
        figures=figures,
        pictures=over_layers(
            [one for one in subjects if one.name in figures],
            lambda one: one.figures("gamma"),
            "Typical size of γ in each normalized layer.",
            "γ, root mean square",
        ),
    )


@register()
def activations(subjects: Sequence[Subject]) -> Finding | None:
    """Return where activations are flat, and what they are fed with (BL.9, BN.3)."""
    parts, figures, most = [], {}, 0.0
    for one in subjects:
        found = peak(one.figures("saturated")[-1:])
        if found is None:
            continue
        at, spread = found.layer, one.figures("percentiles")[-1]
        figures[one.name] = {"layer": at, "saturated_at_end": found.value}
        # flat on one side only, as ReLU: half of it is what one expects
        if one.figures("bounded")[-1, at] != 0:
            most = max(most, found.value)
        text = (
            f"At the last look {share(found.value)} of the outputs of {one.place(at)} are where "
            "the activation is flat, the most"
        )
        if spread.ndim > 1:
            text += f"; the middle half of its inputs is between {number(spread[at, 1])} and "
            text += number(spread[at, 3])
        parts.append(f"{text}.")
    if not parts:
        return None
    known = [one for one in subjects if one.name in figures]
    return Finding(
        "activations",
        "Where activations are flat",
        "An activation, such as the sigmoid or ReLU, passes the error on times its slope: where it "
        f"is nearly flat, with a slope under {geometry.SATURATED}, hardly any error passes. Of "
        "ReLU half is flat by design.",
        " ".join(parts),
        tags=("BL.9", "BN.3"),
        figures=figures,
        strength=2 * most if most > 0.25 else 0.0,
        pictures=over_layers(
            known,
            lambda one: 100 * one.figures("saturated"),
            "Share of a layer's outputs at which the activation is flat.",
            "flat, %",
        )
        + _inputs(known),
    )


def _inputs(known: Sequence[Subject]) -> tuple[Charts, ...]:
    """Draw what activations are fed with at the last look: median, middle half, 90 %."""
    charts = []
    for one in known:
        if (spread := one.figures("percentiles")).ndim < 3:
            continue
        p5, p25, p50, p75, p95 = spread[-1].T
        at = np.arange(one.count)
        lines = (
            Line(at, p50, "median and 90 %", 1.0, "-o", p5, p95),
            Line(at, p50, "middle half", 1.0, "-", p25, p75),
        )
        charts.append(Chart(one.title, one.color, lines))
    caption = "What activations are fed with at the last look, over all neurons and samples."
    x, y = "layer, from input to output", "input of the activation"
    return (Charts(caption, tuple(charts), x, y),) * bool(charts)


@register()
def directions(subjects: Sequence[Subject]) -> Finding | None:
    """Return how far the neurons of a layer say the same (G.1)."""
    parts, figures, fewest = [], {}, []
    for one in subjects:
        course = one.figures("directions")
        course = np.where(course > 0, course, np.nan)
        found = peak(course, -course)
        if found is None:
            continue
        fewest.append(found.value)
        figures[one.name] = {
            "layer": found.layer,
            "step": int(one.recording.steps[found.look]),
            "fewest": found.value,
            "at_end": found.last,
        }
        last = "none, as none varies" if np.isnan(found.last) else number(found.last)
        parts.append(
            f"The outputs of {one.place(found.layer)} came to {number(found.value)} directions "
            f"{one.when(found.look)}, the fewest, and to {last} at the last look."
        )
    if not parts:
        return None
    return Finding(
        "directions",
        "How many different things a layer says",
        "Neurons that rise and fall together from sample to sample say the same. The effective "
        "number of directions, n²/Σ Corr² over all pairs of a layer's n outputs, is 1 if all do, "
        "and n if no two are correlated.",
        " ".join(parts),
        tags=("G.1",),
        figures=figures,
        strength=float(np.log10(max(fewest) / min(fewest))) if len(fewest) > 1 else 0.0,
        pictures=over_layers(
            [one for one in subjects if one.name in figures],
            lambda one: one.figures("directions"),
            "Effective number of directions of each layer's outputs.",
            "directions",
        ),
    )
