"""What the layers compute: γ, flat activations (BL.9), how much neurons differ (G.1)."""

import numpy as np

from bnjax import geometry
from bnjax.report.finding import register
from bnjax.report.quantity import Quantity, apart, farthest
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
