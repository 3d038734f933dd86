"""The claim that normalization regularizes.

Source: S3; Ioffe & Szegedy 2015, §3.4.
"""

import numpy as np

from bnjax.claims import grids, small_sets
from bnjax.claims.claim import (
    DEPENDS,
    NOT_SEEN,
    SEEN,
    Chart,
    Claim,
    Curve,
    Figure,
    Measured,
    Setting,
    Verdict,
    median,
)

_SMALLER = 0.01


def run(setting: Setting) -> Measured:
    """Train on parts of the training set, without dropout."""
    return small_sets.run(setting, (0.0,), (0.5,) if setting.quick else (0.15, 0.5, 1.5))


def gaps(measured: Measured) -> dict[str, np.ndarray]:
    """Return training accuracy − test accuracy, averaged over the parts: (S,)."""
    test, training = measured.pair("accuracy"), measured.pair("training")
    return {name: (training[name] - test[name])[..., 0].mean(-1) for name in test}


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    baseline, bn = (median(each) for each in gaps(measured).values())
    if bn <= baseline - _SMALLER:
        return SEEN
    return NOT_SEEN if bn >= baseline else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return the gaps and the accuracies."""
    return (
        *(
            Figure(f"gap, {grids.LABELS[name]}", each, ".1%")
            for name, each in gaps(measured).items()
        ),
        *(
            Figure(f"training accuracy, {grids.LABELS[name]}", each[..., 0].mean(-1), ".1%")
            for name, each in measured.pair("training").items()
        ),
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return the gaps over the size of the training set."""
    training = measured.pair("training")
    curves = tuple(
        Curve(
            grids.LABELS[name],
            name,
            measured.varied["samples"],
            100 * (training[name] - test)[..., 0],
        )
        for name, test in measured.pair("accuracy").items()
    )
    title = "Gap between training and test accuracy"
    return (Chart(title, "training samples", "percentage points", curves, log_x=True),)


CLAIM = Claim(
    name="regularization",
    text="Normalization regularizes: the gap between training and test set is smaller.",
    source="S3; Ioffe & Szegedy 2015, §3.4",
    varied="The size of the training set, 5, 10, 20 and 50 % (quick: 10 %), with and without "
    "normalization. 3 hidden layers of 100 sigmoids; SGD at rates 0.15, 0.5 and 1.5 (quick: "
    "0.5), 600 mini-batches of 24, from weights that suit each: 4 times Glorot's for the "
    "baseline, else Glorot's.",
    criterion="The gap is training accuracy less test accuracy after the last step, at the rate "
    "that suits best, averaged over the sizes. Seen if its median is smaller with normalization "
    "by at least 1 percentage point; not seen if it is not smaller.",
    run=run,
    judge=judge,
    figures=figures,
    charts=charts,
)
