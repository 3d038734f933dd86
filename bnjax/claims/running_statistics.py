"""The claim that the decay of the running statistics matters, and that precise ones need none.

(P.7)  m_k = d m_(k−1) + (1 − d) μ_k

Source: S3, on inference; precise statistics: P.5, Wu & Johnson 2021.
"""

from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import network, training
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
from bnjax.claims.training import Job, sgd, share_right, train
from bnjax.network import Network
from bnjax.training import TrainState

DECAYS = (0.0, 0.5, 0.9, 0.99, 0.999, None)  # None: the average over all batches so far
_PRECISE, _MUCH, _LITTLE = "precise", 0.01, 0.005


def _accuracies(
    net: Network, batch_size: int, train_state: TrainState, data: Data
) -> dict[str, Array]:
    """Return the test accuracy with the statistics of each decay, and with precise ones."""
    params, kept, *_ = train_state
    plain = replace(net, other_decays=())
    each = sum(net.normalized)
    states = [kept[first : first + each] for first in range(0, len(kept), each)]
    states.append(training.measure_population(plain, params, data.x, batch_size=batch_size))
    logits = [network.bn_apply(plain, params, s, data.x_test, train=False)[0] for s in states]
    return {"accuracy": jnp.stack([share_right(one, data.targets_test) for one in logits])}


def run(setting: Setting) -> Measured:
    """Train one network, with the statistics of all decays; judge after each epoch."""
    net = grids.networks(setting.data, decay=DECAYS[0], other_decays=DECAYS[1:])["bn"]
    experiment = replace(sgd(net), evaluate=partial(_accuracies, net, setting.batch_size))
    rows = grids.rows(rate=(1.5,), scale=(1.0,))
    job = Job(experiment, rows, 6 if setting.quick else 20, setting.batch_size)
    found = train(setting, {"bn": job})["bn"]
    names = ("average" if decay is None else f"{decay:g}" for decay in DECAYS)
    steps = tuple(job.steps(setting.data).tolist())
    return Measured(
        {"statistics": (*names, _PRECISE), "step": steps}, {"accuracy": found["accuracy"][:, 0]}
    )


def losses(measured: Measured) -> dict[str, np.ndarray]:
    """Return what each kind of statistics loses against precise ones, over the epochs: (S,)."""
    accuracy = measured.values["accuracy"].mean(1)
    return {
        name: accuracy[:, -1] - accuracy[:, at]
        for at, name in enumerate(measured.varied["statistics"][:-1])
    }


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    worst = max(median(each) for each in losses(measured).values())
    if worst >= _MUCH:
        return SEEN
    return NOT_SEEN if worst <= _LITTLE else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return the losses."""
    return tuple(
        Figure(
            f"lost with {'the ' * (name == 'average')}{_label(name)}", 100 * each, "+.1f", " points"
        )
        for name, each in losses(measured).items()
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return the losses by decay."""
    found = losses(measured)
    values = 100 * np.stack(list(found.values()), axis=-1)
    curve = Curve("normalized", "bn", tuple(found), values)
    title = "Test accuracy lost against precise statistics"
    return (Chart(title, "decay of the running statistics", "percentage points", (curve,)),)


def _label(name: str) -> str:
    return {_PRECISE: "precise statistics", "average": "average of all batches"}.get(
        name, f"decay {name}"
    )


CLAIM = Claim(
    name="running_statistics",
    text="A bad decay of the running statistics costs accuracy that precise statistics keep.",
    source="S3, on inference; Wu & Johnson 2021, §3",
    varied="The statistics for inference of one normalized network: running ones with decay 0 to "
    "0.999, the average of all batches, and precise ones, measured after each epoch over the "
    "training set. 3 hidden layers of 100 sigmoids, SGD at rate 1.5; 20 epochs (quick: 6).",
    criterion="The test accuracy lost against precise statistics, averaged over the epochs. Seen "
    "if for some running statistics the median is at least 1 percentage point; not seen if it is "
    "at most half a point for all.",
    run=run,
    judge=judge,
    figures=figures,
    charts=charts,
)
