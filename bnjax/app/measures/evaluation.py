"""How well a network does on data, and with which statistics.

- cumulative (P.1, P.2): kept while training; every batch has the same weight
- ema (P.7): kept while training; the last batches have the largest weights
- precise (P.5): pooled over the training set, with the trained parameters
- folded (P.4): a baseline network with the same predictions
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from bnjax import costs, folding, network, training
from bnjax.app.data import Data
from bnjax.app.measures import inputs
from bnjax.app.options import KINDS
from bnjax.network import Network, Params, State
from bnjax.training import TrainState

RUNNING = ("ema", "cumulative")  # in the order of a network's decay and other decays
_ALIKE = 1e-3  # of the largest output: what folding may change where there are no classes


def after_epoch(net: Network, data: Data, *, statistics: str, batch_size: int) -> Partial:
    """Build the function of a train state that `training.fit` evaluates after each epoch.

    Returns:
        train_state -> train_accuracy, test_cost, test_accuracy; and "inputs" of the last hidden
        layer, (3, n), where there is one.
    """
    arrays = data.x_train, data.targets_train, data.x_test, data.targets_test
    measure = partial(_measure, net, bool(data.classes), statistics, batch_size)
    return Partial(measure, *map(jnp.asarray, arrays))


def _measure(
    net: Network,
    classify: bool,
    statistics: str,
    batch_size: int,
    x: Array,
    targets: Array,
    x_test: Array,
    targets_test: Array,
    train_state: TrainState,
) -> dict[str, Array]:
    params, kept, *_ = train_state
    state = choose(statistics, net, params, kept, x, batch_size=batch_size)
    judge = partial(evaluate, net, params, state, classify=classify)
    test_cost, test_accuracy = judge(x_test, targets_test)
    found = {
        "train_accuracy": judge(x, targets)[1],
        "test_cost": test_cost,
        "test_accuracy": test_accuracy,
    }
    if len(net.sizes) > 2:
        found["inputs"] = inputs.percentiles(net, train_state, x)
    return found


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


@partial(jax.jit, static_argnums=0, static_argnames="classify")
def evaluate(
    net: Network, params: Params, state: State, x: Array, targets: Array, *, classify: bool
) -> tuple[Array, Array]:
    """Return cost and accuracy, NaN for regression, with the statistics for inference."""
    return _judge(net, network.bn_apply(net, params, state, x, train=False)[0], targets, classify)


def evaluate_in_batches(
    net: Network, params: Params, x: Array, targets: Array, *, classify: bool, batch_size: int
) -> tuple[Array, Array]:
    """Return the same with each mini-batch's own moments, as in training; none is a lone sample."""
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


def compare_statistics(
    net: Network, train_state: TrainState, data: Data, *, batch_size: int
) -> dict[str, dict[str, float | None]]:
    """Compare evaluation with each kind of statistics to training mode, on the test set.

    Returns:
        For "training_mode" and each of `KINDS` test_cost and test_accuracy (None for regression),
        and for the kinds accuracy_gap: training mode's accuracy minus theirs.
    """
    classify = bool(data.classes)
    arrays = map(jnp.asarray, (data.x_train, data.x_test, data.targets_test))
    found = _by_kind(net, classify, batch_size, train_state.params, train_state.state, *arrays)
    table: dict[str, dict[str, float | None]] = {}
    for kind in ("training_mode", *KINDS):
        cost, accuracy = found[kind]
        table[kind] = {
            "test_cost": float(cost),
            "test_accuracy": float(accuracy) if classify else None,
        }
        if kind in KINDS:
            gap = float(found["training_mode"][1] - accuracy)
            table[kind]["accuracy_gap"] = gap if classify else None
    return table


@partial(jax.jit, static_argnums=(0, 1, 2))
def _by_kind(
    net: Network,
    classify: bool,
    batch_size: int,
    params: Params,
    kept: State,
    x: Array,
    x_test: Array,
    targets_test: Array,
) -> dict[str, tuple[Array, Array]]:
    options = {"classify": classify, "batch_size": batch_size}
    found = {"training_mode": evaluate_in_batches(net, params, x_test, targets_test, **options)}
    states = [choose(kind, net, params, kept, x, batch_size=batch_size) for kind in KINDS]

    def judge(state: State) -> tuple[Array, Array]:
        return evaluate(net, params, state, x_test, targets_test, classify=classify)

    stacked = jax.tree.map(lambda *each: jnp.stack(each), *states)
    judged = zip(*jax.lax.map(judge, stacked), strict=True)  # compiled once for all kinds
    return found | dict(zip(KINDS, judged, strict=True))


def fold(
    net: Network, params: Params, state: State, x_test: Array, *, classify: bool
) -> tuple[Params, int, float]:
    """Fold a network (P.4), and count the test predictions that this changes.

    Returns:
        The folded parameters; on how many of the test samples the prediction is another; the
        largest difference of outputs, in units of the largest output. Without classes a prediction
        is another one where that difference exceeds 0.001.
    """
    folded, y, y_folded = _outputs(net, params, state, x_test)
    apart = jnp.abs(y - y_folded) / jnp.maximum(jnp.max(jnp.abs(y)), jnp.finfo(y.dtype).tiny)
    differs = decide(y) != decide(y_folded) if classify else jnp.any(apart > _ALIKE, axis=1)
    return folded, int(jnp.sum(differs)), float(jnp.max(apart))


@partial(jax.jit, static_argnums=0)
def _outputs(net: Network, params: Params, state: State, x: Array) -> tuple[Params, Array, Array]:
    baseline, folded = folding.fold(net, params, state)
    with jax.default_matmul_precision("highest"):  # or the platform's rounding is compared
        y = network.bn_apply(net, params, state, x, train=False)[0]
        return folded, y, network.apply(baseline, folded, x)


def _judge(net: Network, y: Array, targets: Array, classify: bool) -> tuple[Array, Array]:
    cost = costs.mean(costs.get(net.cost).per_sample(y, targets))
    if not classify:
        return cost, jnp.nan * cost
    # targets are 0 and 1: above 1/2 is logit 0's other side
    return cost, jnp.mean(decide(y) == decide(targets - 0.5))


def decide(y: Array) -> Array:
    """Return the class of logits, (B, n): the largest one's, or whether a single one is above 0."""
    return y[:, 0] > 0 if y.shape[1] == 1 else jnp.argmax(y, axis=1)
