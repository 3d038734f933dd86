"""The claim that normalization keeps activations out of saturation.

Source: S3, the notes on saturation; Ioffe & Szegedy 2015, §1.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import backprop, geometry
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

_LESS = 0.5


def saturated(net: Network, train_state: TrainState, data: Data) -> dict[str, Array]:
    """Return the share of (sample, hidden unit) with |g'| < 0.01, on the training set."""
    layers = backprop.intermediates(net, train_state.params, data.x, data.targets)
    shares = [geometry.saturation(layer.y, net.activation) for layer in layers[:-1]]
    return {"saturated": jnp.mean(jnp.concatenate(shares))}


def run(setting: Setting) -> Measured:
    """Train both networks from every scale; keep the shares before and after, (S, scales)."""
    scales = (1.0, 4.0, 16.0, 64.0)
    epochs = 15 if setting.quick else 30
    grid = grids.rows(rate=(1.5,), scale=scales)
    jobs = {
        name: Job(sgd(net, saturated), grid, epochs, setting.batch_size)
        for name, net in grids.networks(setting.data).items()
    }
    found = train(setting, jobs)
    values = {
        f"{name}_{when}": found[name][when]
        for name in jobs
        for when in ("start_saturated", "saturated")
    }
    return Measured({"scale": scales}, values)


def shares(measured: Measured) -> dict[str, np.ndarray]:
    """Return each network's share after training, averaged over the scales: (S,)."""
    return {name: each.mean(-1) for name, each in measured.pair("saturated").items()}


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    baseline, bn = (median(each) for each in shares(measured).values())
    if bn <= _LESS * baseline:
        return SEEN
    return NOT_SEEN if bn >= baseline else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return the shares, averaged over the scales."""
    return tuple(
        Figure(f"saturated after training, {grids.LABELS[name]}", each, ".1%")
        for name, each in shares(measured).items()
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return the shares over the scale, before and after training."""
    curves = [
        Curve(f"{grids.LABELS[name]}, {when}", name, measured.varied["scale"], each, style)
        for style, (when, what) in enumerate(
            {"after": "saturated", "before": "start_saturated"}.items()
        )
        for name, each in measured.pair(what).items()
    ]
    return (
        Chart(
            "Saturated sigmoids, before and after training",
            "scale of the initial W, in Glorot's",
            "saturated (g' < 0.01)",
            tuple(curves),
            log_x=True,
            percent=True,
        ),
    )


CLAIM = Claim(
    name="saturation",
    text="Normalization keeps sigmoids out of saturation, wherever the weights start.",
    source="S3, on saturation; Ioffe & Szegedy 2015, §1",
    varied="The scale of the initial weights, 1, 4, 16 and 64 times Glorot's, with and without "
    "normalization: 3 hidden layers of 100 sigmoids, SGD at rate 1.5; 30 epochs (quick: 15).",
    criterion="A sigmoid is saturated on a sample if its slope is below 0.01, a 25th of the "
    "steepest. The share of them after training is averaged over the scales. Seen if its median is "
    "at most half as large with normalization; not seen if it is at least as large.",
    run=run,
    judge=judge,
    figures=figures,
    charts=charts,
)
