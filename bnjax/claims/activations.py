"""The claim that normalization helps with every activation, saturating ones too.

Source: S0/S1 §2; Ioffe & Szegedy 2015, abstract.
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

_ACTIVATIONS = ("sigmoid", "tanh", "relu", "gelu")
_FACTOR = 1.5


def run(setting: Setting) -> Measured:
    """Train both networks with every activation; keep the steps, (S, rows, activations)."""
    activations = _ACTIVATIONS[:3] if setting.quick else _ACTIVATIONS
    rates = (0.15, 0.5, 1.5) if setting.quick else (0.05, 0.15, 0.5, 1.5, 5.0)
    scales, epochs = (1.0, 4.0), 15 if setting.quick else 30
    grid = grids.rows(rate=rates, scale=scales)
    jobs = {
        f"{name}_{activation}": Job(sgd(net), grid, epochs, setting.batch_size, per_epoch=4)
        for activation in activations
        for name, net in grids.networks(setting.data, activation=activation).items()
    }
    found = train(setting, jobs)
    values = {}
    for name in grids.NETWORKS:
        steps = [
            grids.steps_to(
                found[f"{name}_{activation}"]["accuracy"],
                jobs[f"{name}_{activation}"].steps(setting.data),
                setting.target,
            )
            for activation in activations
        ]
        values[f"{name}_steps"] = np.stack(steps, axis=-1)
    return Measured({"activation": activations}, values)


def fewest(measured: Measured) -> dict[str, np.ndarray]:
    """Return each network's steps with each activation, at its best row: (S, activations)."""
    return {name: grids.best(each, least=True) for name, each in measured.pair("steps").items()}


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    baseline, bn = (median(each) for each in fewest(measured).values())
    # never: as many steps as you like
    fewer = _FACTOR * bn <= np.where(np.isnan(baseline), np.inf, baseline)
    if fewer.all():
        return SEEN
    return DEPENDS if fewer.any() else NOT_SEEN


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return the steps with each activation."""
    return tuple(
        Figure(f"steps with {activation}, {grids.LABELS[name]}", steps[:, at], ",.0f")
        for at, activation in enumerate(measured.varied["activation"])
        for name, steps in fewest(measured).items()
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return the steps with each activation, side by side."""
    curves = [
        Curve(grids.LABELS[name], name, measured.varied["activation"], steps)
        for name, steps in fewest(measured).items()
    ]
    return (
        Chart(
            "Steps to the target accuracy, at the best rate and scale",
            "activation",
            "steps (mini-batches)",
            tuple(curves),
            log_y=True,
        ),
    )


CLAIM = Claim(
    name="activations",
    text="Normalization speeds up learning with every activation, saturating or not.",
    source="S0/S1 §2; Ioffe & Szegedy 2015, abstract",
    varied="The activation (sigmoid, tanh, relu, gelu; quick: not gelu) with and without "
    "normalization; for each, learning rates from 0.05 to 5 (quick: 0.15 to 1.5) and initial "
    "weights of 1 and 4 times Glorot's: 3 hidden layers of 100, SGD; 30 epochs (quick: 15).",
    criterion="The steps until the test accuracy first reaches the target, each network at the "
    "rate and the scale that suit it best. Seen if for every activation the median without "
    f"normalization is at least {_FACTOR:g} times that with it; not seen if for none.",
    run=run,
    judge=judge,
    figures=figures,
    charts=charts,
)
