"""The claim that normalization keeps the distributions of the layers' inputs from changing.

Source: S3; Ioffe & Szegedy 2015, abstract and §2.
"""

from functools import partial

from bnjax.claims import shifts
from bnjax.claims.claim import Claim

_CALLED = "shift of the inputs"
_TITLE = "How much a step moves the layers' inputs"

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
    judge=partial(shifts.judge, "inputs"),
    figures=partial(shifts.figures, "inputs", _CALLED),
    charts=partial(shifts.charts, "inputs", _CALLED, _TITLE),
)
