"""The claim that learning turns x̂ towards the negative error, as far as the inputs allow.

With the error Δ_i held fixed cos θ1_i falls to −R_i at ε = 0 (G.7). R_i is the multiple correlation
of Δ_i with the inputs u_j: no combination of them is closer to it.

Source: S0/S1 §3.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from bnjax import _xla, backprop, batch_norm, geometry, network
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
from bnjax.network import Network, Params
from bnjax.training import TrainState

_LAYER = 1  # the second hidden layer: its inputs are those of a hidden one
_NEURONS = 25  # each descends by itself
_SAMPLES, _STEPS, _LOOKS = 512, 1000, 20
_RATE = 0.03  # of the cost Δ·x̂, with Δ of unit length
_NEAR, _LOWER = 0.02, 0.1


class _Layer(NamedTuple):
    """A layer's inputs (B, n_in), W (n_in, n_out) and errors (B, n_out)."""

    u: Array
    W: Array
    delta: Array


def _layer(net: Network, params: Params, data: Data) -> _Layer:
    x, targets = data.x[:_SAMPLES], data.targets[:_SAMPLES]
    found = backprop.intermediates(net, params, x, targets)[_LAYER]
    return _Layer(found.u, params[_LAYER].W[:, :_NEURONS], found.delta[:, :_NEURONS])


def cosines(layer: _Layer) -> Array:
    """Return cos θ1 of each neuron, (n_out,) (G.1)."""
    return geometry.layer_angles(layer.u, layer.u @ layer.W, layer.delta, eps=0.0).cos1


def multiple_correlations(layer: _Layer) -> Array:
    """Return R of each neuron, (n_out,): the cosine of Δ and what the inputs can make of it."""
    u, delta = (a - a.mean(0)[None] for a in (layer.u, layer.delta))
    fitted = u @ jnp.linalg.lstsq(u, delta, rcond=1e-5)[0]
    return jnp.linalg.norm(fitted, axis=0) / jnp.linalg.norm(delta, axis=0)


def descend(layer: _Layer) -> Array:
    """Descend on W with the error held fixed; return cos θ1 along the way, (looks, n_out)."""
    delta = layer.delta - layer.delta.mean(0)[None]
    delta /= jnp.linalg.norm(delta, axis=0)[None]

    def cost(W: Array) -> Array:
        return jnp.sum(delta * batch_norm(layer.u @ W, eps=0.0)[0])  # ∂C/∂y = Δ

    def step(_: Array, W: Array) -> Array:
        return W - _RATE * jax.grad(cost)(W)

    def look(W: Array, _: None) -> tuple[Array, Array]:
        W = lax.fori_loop(0, _STEPS // _LOOKS, step, W)
        return W, cosines(layer._replace(W=W))

    return lax.scan(look, layer.W, length=_LOOKS)[1]


@partial(jax.jit, static_argnums=0, compiler_options=_xla.options_for_loops())
def _with_fixed_errors(net: Network, data: Data, seeds: Array) -> dict[str, Array]:
    def one(seed: Array) -> dict[str, Array]:
        layer = _layer(net, network.init(net, jax.random.key(seed))[0], data)
        path, R = descend(layer), multiple_correlations(layer)
        path = jnp.concatenate([cosines(layer)[None], path])
        distance = jnp.median(jnp.abs(path[-1] + R))
        return {"fixed": jnp.median(path, 1), "limit": -jnp.median(R), "distance": distance}

    return lax.map(one, seeds)


def _look(name: str, net: Network, train_state: TrainState, data: Data) -> dict[str, Array]:
    found = cosines(_layer(net, train_state.params, data))
    return {name: jnp.stack([jnp.median(found), jnp.median(jnp.abs(found))])}


def run(setting: Setting) -> Measured:
    """Descend with the error of the first step held fixed; then train as usual."""
    net = grids.networks(setting.data)["bn"]
    fixed = _with_fixed_errors(net, setting.data, jnp.asarray(setting.seeds))
    experiment = replace(sgd(net, partial(_look, "cosine")), evaluate=partial(_look, "path", net))
    epochs = 8 if setting.quick else 30
    job = Job(experiment, grids.rows(rate=(1.5,), scale=(1.0,)), epochs, setting.batch_size)
    found = train(setting, {"bn": job})["bn"]
    path = np.concatenate([found["start_cosine"], found["path"][:, 0]], axis=1)
    steps = (0, *job.steps(setting.data).tolist())
    every = _STEPS // _LOOKS
    return Measured(
        {"step": steps, "fixed_step": tuple(range(0, _STEPS + 1, every))},
        {"training": path[..., 0], "size": path[..., 1], **jax.device_get(fixed)},
    )


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    values = measured.values
    if median(values["distance"]) > _NEAR:
        return NOT_SEEN
    falls = median(values["training"][:, 0] - values["training"][:, -1])
    return SEEN if falls >= _LOWER else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return cosines and their limit."""
    values = measured.values
    return (
        Figure("fixed error: cos θ1 at the start", values["fixed"][:, 0], ".3f"),
        Figure("fixed error: at the end", values["fixed"][:, -1], ".3f"),
        Figure("fixed error: the limit −R", values["limit"], ".3f"),
        Figure("training: cos θ1 at the start", values["training"][:, 0], ".3f"),
        Figure("training: least on the way", values["training"].min(1), ".3f"),
        Figure("training: at the end", values["training"][:, -1], ".3f"),
        Figure("training: |cos θ1| at the start", values["size"][:, 0], ".3f"),
        Figure("training: |cos θ1| at the end", values["size"][:, -1], ".3f"),
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return the cosines over both descents."""
    values, fixed_steps = measured.values, measured.varied["fixed_step"]
    limit = np.repeat(values["limit"][:, None], len(fixed_steps), axis=1)
    curves = (
        Curve("cos θ1", "bn", fixed_steps, values["fixed"]),
        Curve("−R", "bn", fixed_steps, limit, 1),
    )
    steps = measured.varied["step"]
    trained = (
        Curve("cos θ1", "bn", steps, values["training"]),
        Curve("|cos θ1|", "bn", steps, values["size"], 1),
    )
    y = "cos θ1, median over the neurons"
    return (
        Chart("With the error held fixed", "step of gradient descent", y, curves),
        Chart("In training", "step (mini-batches)", y, trained),
    )


CLAIM = Claim(
    name="error_alignment",
    text="Learning turns x̂ towards the negative error: cos θ1 falls.",
    source="S0/S1 §3 (G.7)",
    varied="The error of the second hidden layer, held fixed in 1000 steps of gradient descent on "
    "its W (ε = 0), and as it is in training: SGD at rate 1.5 for 30 epochs (quick: 8). One "
    "normalized network with 3 hidden layers of 100 sigmoids; 25 of the layer's neurons, 512 "
    "samples.",
    criterion="With the error held fixed cos θ1 must come to −R, R being the multiple correlation "
    "of the error with the inputs: the median of |cos θ1 + R| at most 0.02; else not seen. Seen "
    "if in training, too, the median of cos θ1 over the neurons falls by at least 0.1 from start "
    "to end; else it depends on the error's being fixed.",
    run=run,
    judge=judge,
    figures=figures,
    charts=charts,
)
