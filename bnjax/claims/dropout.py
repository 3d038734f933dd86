"""The claim that normalization makes dropout unnecessary.

Source: S3; Ioffe & Szegedy 2015, abstract and §3.4.
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

_LITTLE, _MUCH = 0.005, 0.01


def run(setting: Setting) -> Measured:
    """Train on parts of the training set, without dropout and with it."""
    return small_sets.run(setting, (0.0, 0.5) if setting.quick else (0.0, 0.2, 0.5), (0.5,))


def with_dropout(measured: Measured) -> dict[str, np.ndarray]:
    """Return the test accuracies with the p that suits each network and part best: (S, parts)."""
    return {
        name: grids.best(np.moveaxis(each[..., 1:], -1, 1))
        for name, each in measured.pair("accuracy").items()
    }


def gains(measured: Measured) -> dict[str, np.ndarray]:
    """Return what dropout adds to the test accuracy, averaged over the parts: (S,)."""
    with_it = with_dropout(measured)
    return {
        name: (with_it[name] - each[..., 0]).mean(-1)
        for name, each in measured.pair("accuracy").items()
    }


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    gain = median(gains(measured)["bn"])
    if gain <= _LITTLE:
        return SEEN
    return NOT_SEEN if gain >= _MUCH else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return what dropout adds, and the accuracies without it."""
    return (
        *(
            Figure(f"gain by dropout, {grids.LABELS[name]}", 100 * each, "+.1f", " points")
            for name, each in gains(measured).items()
        ),
        *(
            Figure(f"test accuracy without, {grids.LABELS[name]}", each[..., 0].mean(-1), ".1%")
            for name, each in measured.pair("accuracy").items()
        ),
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return the accuracies without dropout, and what it adds, over the size of the set."""
    samples, with_it = measured.varied["samples"], with_dropout(measured)
    without = {name: each[..., 0] for name, each in measured.pair("accuracy").items()}
    accuracies = tuple(
        Curve(grids.LABELS[name], name, samples, each) for name, each in without.items()
    )
    added = tuple(
        Curve(grids.LABELS[name], name, samples, 100 * (with_it[name] - each))
        for name, each in without.items()
    )
    x = "training samples"
    return (
        Chart("Test accuracy without dropout", x, "correct", accuracies, log_x=True, percent=True),
        Chart("What dropout adds", x, "percentage points", added, log_x=True),
    )


CLAIM = Claim(
    name="dropout",
    text="Normalization makes dropout unnecessary.",
    source="S3; Ioffe & Szegedy 2015, abstract and §3.4",
    varied="The size of the training set, 5, 10, 20 and 50 % (quick: 10 %), and dropout of the "
    "hidden layers' outputs with p = 0.2 and 0.5 (quick: 0.5), each with and without "
    "normalization. 3 hidden layers of 100 sigmoids; SGD at rate 0.5, 600 mini-batches of 24, "
    "from weights that suit each: 4 times Glorot's for the baseline, else Glorot's.",
    criterion="What dropout adds to the last test accuracy with normalization, at the p that "
    "suits best, averaged over the sizes. Seen if the median is at most half a percentage point; "
    "not seen if it is 1 percentage point or more.",
    run=run,
    judge=judge,
    figures=figures,
    charts=charts,
)
