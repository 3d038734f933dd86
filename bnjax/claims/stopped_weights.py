"""The claim that weights whose input is aligned with x̂ stop: sin θ2 = 0 (G.6, at ε = 0).

Source: S0/S1 §3.
"""

from dataclasses import replace
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from jax import Array

from bnjax import geometry, network
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

_LAYER, _PLANTED = 1, 20  # the second hidden layer; neurons that read one input alone
_EPS = 1e-12  # the claim is one at ε = 0
_SAMPLES = 512
_LITTLE, _ALIKE = 0.1, 0.5


def plant(params: Params) -> Params:
    """Let neuron i of the second hidden layer read input i alone, for the first `_PLANTED`."""
    layer = params[_LAYER]
    size = jnp.linalg.norm(layer.W, axis=0).mean()
    W = layer.W.at[:, :_PLANTED].set(size * jnp.eye(len(layer.W), _PLANTED, dtype=layer.W.dtype))
    return *params[:_LAYER], layer._replace(W=W), *params[_LAYER + 1 :]


def _look(net: Network, train_state: TrainState, data: Data) -> dict[str, Array]:
    """Measure the planted weights: their gradient, how far they moved, and sin θ2."""
    params, x, targets = train_state.params, data.x[:_SAMPLES], data.targets[:_SAMPLES]

    def cost(params: Params) -> Array:
        return network.cost(net, params, train_state.state, x, targets)[0]

    others = ~jnp.eye(params[_LAYER].W.shape[0], _PLANTED, dtype=bool)
    passes = geometry.observe(net, params, x, targets)[_LAYER]
    sines = jnp.sqrt(jnp.maximum(0, 1 - jnp.diagonal(passes.cos2[:, :_PLANTED]) ** 2))
    return {
        "gradient": _against_others(jax.grad(cost)(params)[_LAYER].W[:, :_PLANTED], others),
        "W": params[_LAYER].W[:, :_PLANTED],
        "sine": jnp.median(sines),
    }


def _against_others(a: Array, others: Array) -> Array:
    """Return the median over planted neurons of |a| of the planted weight, in that of others."""
    typical = jnp.nanmedian(jnp.where(others, jnp.abs(a), jnp.nan), axis=0)
    return jnp.median(jnp.abs(jnp.diagonal(a)) / typical)


@lru_cache
def _experiment(net: Network) -> Experiment:
    usual = sgd(net, _look)

    def begin(varied: Varied, key: Array) -> TrainState:
        train_state = usual.begin(varied, key)
        return train_state._replace(params=plant(train_state.params))

    def evaluate(train_state: TrainState, data: Data) -> dict[str, Array]:
        return {f"{name}_path": each for name, each in _look(net, train_state, data).items()}

    return replace(usual, begin=begin, evaluate=evaluate)


def run(setting: Setting) -> Measured:
    """Train with planted weights; keep their gradients, movements and sines, (S, evaluations)."""
    net = grids.networks(setting.data, eps=_EPS)["bn"]
    rows = grids.rows(rate=(1.5,), scale=(1.0,))
    job = Job(_experiment(net), rows, 8 if setting.quick else 30, setting.batch_size)
    found = train(setting, {"bn": job})["bn"]
    moved = jnp.asarray(found["W_path"][:, 0] - found["start_W"])
    others = ~jnp.eye(moved.shape[-2], _PLANTED, dtype=bool)
    ratio = jax.vmap(jax.vmap(partial(_against_others, others=others)))(moved)
    return Measured(
        {"step": tuple(job.steps(setting.data).tolist())},
        {
            "start": found["start_gradient"][:, 0],
            "gradient": found["gradient_path"][:, 0],
            "moved": jax.device_get(ratio),
            "sine": found["sine_path"][:, 0],
        },
    )


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    moved = median(measured.values["moved"][:, -1])
    if moved <= _LITTLE:
        return SEEN
    return NOT_SEEN if moved >= _ALIKE else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return the gradient at the start, and what became of the weights."""
    values = measured.values
    return (
        Figure("gradient at the start, in that of the other weights", values["start"], ".1e"),
        Figure("gradient at the end", values["gradient"][:, -1], ".2g"),
        Figure("moved by, in what the others moved", values["moved"][:, -1], ".2g"),
        Figure("|sin θ2| at the end", values["sine"][:, -1], ".2f"),
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return gradient, movement and sine over training."""
    labels = {"gradient": "gradient, in that of the others", "sine": "|sin θ2|"}
    labels |= {"moved": "moved by, in what the others moved"}
    curves = tuple(
        Curve(label, "bn", measured.varied["step"], measured.values[name], style)
        for style, (name, label) in enumerate(labels.items())
    )
    title = "Weights that begin with sin θ2 = 0"
    return (Chart(title, "step (mini-batches)", "ratio, sine", curves),)


CLAIM = Claim(
    name="stopped_weights",
    text="Weights whose input is aligned with x̂ stop learning.",
    source="S0/S1 §3 (G.6)",
    varied="Nothing: 20 neurons of the second hidden layer begin with one weight that is not "
    "zero, so that sin θ2 = 0 for it. A normalized network (ε = 1e-12) with 3 hidden layers of "
    "100 sigmoids; SGD at rate 1.5, 30 epochs (quick: 8).",
    criterion="How far such a weight has moved after training, in the median of what the other "
    "weights of its neuron have moved. Seen if the median is at most a tenth; not seen if it is "
    "at least half.",
    run=run,
    judge=judge,
    figures=figures,
    charts=charts,
)
