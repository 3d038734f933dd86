"""The claim that normalization reaches the same accuracy in far fewer steps.

Source: Ioffe & Szegedy 2015, abstract (14 times fewer steps).
"""

import time

import jax
import numpy as np
import optax

from bnjax import training
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
from bnjax.network import Network

_FACTOR = 2
_PLAIN = {"rate": 1.5, "scale": 1.0}  # what `bnjax train` has for digits
_TIMES = 10  # that are taken of each, an epoch each: others' work can only lengthen one


def run(setting: Setting) -> Measured:
    """Train both networks at every rate and scale; keep steps (S, rows) and seconds per step."""
    rates = (0.5, 1.5) if setting.quick else (0.15, 0.5, 1.5, 5.0, 15.0)
    scales = (1.0, 4.0) if setting.quick else (1.0, 2.0, 4.0, 8.0)
    grid = grids.rows(rate=rates, scale=scales)
    networks = grids.networks(setting.data)
    jobs = {
        name: Job(sgd(net), grid, 60, setting.batch_size, per_epoch=4)
        for name, net in networks.items()
    }
    found = train(setting, jobs)
    seconds = seconds_per_step(setting, networks)
    values = {}
    for name, job in jobs.items():
        values[f"{name}_steps"] = grids.steps_to(
            found[name]["accuracy"], job.steps(setting.data), setting.target
        )
        values[f"{name}_seconds"] = seconds[name]
    varied = {"rate": [row["rate"] for row in grid], "scale": [row["scale"] for row in grid]}
    return Measured({name: tuple(each) for name, each in varied.items()}, values)


def seconds_per_step(setting: Setting, networks: dict[str, Network]) -> dict[str, np.ndarray]:
    """Return the seconds per step of each network, once for each seed, by turns: (S,)."""
    x, targets = setting.data.x, setting.data.targets
    optimizer = optax.sgd(_PLAIN["rate"])
    order = training.shuffle(jax.random.key(0), len(x), setting.batch_size)
    epochs = {name: training.make_epoch(net, optimizer) for name, net in networks.items()}
    seconds = {name: np.full(len(setting.seeds), np.inf) for name in networks}
    for at, seed in enumerate(setting.seeds):
        key = jax.random.key(seed)
        states = {name: training.init(net, optimizer, key) for name, net in networks.items()}
        for warm in (False, *(True,) * _TIMES):
            for name in networks:
                began = time.perf_counter()
                states[name], _ = jax.block_until_ready(
                    epochs[name](states[name], order, x, targets)
                )
                if warm:
                    took = (time.perf_counter() - began) / len(order)
                    seconds[name][at] = min(seconds[name][at], took)
    return seconds


def fewest(measured: Measured) -> dict[str, np.ndarray]:
    """Return the steps of the plain baseline and of both networks at their best: (S,)."""
    rows = zip(measured.varied["rate"], measured.varied["scale"], strict=True)
    plain = [*rows].index((_PLAIN["rate"], _PLAIN["scale"]))
    both = {name: grids.best(each, least=True) for name, each in measured.pair("steps").items()}
    alike = {f"{name}, plain": each[:, plain] for name, each in measured.pair("steps").items()}
    return both | alike


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    steps = fewest(measured)
    baseline, bn = (median(steps[name]) for name in grids.NETWORKS)
    if np.isnan(bn):
        return NOT_SEEN
    if np.isnan(baseline) or _FACTOR * bn <= baseline:
        return SEEN
    return NOT_SEEN if bn >= baseline else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return steps and factors, in steps and in time."""
    steps, seconds = fewest(measured), measured.pair("seconds")
    best, plain = steps["baseline"] / steps["bn"], steps["baseline, plain"] / steps["bn, plain"]
    slower = seconds["bn"] / seconds["baseline"]
    return (
        Figure("steps, baseline at its best", steps["baseline"], ",.0f"),
        Figure("steps, normalized at its best", steps["bn"], ",.0f"),
        Figure("factor, both at their best", best, ".2g", missing="undefined"),
        Figure("steps, plain baseline", steps["baseline, plain"], ",.0f"),
        Figure("steps, normalized like it", steps["bn, plain"], ",.0f"),
        Figure("factor, both plain", plain, ".2g", missing="undefined"),
        Figure("time of a normalized step, in the baseline's", slower, ".2f"),
        Figure("factor in time, both at their best", best / slower, ".2g", missing="undefined"),
        Figure("factor in time, both plain", plain / slower, ".2g", missing="undefined"),
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return the steps over the rate, at each network's best scale and at Glorot's."""
    rates, scales = (sorted({*measured.varied[name]}) for name in ("rate", "scale"))
    curves = []
    for name, each in measured.pair("steps").items():
        steps = grids.as_grid(each, len(rates), len(scales))
        best = int(grids.best_setting(grids.best(steps, least=True), least=True))
        for style, at in enumerate(dict.fromkeys((best, scales.index(_PLAIN["scale"])))):
            label = f"{grids.LABELS[name]}, weights {scales[at]:g} × Glorot's"
            curves.append(Curve(label, name, tuple(rates), steps[:, :, at], style))
    return (
        Chart(
            "Steps to the target accuracy over the learning rate",
            "learning rate",
            "steps (mini-batches)",
            tuple(curves),
            log_x=True,
            log_y=True,
        ),
    )


CLAIM = Claim(
    name="fewer_steps",
    text="Normalization reaches the same accuracy in far fewer steps.",
    source="Ioffe & Szegedy 2015, abstract",
    varied="The learning rate, 0.15 to 15 (quick: 0.5 and 1.5), and the scale of the initial "
    "weights, 1 to 8 times Glorot's (quick: 1 and 4), each with and without normalization: 3 "
    "hidden layers of 100 sigmoids, SGD; 60 epochs. Plain means rate 1.5 and "
    "Glorot's weights. Both networks are timed by turns, after warming up; the shortest of several "
    "times counts.",
    criterion="The steps until the test accuracy first reaches the target, each network at the "
    "rate and the scale that suit it best. Seen if the median with normalization is at most half "
    "of that without it; not seen if it is not less. Time is measured, but not judged.",
    run=run,
    judge=judge,
    figures=figures,
    charts=charts,
)
