"""What the layers compute: γ, flat activations (BL.9), how much neurons differ (G.1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnjax import geometry
from bnjax.report.drawing import Chart, Charts, Line, over_layers
from bnjax.report.finding import register
from bnjax.report.quantity import Quantity, apart, farthest
from bnjax.report.subject import Subject
from bnjax.report.words import share

register(
    Quantity(
        "gamma",
        "What γ has become",
        "A normalized neuron's output is γ x̂ + β: γ is the size that it is given, and 0 switches "
        "it off. As a rule it begins as 1. The figures are root mean squares over a layer's "
        "neurons.",
        ("BN.3",),
        lambda one: one.figures("gamma"),
        "at the last look γ is {value} in {place}, the farthest from 1",
        "γ, root mean square",
        order=farthest,
        at_end=True,
        strength=lambda peaks: max(float(farthest(np.array(p.value))) for p in peaks) - 0.5,
    )
)


def _with_inputs(subjects: Sequence[Subject], *others: Any, **more: Any) -> tuple[Charts, ...]:
    """Draw beside the rest what activations are fed with at the last look, where that is known."""
    charts = []
    for one in subjects:
        if (spread := one.figures("percentiles")).ndim < 3:
            continue
        p5, p25, p50, p75, p95 = spread[-1].T
        at = np.arange(one.count)
        lines = (
            Line(at, p50, "median, 90 %", low=p5, high=p95),
            Line(at, p50, "middle half", low=p25, high=p75),
        )
        charts.append(Chart(one.title, one.color, lines))
    caption = "What activations are fed with at the last look, over all neurons and samples."
    inputs = Charts(
        caption, tuple(charts), "layer, from input to output", "input of the activation"
    )
    return over_layers(subjects, *others, **more) + (inputs,) * bool(charts)


register(
    Quantity(
        "activations",
        "Where activations are flat",
        "An activation, such as the sigmoid or ReLU, passes the error on times its slope: where it "
        f"is nearly flat, with a slope under {geometry.SATURATED}, hardly any error passes. Of "
        "ReLU half is flat by design.",
        ("BL.9", "BN.3"),
        lambda one: one.figures("saturated"),
        "at the last look {value} of the outputs of {place} are where the activation is flat, the "
        "most",
        "share that is flat",
        at_end=True,
        write=share,
        chart=_with_inputs,
    )
)

register(
    Quantity(
        "directions",
        "How many different things a layer says",
        "Neurons that rise and fall together from sample to sample say the same. The effective "
        "number of directions, n²/Σ Corr² over all pairs of a layer's n outputs, is 1 if all do, "
        "and n if no two are correlated.",
        ("G.1",),
        lambda one: np.where((n := one.figures("directions")) > 0, n, np.nan),
        "the outputs of {place} came to {value} directions {when}, the fewest{last}",
        "directions",
        order=lambda figures: -figures,
        strength=apart,
    )
)
