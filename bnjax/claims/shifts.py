"""Internal covariate shift as two numbers, with noise added after normalization for comparison.

Both say how much a training step of the layers below changes what a layer meets, on one batch:
- its inputs: for each of them the distance of the old and the new distribution, as of two normal
  ones, √((μ' − μ)² + (σ' − σ)²), in units of the old σ;
- its gradient: |∂C/∂W' − ∂C/∂W| / |∂C/∂W|, where the layer itself has not moved (Santurkar et al.
  2018, definition 2.1, relative to the gradient).

Source: Ioffe & Szegedy 2015, §2; Santurkar, Tsipras, Ilyas & Madry 2018.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import batch_norm, network
from bnjax.claims import grids
from bnjax.claims.claim import (
    DEPENDS,
    NOT_SEEN,
    SEEN,
    Chart,
    Curve,
    Data,
    Figure,
    Measured,
    Setting,
    Verdict,
    median,
)
from bnjax.claims.training import Experiment, Job, accuracy, sgd_with_keys, train
from bnjax.moments import Moments
from bnjax.network import LayerPass, Network, NormDense, Params, State
from bnjax.population import PopulationState
from bnjax.training import TrainState

LABELS = {"baseline": "baseline", "bn": "normalized", "noisy": "normalized, then noise"}
SCALES = {"baseline": 4.0, "bn": 1.0, "noisy": 1.0}  # of the initial weights: what suits each
RATE = 0.5  # which suits all
VARIED = (
    "Normalization: none, with it, and with it and noise behind it, which multiplies each unit by "
    "a log-normal factor and adds a normal shift, of standard deviation 1 and drawn anew at each "
    "step. 3 hidden layers of 100 sigmoids; SGD at rate 0.5 from weights that suit each, 4 times "
    "Glorot's for the baseline, else Glorot's; 20 epochs (quick: 14)."
)
_SPREAD = 1.0  # standard deviation of a unit's noise: its shift, and its factor's logarithm
_SAMPLES = 512
_LESS = 0.5


def passes(
    net: Network, noisy: bool, key: Array, params: Params, state: State, x: Array
) -> tuple[LayerPass[Moments], ...]:
    """Run the layers in training; with noise each unit's y gets a factor and a shift of its own."""
    numbers = count()

    def normalized(
        layer: NormDense, x: Array, w: Array | None, statistics: PopulationState | None
    ) -> tuple[Array, Moments]:
        y, moments = batch_norm(x, layer.gamma, layer.beta, eps=net.eps)
        if noisy:
            keys = jax.random.split(jax.random.fold_in(key, next(numbers)))
            factor, shift = (_SPREAD * jax.random.normal(k, y.shape[1:], y.dtype) for k in keys)
            y = jnp.exp(factor)[None] * y + shift[None]
        return y, moments

    return network.run_layers(
        net, params, network.inference_statistics(net, state), x, None, normalized
    )


@lru_cache
def experiment(kind: str, net: Network) -> Experiment:
    """Return the experiment of a kind in `LABELS`, which measures both shifts of a step."""

    def objective(
        key: Array, params: Params, state: State, x: Array, targets: Array
    ) -> tuple[Array, tuple[Moments, ...]]:
        found = passes(net, kind == "noisy", key, params, state, x)
        cost, _ = network.mean_cost(net, found[-1].y, targets, None)
        return cost, tuple(one.found for one in found if one.found is not None)

    def gradient(key: Array, params: Params, state: State, data: Data) -> Params:
        x, targets = data.x[:_SAMPLES], data.targets[:_SAMPLES]
        return jax.grad(objective, argnums=1, has_aux=True)(key, params, state, x, targets)[0]

    def inputs(key: Array, params: Params, state: State, data: Data) -> list[Array]:
        return [
            one.u for one in passes(net, kind == "noisy", key, params, state, data.x[:_SAMPLES])
        ]

    def evaluate(train_state: TrainState, data: Data) -> dict[str, Array]:
        params, state, _, step = train_state
        before, after = jax.random.split(jax.random.fold_in(jax.random.key(1), step))
        grads = gradient(before, params, state, data)
        moved = jax.tree.map(lambda p, g: p - RATE * g, params, grads)
        u, u_moved = inputs(before, params, state, data), inputs(after, moved, state, data)
        shifts = [_distance(*pair) for pair in zip(u[1:], u_moved[1:], strict=True)]
        changes = []
        for layer in range(1, len(params)):
            mixed = *moved[:layer], *params[layer:]  # this one and those above have not moved
            old, new = grads[layer].W, gradient(after, mixed, state, data)[layer].W
            changes.append(jnp.linalg.norm(new - old) / jnp.linalg.norm(old))
        measured = {"inputs": jnp.stack(shifts), "gradient": jnp.stack(changes)}
        return measured | accuracy(net, train_state, data)

    return replace(sgd_with_keys(net, lambda _, *args: objective(*args)), evaluate=evaluate)


def run(setting: Setting, kinds: Sequence[str] = tuple(LABELS)) -> Measured:
    """Train each kind from weights that suit it, at one rate; measure after each epoch.

    Returns:
        "step" is varied. For each kind its accuracies, (S, evaluations), and both shifts, "inputs"
        and "gradient", (S, evaluations, layers).
    """
    epochs = 14 if setting.quick else 20
    nets = grids.networks(setting.data)
    jobs: dict[str, Job] = {}
    for kind in kinds:
        net = nets["baseline" if kind == "baseline" else "bn"]
        rows = grids.rows(rate=(RATE,), scale=(SCALES[kind],))
        jobs[kind] = Job(experiment(kind, net), rows, epochs, setting.batch_size)
    found = train(setting, jobs)
    values = {
        f"{kind}_{name}": found[kind][name][:, 0]
        for kind in kinds
        for name in ("inputs", "gradient", "accuracy")
    }
    steps = jobs[kinds[0]].steps(setting.data).tolist()
    return Measured({"step": tuple(steps), "target": (setting.target,)}, values)


def over_training(measured: Measured, name: str) -> dict[str, np.ndarray]:
    """Return a shift's median over the evaluations, averaged over the layers, by kind: (S,)."""
    return {
        kind: np.median(measured.values[f"{kind}_{name}"], axis=1).mean(-1)
        for kind in LABELS
        if f"{kind}_{name}" in measured.values
    }


def judge(name: str, measured: Measured) -> Verdict:
    """Judge whether a shift is at most half as large with normalization."""
    found = over_training(measured, name)
    baseline, bn = median(found["baseline"]), median(found["bn"])
    if bn <= _LESS * baseline:
        return SEEN
    return NOT_SEEN if bn >= baseline else DEPENDS


def figures(name: str, called: str, measured: Measured) -> tuple[Figure, ...]:
    """Return a shift of each kind, under what it is called."""
    found = over_training(measured, name)
    return tuple(Figure(f"{called}, {LABELS[kind]}", each, ".2g") for kind, each in found.items())


def charts(name: str, called: str, title: str, measured: Measured) -> tuple[Chart, ...]:
    """Return a shift over training, under a title and what it is called."""
    return (Chart(title, "step (mini-batches)", called, curves(measured, name), log_y=True),)


def curves(measured: Measured, name: str) -> tuple[Curve, ...]:
    """Return what was measured over the steps, averaged over the layers where there are any."""
    lines = []
    for kind, label in LABELS.items():
        values = measured.values[f"{kind}_{name}"]
        of_kind = values.mean(-1) if values.ndim == 3 else values
        network = "baseline" if kind == "baseline" else "bn"
        lines.append(Curve(label, network, measured.varied["step"], of_kind, int(kind == "noisy")))
    return tuple(lines)


def _distance(u: Array, moved: Array) -> Array:
    """Return the median over a layer's inputs of how far their distributions are apart."""
    mean, std, mean_moved, std_moved = *_moments(u), *_moments(moved)
    varies = std > 0
    apart = jnp.hypot(mean_moved - mean, std_moved - std) / jnp.where(varies, std, 1)
    return jnp.nanmedian(jnp.where(varies, apart, jnp.nan))


def _moments(u: Array) -> tuple[Any, Any]:
    return u.mean(0), u.std(0)
