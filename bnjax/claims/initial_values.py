"""The claim that learning depends less on the initial values of the weights.

Source: S3, claim 1; Ioffe & Szegedy 2015, §3.3.
"""

import numpy as np

from bnjax.claims import grids
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
from bnjax.claims.training import Job, sgd, train

_WIDER = 2  # decades
_PER_DECADE = 2


def run(setting: Setting) -> Measured:
    """Train both networks from every scale; keep the last accuracies, (S, rates, scales)."""
    scales = np.geomspace(1e-3, 1e2, 5 * _PER_DECADE + 1).tolist()
    rates = (1.5,) if setting.quick else (0.5, 1.5)
    epochs = 30 if setting.quick else 60
    grid = grids.rows(rate=rates, scale=scales)
    jobs = {
        name: Job(sgd(net), grid, epochs, setting.batch_size)
        for name, net in grids.networks(setting.data).items()
    }
    found = train(setting, jobs)
    return Measured(
        {"rate": rates, "scale": tuple(scales), "target": (setting.target,)},
        {
            f"{name}_accuracy": grids.as_grid(found[name]["accuracy"][..., -1], len(rates), -1)
            for name in jobs
        },
    )


def decades(measured: Measured) -> dict[str, np.ndarray]:
    """Return over how many decades of scale each network learnt, (S,)."""
    (target,) = measured.varied["target"]
    return {
        name: (grids.best(accuracies) >= target).sum(-1) / _PER_DECADE
        for name, accuracies in measured.pair("accuracy").items()
    }


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    baseline, bn = (median(values) for values in decades(measured).values())
    if bn >= baseline + _WIDER:
        return SEEN
    return NOT_SEEN if bn <= baseline else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return the decades."""
    return tuple(
        Figure(f"scales learnt from, {grids.LABELS[name]}", each, ".3g", " decades")
        for name, each in decades(measured).items()
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return the accuracies over the scales, each at the rate that suits it best."""
    (target,) = measured.varied["target"]
    curves = [
        Curve(grids.LABELS[name], name, measured.varied["scale"], grids.best(accuracies))
        for name, accuracies in measured.pair("accuracy").items()
    ]
    title = "Test accuracy over the scale of the initial weights"
    return (
        Chart(
            title,
            "scale of the initial W, in Glorot's",
            "correct",
            tuple(curves),
            log_x=True,
            percent=True,
            threshold=target,
        ),
    )


CLAIM = Claim(
    name="initial_values",
    text="With normalization learning depends less on the scale of the initial weights.",
    source="S3, claim 1; Ioffe & Szegedy 2015, §3.3",
    varied="The scale of the initial weights, 0.001 to 100 times Glorot's, two for each decade, "
    "and the learning rate (0.5 and 1.5; quick: 1.5), each with and without normalization: 3 "
    "hidden layers of 100 sigmoids, SGD; 60 epochs (quick: 30).",
    criterion="A network learns from a scale if the last test accuracy is at least the target, at "
    "the rate that suits it best there. Each such scale counts as half a decade. Seen if the "
    f"median is at least {_WIDER} decades more with normalization; not seen if it is not more.",
    run=run,
    judge=judge,
    figures=figures,
    charts=charts,
)
