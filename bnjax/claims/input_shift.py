"""The claim that normalization keeps the distributions of the layers' inputs from changing.

Source: S3; Ioffe & Szegedy 2015, abstract and §2.
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
    found = shifts.over_training(measured, "inputs")
    baseline, bn = median(found["baseline"]), median(found["bn"])
    if bn <= _LESS * baseline:
        return SEEN
    return NOT_SEEN if bn >= baseline else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return the shifts."""
    found = shifts.over_training(measured, "inputs")
    return tuple(
        Figure(f"shift of the inputs, {shifts.LABELS[kind]}", each, ".2g")
        for kind, each in found.items()
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return the shifts over training."""
    lines = shifts.curves(measured, "inputs")
    title = "How much a step moves the layers' inputs"
    return (Chart(title, "step (mini-batches)", "shift of the inputs", lines, log_y=True),)


CLAIM = Claim(
    name="input_shift",
    text="Normalization reduces internal covariate shift: training changes the layers' inputs "
    "less.",
    source="S3; Ioffe & Szegedy 2015, abstract and §2",
    varied=shifts.VARIED,
    criterion="The shift of a layer's inputs by one step of all layers: the median over its "
    "inputs of √((μ' − μ)² + (σ' − σ)²)/σ on 512 samples; the median over the evaluations, "
    "averaged over the layers. Seen if its median is at most half as large with normalization as "
    "without; not seen if it is at least as large.",
    run=shifts.run,
    judge=judge,
    figures=figures,
    charts=charts,
)
