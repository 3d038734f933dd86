"""The claim that normalization lets deep networks of saturating units learn.

Source: S3, the notes on saturation; Ioffe & Szegedy 2015, §1.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import backprop
from bnjax.claims import grids
from bnjax.claims.claim import (
    DEPENDS,
    NOT_SEEN,
    SEEN,
    Chart,
    Claim,
    Curve,
    Data,
    Figure,
    Measured,
    Setting,
    Verdict,
    median,
)
from bnjax.claims.training import Job, sgd, train
from bnjax.network import Network
from bnjax.training import TrainState

_BETTER = 0.3
_WIDTH = 100


def error_lengths(net: Network, train_state: TrainState, data: Data) -> dict[str, Array]:
    """Return |Δ| of each hidden layer as a share of the last one's, on the training set."""
    layers = backprop.intermediates(net, train_state.params, data.x, data.targets)
    lengths = jnp.stack([jnp.linalg.norm(layer.delta) for layer in layers[:-1]])
    return {"error": lengths / lengths[-1]}


def run(setting: Setting) -> Measured:
    """Train both networks at every depth; keep accuracies (S, rows, depths) and errors."""
    depths = (2, 8) if setting.quick else (2, 4, 8, 12)
    epochs = 15 if setting.quick else 30
    grid = grids.rows(rate=(1.5,) if setting.quick else (0.5, 1.5), scale=(1.0, 4.0))
    jobs = {
        f"{name}_{depth}": Job(sgd(net, error_lengths), grid, epochs, setting.batch_size)
        for depth in depths
        for name, net in grids.networks(setting.data, (_WIDTH,) * depth).items()
    }
    found = train(setting, jobs)
    glorot = [at for at, row in enumerate(grid) if row["scale"] == 1][0]
    values = {}
    for name in grids.NETWORKS:
        last = [found[f"{name}_{depth}"]["accuracy"][..., -1] for depth in depths]
        values[f"{name}_accuracy"] = np.stack(last, axis=-1)
        values[f"{name}_error"] = found[f"{name}_{depths[-1]}"]["start_error"][:, glorot]
    return Measured({"depth": depths, "layer": tuple(range(1, depths[-1] + 1))}, values)


def deepest(measured: Measured) -> dict[str, np.ndarray]:
    """Return each network's accuracy at the greatest depth, at its best row: (S,)."""
    return {name: grids.best(each)[:, -1] for name, each in measured.pair("accuracy").items()}


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    baseline, bn = (median(each) for each in deepest(measured).values())
    if bn >= baseline + _BETTER:
        return SEEN
    return NOT_SEEN if bn <= baseline else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return the accuracies at the greatest depth, and what is left of the error there."""
    depth = measured.varied["depth"][-1]
    accuracies, errors = deepest(measured), measured.pair("error")
    return (
        *(
            Figure(f"accuracy with {depth} hidden layers, {grids.LABELS[name]}", each, ".1%")
            for name, each in accuracies.items()
        ),
        *(
            Figure(
                f"|Δ| of the first over the last of them, {grids.LABELS[name]}", each[:, 0], ".2g"
            )
            for name, each in errors.items()
        ),
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return accuracies over the depth, and the error by layer before training."""
    depths, layers = measured.varied["depth"], measured.varied["layer"]
    accuracies = [
        Curve(grids.LABELS[name], name, depths, grids.best(each))
        for name, each in measured.pair("accuracy").items()
    ]
    errors = [
        Curve(grids.LABELS[name], name, layers, each)
        for name, each in measured.pair("error").items()
    ]
    return (
        Chart(
            "Test accuracy over the depth",
            "hidden layers",
            "correct",
            tuple(accuracies),
            percent=True,
        ),
        Chart(
            f"Length of the error in {depths[-1]} layers, before training",
            "hidden layer",
            "|Δ|, in that of the last hidden layer",
            tuple(errors),
            log_y=True,
        ),
    )


CLAIM = Claim(
    name="depth",
    text="With normalization deep networks of sigmoids learn, where without it errors vanish.",
    source="S3, on saturation; Ioffe & Szegedy 2015, §1",
    varied="The number of hidden layers, 2 to 12 (quick: 2 and 8) of 100 sigmoids each; learning "
    "rates 0.5 and 1.5 (quick: 1.5) and initial weights of 1 and 4 times Glorot's, each with and "
    "without normalization; SGD, 30 epochs (quick: 15).",
    criterion="At the greatest depth, each network at the rate and the scale that suit it best: "
    f"seen if the median of the last test accuracy is at least {100 * _BETTER:.0f} percentage "
    "points higher with normalization; not seen if it is not higher.",
    run=run,
    judge=judge,
    figures=figures,
    charts=charts,
)
