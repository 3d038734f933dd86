"""The claim that normalization allows higher learning rates.

Source: S3, claim 2; Ioffe & Szegedy 2015, §3.3.
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

_FACTOR = 3


def run(setting: Setting) -> Measured:
    """Train both networks at every rate and scale; keep the last accuracies, (S, scales, rates)."""
    rates = np.geomspace(1e-2, 1e2, 7 if setting.quick else 13).tolist()
    scales, epochs = (1.0, 4.0), 30
    grid = grids.rows(scale=scales, rate=rates)
    jobs = {
        name: Job(sgd(net), grid, epochs, setting.batch_size)
        for name, net in grids.networks(setting.data).items()
    }
    found = train(setting, jobs)
    return Measured(
        {"rate": tuple(rates), "scale": scales, "target": (setting.target,)},
        {
            f"{name}_accuracy": grids.as_grid(found[name]["accuracy"][..., -1], len(scales), -1)
            for name in jobs
        },
    )


def largest_rates(measured: Measured) -> dict[str, np.ndarray]:
    """Return the largest rate at which each network learnt, at its best scale: (S,); NaN: none."""
    (target,) = measured.varied["target"]
    return {
        name: grids.best(grids.largest(measured.varied["rate"], accuracies >= target))
        for name, accuracies in measured.pair("accuracy").items()
    }


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    baseline, bn = (np.nan_to_num(median(v)) for v in largest_rates(measured).values())
    if bn > 0 and bn >= _FACTOR * baseline:
        return SEEN
    return NOT_SEEN if bn <= baseline else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return the largest rates and their ratio."""
    found = largest_rates(measured)
    return (
        *(Figure(f"largest rate, {grids.LABELS[name]}", v, ".3g") for name, v in found.items()),
        Figure("ratio", found["bn"] / found["baseline"], ".3g", missing="undefined"),
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return the accuracies over the rates, at each network's best scale and at Glorot's."""
    (target,) = measured.varied["target"]
    rates, scales = measured.varied["rate"], measured.varied["scale"]
    curves = []
    for name, accuracies in measured.pair("accuracy").items():
        at = int(grids.best_setting(grids.largest(rates, accuracies >= target)))
        shown = {at: 0} if scales[at] == 1 else {at: 0, scales.index(1): 1}
        for row, style in shown.items():
            label = f"{grids.LABELS[name]}, weights {scales[row]:g} × Glorot's"
            curves.append(Curve(label, name, rates, accuracies[:, row], style))
    title = "Test accuracy over the learning rate"
    return (
        Chart(
            title,
            "learning rate",
            "correct",
            tuple(curves),
            log_x=True,
            percent=True,
            threshold=target,
        ),
    )


CLAIM = Claim(
    name="learning_rates",
    text="Normalization allows much higher learning rates.",
    source="S3, claim 2; Ioffe & Szegedy 2015, §3.3",
    varied="The learning rate over four decades, 0.01 to 100, and the scale of the initial weights "
    "(1 and 4 times Glorot's), each with and without normalization: 3 hidden layers of 100 "
    "sigmoids, SGD; 30 epochs.",
    criterion="A network learns at a rate if the last test accuracy is at least the target. For "
    "each network the scale counts that allows it the largest rate. Seen if the median of the "
    f"largest rate is at least {_FACTOR} times as large with normalization; not seen if it is not "
    "larger.",
    run=run,
    judge=judge,
    figures=figures,
    charts=charts,
)
