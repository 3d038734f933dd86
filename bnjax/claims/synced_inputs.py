"""The claim that synced inputs stay synced: aligned with one another, they learn alike.

Source: S0/S1 §3 (G.6); E.10 corrects what it says of their gradients.
"""

from dataclasses import replace
from functools import lru_cache

import jax.numpy as jnp
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
from bnjax.claims.training import Experiment, Job, Varied, sgd, train
from bnjax.network import Network, Params
from bnjax.training import TrainState

_PAIRS = 20
_SAMPLES = 512
_STILL, _APART = 0.95, 0.7


def plant(params: Params) -> Params:
    """Give neurons 2k and 2k + 1 of the first hidden layer the same weights, for 20 pairs."""
    first, *others = params
    W = first.W.at[:, 1 : 2 * _PAIRS : 2].set(first.W[:, 0 : 2 * _PAIRS : 2])
    return first._replace(W=W), *others


def _correlations(net: Network, train_state: TrainState, data: Data) -> dict[str, Array]:
    """Return the median |Corr| of the two outputs of a pair, and of two that are no pair."""
    x, targets = data.x[:_SAMPLES], data.targets[:_SAMPLES]
    u = backprop.intermediates(net, train_state.params, x, targets)[1].u
    u -= u.mean(0)[None]
    u /= jnp.maximum(jnp.linalg.norm(u, axis=0), jnp.finfo(u.dtype).tiny)[None]
    pairs = jnp.abs(jnp.sum(u[:, 0 : 2 * _PAIRS : 2] * u[:, 1 : 2 * _PAIRS : 2], axis=0))
    free = u[:, 2 * _PAIRS :]
    others = jnp.abs(jnp.sum(free[:, :-1] * free[:, 1:], axis=0))
    return {"pairs": jnp.median(pairs), "others": jnp.median(others)}


@lru_cache
def _experiment(net: Network) -> Experiment:
    usual = sgd(net)

    def begin(varied: Varied, key: Array) -> TrainState:
        train_state = usual.begin(varied, key)
        return train_state._replace(params=plant(train_state.params))

    def evaluate(train_state: TrainState, data: Data) -> dict[str, Array]:
        return _correlations(net, train_state, data)

    return replace(usual, begin=begin, evaluate=evaluate)


def run(setting: Setting) -> Measured:
    """Train both networks with planted pairs; keep the correlations, (S, evaluations)."""
    epochs = 8 if setting.quick else 30
    jobs = {
        name: Job(
            _experiment(net),
            grids.rows(rate=(1.5,), scale=(4.0 if name == "baseline" else 1.0,)),
            epochs,
            setting.batch_size,
        )
        for name, net in grids.networks(setting.data).items()
    }
    found = train(setting, jobs)
    values = {
        f"{name}_{what}": found[name][what][:, 0] for name in jobs for what in ("pairs", "others")
    }
    return Measured({"step": tuple(jobs["bn"].steps(setting.data).tolist())}, values)


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    correlation = median(measured.values["bn_pairs"][:, -1])
    if correlation >= _STILL:
        return SEEN
    return NOT_SEEN if correlation <= _APART else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return the correlations after training."""
    return tuple(
        Figure(f"|correlation| of {label}, {grids.LABELS[name]}", each[:, -1], ".3f")
        for what, label in (("pairs", "synced pairs"), ("others", "other pairs"))
        for name, each in measured.pair(what).items()
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return the correlations over training."""
    curves = tuple(
        Curve(f"{grids.LABELS[name]}, {label}", name, measured.varied["step"], each, style)
        for style, (what, label) in enumerate({"pairs": "synced", "others": "others"}.items())
        for name, each in measured.pair(what).items()
    )
    title = "Correlation of pairs of units that begin with the same weights"
    return (Chart(title, "step (mini-batches)", "|correlation|, median", curves),)


CLAIM = Claim(
    name="synced_inputs",
    text="Synced inputs stay synced.",
    source="S0/S1 §3",
    varied="With and without normalization: 20 pairs of neurons of the first hidden layer begin "
    "with the same weights, so that the next layer gets their outputs twice. 3 hidden layers of "
    "100 sigmoids; SGD at rate 1.5, 30 epochs (quick: 8), the baseline from weights 4 times "
    "Glorot's.",
    criterion="The median |correlation| of the outputs of such a pair after training, with "
    "normalization, over 512 samples. Seen if it is at least 0.95; not seen if it is at most "
    "0.7.",
    run=run,
    judge=judge,
    figures=figures,
    charts=charts,
)
