"""The claim that small mini-batches harm normalization, and that renormalization repairs it.

Source: Ioffe 2017; ghost batches: Hoffer, Hubara & Soudry 2017.
"""

from functools import lru_cache, partial

import numpy as np
from jax import Array

from bnjax import ghost_batch_norm, network, renorm
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
from bnjax.claims.training import Experiment, Job, sgd, sgd_of, train
from bnjax.moments import Moments
from bnjax.network import Network, NormDense, Params, State
from bnjax.population import PopulationState

_HARM = 0.01
_GROUP = 32  # samples of a ghost batch
_DECAY = 0.99  # with 0.9 the statistics for inference of small batches would be noise themselves
_STEPS, _FEWEST, _MOST = 690, 3, 60  # epochs: as many as it takes, within bounds
_LABELS = {
    "baseline": "baseline",
    "bn": "normalized",
    "renorm": "renormalized",
    "ghost": f"in ghost batches of {_GROUP}",
}


def _renormalize(
    layer: NormDense, x: Array, w: Array | None, statistics: PopulationState | None
) -> tuple[Array, Moments]:
    assert statistics is not None
    return renorm(x, statistics, layer.gamma, layer.beta)  # R.1


def _normalize_groups(
    layer: NormDense, x: Array, w: Array | None, statistics: PopulationState | None
) -> tuple[Array, Moments]:
    return ghost_batch_norm(x, layer.gamma, layer.beta, size=_GROUP)


_NORMALIZATIONS = {"renorm": _renormalize, "ghost": _normalize_groups}


@lru_cache
def _experiment(net: Network, kind: str) -> Experiment:
    """Return the experiment of a kind of normalization, one of `_LABELS`."""
    if kind not in _NORMALIZATIONS:
        return sgd(net)

    def objective(
        params: Params, state: State, x: Array, targets: Array
    ) -> tuple[Array, tuple[Moments, ...]]:
        statistics = network.inference_statistics(net, state)
        run = partial(network.run_layers, net, params, statistics, x, None)
        passes = run(_NORMALIZATIONS[kind])
        cost, _ = network.mean_cost(net, passes[-1].y, targets, None)
        return cost, tuple(p.found for p in passes if p.found is not None)

    return sgd_of(net, objective)


def run(setting: Setting) -> Measured:
    """Train with every size; keep the last accuracies at the best rate, (S, sizes) each."""
    samples = len(setting.data.x)
    sizes = (2, 60) if setting.quick else (2, 4, 8, 16, 60, 250, 500)
    sizes = tuple(size for size in sizes if size <= max(2, samples // 2))
    rates = (0.15, 1.5) if setting.quick else (0.05, 0.15, 0.5, 1.5, 5.0)
    nets = grids.networks(setting.data, decay=_DECAY)
    jobs = {}
    for size in sizes:
        epochs = int(np.clip(_STEPS * size / samples, _FEWEST, _MOST))
        for kind in _LABELS:
            if kind == "ghost" and size <= 2 * _GROUP:
                continue
            net = nets["baseline" if kind == "baseline" else "bn"]
            # the scales that suit them: see the claim on learning rates
            grid = grids.rows(rate=rates, scale=(4.0 if kind == "baseline" else 1.0,))
            jobs[f"{kind}_{size}"] = Job(_experiment(net, kind), grid, epochs, size)
    found = train(setting, jobs)
    values = {}
    for kind in _LABELS:
        of_kind = [f"{kind}_{size}" for size in sizes if f"{kind}_{size}" in jobs]
        last = [grids.best(found[name]["accuracy"][..., -1]) for name in of_kind]
        if last:
            values[f"{kind}_accuracy"] = np.stack(last, axis=-1)
    return Measured({"size": sizes}, values)


def harm(measured: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Return what normalization and renormalization lose by the smallest batches, (S,) each."""
    sizes, values = measured.varied["size"], measured.values
    usual = values["bn_accuracy"][:, sizes.index(60) if 60 in sizes else -1]
    return usual - values["bn_accuracy"][:, 0], usual - values["renorm_accuracy"][:, 0]


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    lost, left = (median(each) for each in harm(measured))
    if lost < _HARM:
        return NOT_SEEN
    return SEEN if left <= lost / 2 else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return the accuracies of the smallest batches, and of the largest ones."""
    sizes = measured.varied["size"]
    smallest = [
        Figure(
            f"accuracy with batches of {sizes[0]}, {_LABELS[kind]}",
            measured.values[f"{kind}_accuracy"][:, 0],
            ".1%",
        )
        for kind in ("baseline", "bn", "renorm")
    ]
    usual = measured.values["bn_accuracy"][:, sizes.index(60) if 60 in sizes else -1]
    figures = [*smallest, Figure("with the usual batches, normalized", usual, ".1%")]
    if "ghost_accuracy" in measured.values:
        figures += [
            Figure(
                f"with batches of {sizes[-1]}, {_LABELS[kind]}",
                measured.values[f"{kind}_accuracy"][:, -1],
                ".1%",
            )
            for kind in ("baseline", "bn", "ghost")
        ]
    return tuple(figures)


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return the accuracies over the size of a batch."""
    sizes, curves = measured.varied["size"], []
    for style, kind in enumerate(("bn", "renorm", "ghost", "baseline")):
        if (accuracies := measured.values.get(f"{kind}_accuracy")) is not None:
            baseline = kind == "baseline"
            colour = "baseline" if baseline else "bn"
            x = sizes[len(sizes) - accuracies.shape[1] :]
            curves.append(Curve(_LABELS[kind], colour, x, accuracies, 0 if baseline else style))
    return (
        Chart(
            "Test accuracy over the size of a mini-batch",
            "samples in a mini-batch",
            "correct",
            tuple(curves),
            log_x=True,
            percent=True,
        ),
    )


CLAIM = Claim(
    name="batch_size",
    text="Small mini-batches harm normalization, and renormalization repairs it.",
    source="Ioffe 2017, abstract",
    varied="The size of a mini-batch, 2 to 500 (quick: 2 and 60), without normalization, with it, "
    f"with renormalization, and above {2 * _GROUP} samples in ghost batches of {_GROUP}; learning "
    "rates 0.05 to 5 (quick: 0.15 and 1.5). 3 hidden layers of 100 sigmoids, the baseline's "
    f"weights 4 times Glorot's; SGD; {_STEPS} steps, but at least {_FEWEST} and at most {_MOST} "
    f"epochs; running statistics with decay {_DECAY}.",
    criterion="The last test accuracy, each at the rate that suits it best. The harm is what is "
    "lost with normalization between batches of 60 and of 2. Seen if its median is at least "
    f"{100 * _HARM:.0f} percentage point and renormalization loses at most half of it; not seen if "
    "there is less harm.",
    run=run,
    judge=judge,
    figures=figures,
    charts=charts,
)
