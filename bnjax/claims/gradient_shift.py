"""The claim that steps of the layers below change a layer's gradient less with normalization.

Source: Ioffe & Szegedy 2015, §2, in the measure of Santurkar et al. 2018.
"""

from functools import partial

from bnjax.claims import shifts
from bnjax.claims.claim import Claim

_CALLED = "change of the gradient"
_TITLE = "How much a step of the layers below changes a layer's gradient"

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
    judge=partial(shifts.judge, "gradient"),
    figures=partial(shifts.figures, "gradient", _CALLED),
    charts=partial(shifts.charts, "gradient", _CALLED, _TITLE),
)
