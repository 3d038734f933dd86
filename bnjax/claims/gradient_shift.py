"""The claim that steps of the layers below change a layer's gradient less with normalization.

Source: Ioffe & Szegedy 2015, §2, in the measure of Santurkar et al. 2018.
"""

from bnjax.claims import shifts
from bnjax.claims.claim import (
    DEPENDS,
    NOT_SEEN,
    SEEN,
    Chart,
    Claim,
    Figure,
    Measured,
    Verdict,
    median,
)

_LESS = 0.5


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    found = shifts.over_training(measured, "gradient")
    baseline, bn = median(found["baseline"]), median(found["bn"])
    if bn <= _LESS * baseline:
        return SEEN
    return NOT_SEEN if bn >= baseline else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return the shifts."""
    found = shifts.over_training(measured, "gradient")
    return tuple(
        Figure(f"change of the gradient, {shifts.LABELS[kind]}", each, ".2g")
        for kind, each in found.items()
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return the shifts over training."""
    lines = shifts.curves(measured, "gradient")
    title = "How much a step of the layers below changes a layer's gradient"
    return (Chart(title, "step (mini-batches)", "change of the gradient", lines, log_y=True),)


CLAIM = Claim(
    name="gradient_shift",
    text="Normalization reduces internal covariate shift: a layer's gradient changes less when "
    "the layers below are updated.",
    source="Ioffe & Szegedy 2015, §2; measure: Santurkar, Tsipras, Ilyas & Madry 2018",
    varied=shifts.VARIED,
    criterion="|G' − G| / |G| for the gradient G of a layer's W on 512 samples, and G' after a "
    "step of the layers below; the median over the evaluations, averaged over the layers. Seen "
    "if its median is at most half as large with normalization as without; not seen if it is at "
    "least as large.",
    run=shifts.run,
    judge=judge,
    figures=figures,
    charts=charts,
)
