"""How well a network does on data, and with which statistics.

- cumulative (P.1, P.2): kept while training; every batch has the same weight
- ema (P.7): kept while training; the last batches have the largest weights
- precise (P.5): pooled over the training set, with the trained parameters
- folded (P.4): a baseline network with the same predictions
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from bnjax import costs, folding, network, training
from bnjax.app.options import KINDS
from bnjax.network import Network, Params, State

RUNNING = ("ema", "cumulative")  # in the order of a network's decay and other decays
_ALIKE = 1e-3  # of the largest output: what folding may change where there are no classes

Evaluate = Callable[[Params, State, Array, Array], tuple[Array, Array]]


def choose(
    kind: str, net: Network, params: Params, kept: State, x: Array, *, batch_size: int
) -> State:
    """Return the statistics of one kind.

    Args:
        kind: One of `KINDS`.
        net: The network.
        params: Its parameters.
        kept: What training has kept: one `PopulationState` per normalization, of each of `RUNNING`.
        x: The training set's inputs, (N, n_in), for "precise".
        batch_size: Samples in a mini-batch.

    Returns:
        One `PopulationState` per normalization.
    """
    if kind == "precise":
        return training.measure_population(net, params, x, batch_size=batch_size)
    each = sum(net.normalized)
    first = RUNNING.index(kind) * each
    return kept[first : first + each]


def make_evaluate(net: Network, *, classify: bool) -> Evaluate:
    """Make (params, state, x, targets) -> (cost, accuracy) with the statistics for inference."""

    def evaluate(params: Params, state: State, x: Array, targets: Array) -> tuple[Array, Array]:
        y, _ = network.bn_apply(net, params, state, x, train=False)
        return _judge(net, y, targets, classify)

    return jax.jit(evaluate)


def make_evaluate_in_batches(net: Network, *, classify: bool, batch_size: int) -> Evaluate:
    """Make the same with each mini-batch's own moments, as in training; none is a lone sample."""

    def evaluate(params: Params, state: State, x: Array, targets: Array) -> tuple[Array, Array]:
        samples = x.shape[0]
        steps = max(1, min(-(-samples // batch_size), samples // 2))
        # dealt like cards: sizes differ by one sample at most
        dealt = jnp.arange(-(-samples // steps) * steps).reshape(-1, steps).T

        def logits(indices: Array) -> Array:
            present = indices < samples
            rows = jnp.where(present, indices, 0)
            fresh = network.init(net, jax.random.key(0))[1]  # the moments go nowhere
            return network.bn_apply(net, params, fresh, x[rows], train=True, where=present)[0]

        y = jax.vmap(logits)(dealt)
        return _judge(net, y.swapaxes(0, 1).reshape(-1, y.shape[-1])[:samples], targets, classify)

    return jax.jit(evaluate)


def gaps(
    net: Network,
    params: Params,
    kept: State,
    x: Array,
    x_test: Array,
    targets_test: Array,
    *,
    evaluate: Evaluate,
    classify: bool,
    batch_size: int,
) -> dict[str, dict[str, float | None]]:
    """Hold evaluation with each kind of statistics against training mode, on the test set.

    `evaluate` is the network's own from `make_evaluate`, which training has compiled.

    Returns:
        For "training_mode" and each of `KINDS` test_cost and test_accuracy (None for regression),
        and for the kinds accuracy_gap: training mode's accuracy minus theirs.
    """
    states = {kind: choose(kind, net, params, kept, x, batch_size=batch_size) for kind in KINDS}
    in_batches = make_evaluate_in_batches(net, classify=classify, batch_size=batch_size)
    found = {"training_mode": in_batches(params, states["ema"], x_test, targets_test)}
    found |= {kind: evaluate(params, states[kind], x_test, targets_test) for kind in KINDS}
    table: dict[str, dict[str, float | None]] = {}
    for kind, (cost, accuracy) in found.items():
        table[kind] = {
            "test_cost": float(cost),
            "test_accuracy": float(accuracy) if classify else None,
        }
        if kind in KINDS:
            gap = float(found["training_mode"][1] - accuracy)
            table[kind]["accuracy_gap"] = gap if classify else None
    return table


def fold(
    net: Network, params: Params, state: State, x_test: Array, *, classify: bool
) -> tuple[Params, int, float]:
    """Fold a network (P.4), and count the test predictions that this changes.

    Returns:
        The folded parameters; on how many of the test samples the prediction is another; the
        largest difference of outputs, in units of the largest output. Without classes a prediction
        is another one where that difference exceeds 0.001.
    """
    baseline, folded = folding.fold(net, params, state)
    with jax.default_matmul_precision("highest"):  # or the platform's rounding is compared
        y = network.bn_apply(net, params, state, x_test, train=False)[0]
        y_folded = network.apply(baseline, folded, x_test)
    apart = jnp.abs(y - y_folded) / jnp.maximum(jnp.max(jnp.abs(y)), jnp.finfo(y.dtype).tiny)
    differs = decide(y) != decide(y_folded) if classify else jnp.any(apart > _ALIKE, axis=1)
    return folded, int(jnp.sum(differs)), float(jnp.max(apart))


def _judge(net: Network, y: Array, targets: Array, classify: bool) -> tuple[Array, Array]:
    cost = costs.mean(costs.get(net.cost).per_sample(y, targets))
    if not classify:
        return cost, jnp.nan * cost
    # targets are 0 and 1: above 1/2 is logit 0's other side
    return cost, jnp.mean(decide(y) == decide(targets - 0.5))


def decide(y: Array) -> Array:
    """Return the class of logits, (B, n): the largest one's, or whether a single one is above 0."""
    return y[:, 0] > 0 if y.shape[1] == 1 else jnp.argmax(y, axis=1)
