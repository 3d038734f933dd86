"""Trainings on parts of the training set, with and without normalization and dropout.

Dropout (Srivastava et al. 2014) sets each output of a hidden layer to zero with probability p in
training, anew for each sample and step, and divides the others by 1 − p.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import activations, batch_norm, network
from bnjax.claims import grids
from bnjax.claims.claim import Data, Measured, Setting
from bnjax.claims.training import Experiment, Found, Job, Varied, sgd_with_keys, share_right, train
from bnjax.moments import Moments
from bnjax.network import Network, NormDense, Params, State
from bnjax.training import TrainState

SCALES = {"baseline": 4.0, "bn": 1.0}  # of the initial weights: what suits each
_STEPS, _BATCH = 600, 24


def training_accuracy(net: Network, train_state: TrainState, data: Data) -> dict[str, Array]:
    """Return the share of the training set that a network gets right, by its running statistics."""
    logits, _ = network.bn_apply(net, train_state.params, train_state.state, data.x, train=False)
    return {"training": share_right(logits, data.targets)}


@lru_cache
def experiment(net: Network) -> Experiment:
    """Return the experiment of `sgd` with dropout; varied is its probability "p", too."""
    g = activations.get(net.activation).g

    def objective(
        varied: Varied, key: Array, params: Params, state: State, x: Array, targets: Array
    ) -> tuple[Array, tuple[Moments, ...]]:
        y, moments, kept = x, [], 1 - varied["p"]
        for number, layer in enumerate(params):
            u = x
            if number:
                mask = jax.random.bernoulli(jax.random.fold_in(key, number), kept, y.shape)
                u = jnp.where(mask, g(y) / kept, 0)
            if isinstance(layer, NormDense):
                y, found = batch_norm(u @ layer.W, layer.gamma, layer.beta, eps=net.eps)
                moments.append(found)
            else:
                y = u @ layer.W + layer.b[None]
        return network.mean_cost(net, y, targets, None)[0], tuple(moments)

    return replace(sgd_with_keys(net, objective), finish=partial(training_accuracy, net))


def run(setting: Setting, dropouts: Sequence[float], rates: Sequence[float]) -> Measured:
    """Train on each part of the training set, with each p, at the rate that suits best.

    Returns:
        "samples" and "dropout" are varied. For both networks the last accuracies on the test set
        and on the part of the training set, (S, samples, dropouts).
    """
    shares = (0.1,) if setting.quick else (0.05, 0.1, 0.2, 0.5)
    samples = [max(2, round(share * len(setting.data.x))) for share in shares]
    nets, found = grids.networks(setting.data), []
    for done, count in enumerate(samples):
        part = setting.data._replace(x=setting.data.x[:count], targets=setting.data.targets[:count])
        size = min(_BATCH, count)
        epochs = -(-_STEPS // (count // size))
        jobs = {
            name: Job(
                experiment(net),
                grids.rows(p=dropouts, rate=rates, scale=(SCALES[name],)),
                epochs,
                size,
            )
            for name, net in nets.items()
        }
        report = partial(_report, setting, done, len(samples))
        found.append(train(replace(setting, data=part, report=report), jobs))
    values = {}
    for name in nets:
        each = [_at_best(of[name], len(dropouts)) for of in found]
        for at, what in enumerate(("accuracy", "training")):
            values[f"{name}_{what}"] = np.stack([one[at] for one in each], axis=1)
    return Measured({"samples": tuple(samples), "dropout": tuple(dropouts)}, values)


def _at_best(found: Found, dropouts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the last accuracies on the test and on the training set at the best rate, (S, p)."""
    test = grids.as_grid(found["accuracy"][..., -1], dropouts, -1)
    training = grids.as_grid(found["training"], dropouts, -1)
    at = grids.best_setting(np.moveaxis(test, -1, 1))[None, :, None]
    test, training = (np.take_along_axis(each, at, axis=-1)[..., 0] for each in (test, training))
    return test, training


def _report(setting: Setting, parts_done: int, parts: int, done: int, total: int) -> None:
    setting.report(parts_done * total + done, parts * total)
