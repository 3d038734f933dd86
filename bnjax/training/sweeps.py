"""Many networks trained at once: seeds by hyperparameters.

Each network takes the steps (BL.6) that it would take if it were trained alone.

Source: S3, its claim that normalization allows much higher learning rates.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import optax
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from bnjax import _xla
from bnjax.network import Network, Params, State
from bnjax.training import steps
from bnjax.training.epochs import pure_epoch
from bnjax.training.grids import Grid, even_part, networks_that_fit, side_by_side
from bnjax.training.host import as_numbers
from bnjax.training.runs import Evaluation, as_pytree, check_run, pure_run
from bnjax.training.steps import StepConfig, TrainState

TrainingData = tuple[Array, Array, Partial]  # x, targets, evaluate
ReportEpochs = Callable[[int, int], None]
# (one row of hyperparameters, key) -> params, state
Initialization = Callable[[Any, Array], tuple[Params, State]]


class Sweep(NamedTuple):
    """The results of a grid of networks, H hyperparameters by S seeds, on the host.

    Attributes:
        costs: The cost of each batch, (H, S, epochs, steps).
        evaluations: What `evaluate` returned after each epoch, (H, S, epochs, ...); None without
            it.
        diverged: The first epoch with a cost that is not finite, counted from 1, or 0; (H, S) int.
        train_state: After the last epoch; the leading axes of every leaf are H and S.
        at_once: The number of networks that were trained side by side; 1: one after the other.
    """

    costs: np.ndarray
    evaluations: Any
    diverged: np.ndarray
    train_state: TrainState
    at_once: int


def sweep(
    net: Network,
    make_optimizer: Callable[[Any], optax.GradientTransformation],
    hyperparameters: Any,
    keys: Array,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    epochs: int,
    batch_size: int,
    gradient: str = "rule",
    initialize: Initialization | None = None,
    evaluate: Evaluation | None = None,
    at_once: int | None = None,
    epochs_per_call: int = 1,
    report: ReportEpochs | None = None,
) -> Sweep:
    """Train one network for each hyperparameter and each seed, each as if it were alone.

    The network of key k starts from `init(net, optimizer, k)`, and its batches are those of
    `fit(..., key=jax.random.fold_in(k, 1))`: networks of one seed share start and batches.

    Args:
        net: The network. Sizes, ε and d are part of the program: to sweep over these, call `sweep`
            with each `dataclasses.replace(net, eps=...)`.
        make_optimizer: A function of one row of `hyperparameters` that returns an optimizer of
            optax; `optax.sgd` if they are learning rates. Its argument is traced.
        hyperparameters: An array with H rows, or a pytree of such arrays.
        keys: `jax.random.key`s, (S,).
        x: As in `fit`.
        targets: As in `fit`.
        epochs: The number of epochs.
        batch_size: As in `fit`.
        gradient: As in `make_step`.
        initialize: None for `bnjax.init(net, key)`, or a function of one row of `hyperparameters`
            and a key that returns params and state, traced: to scale the weights, for instance.
        evaluate: As in `fit`.
        at_once: The number of networks trained side by side, by one `vmap`, which limits the
            memory. None: 1 on a CPU, where batching products of small matrices gains nothing;
            elsewhere as many as fit into the free memory of the device, by the compiler's count.
        epochs_per_call: The number of epochs between two reports.
        report: None, or called with (done, all): how many epochs of single networks are done, and
            how many there are.

    Returns:
        A `Sweep`.

    Raises:
        TypeError: As in `fit`.
        ValueError: As in `fit`; or the grid is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jax.random.normal(jax.random.key(1), (10, 2))
        >>> rates, keys = jnp.array([0.1, 1.0]), jax.random.split(jax.random.key(0), 3)
        >>> found = sweep(Network((2, 4, 1)), optax.sgd, rates, keys, x, x[:, :1] > 0, epochs=5,
        ...               batch_size=5)
        >>> print(found.costs.shape, found.diverged.max(), found.train_state.params[0].W.shape)
        (2, 3, 5, 2) 0 (2, 3, 2, 4)
    """
    x, targets = (as_numbers("training.sweep", *one) for one in (("x", x), ("targets", targets)))
    samples = check_run(
        "training.sweep",
        x,
        targets,
        batch_size=batch_size,
        epochs=epochs,
        epochs_per_call=epochs_per_call,
    )
    grid = Grid(hyperparameters, keys)
    grid.check(at_once)
    config = StepConfig("training.sweep", net, gradient)
    functions = partial(
        _jit_networks, config, initialize, make_optimizer, samples, batch_size, epochs_per_call
    )
    arrays = cast("tuple[Array, Array]", jax.device_put((x, targets)))
    data = *arrays, as_pytree(evaluate)
    programs = _choose_size(partial(_compile_programs, functions, grid, data), grid, at_once)
    parts = []
    for first in range(0, grid.networks, programs.size):
        arguments = programs, grid, first, data, epochs, epochs_per_call, report
        parts.append(_train_part(*arguments))
    train_state, costs, evaluations = jax.tree.map(
        lambda *a: np.concatenate(a).reshape(grid.rows, grid.seeds, *a[0].shape[1:]), *parts
    )
    return Sweep(costs, evaluations, _first_divergence(costs), train_state, programs.size)


class _Programs(NamedTuple):
    """Compiled programs for `size` networks side by side: their initialization, their training."""

    size: int
    begin: Callable[..., TrainState]
    train: jax.stages.Wrapped | jax.stages.Compiled


@lru_cache(maxsize=16)
def _jit_networks(
    config: StepConfig,
    initialize: Initialization | None,
    make_optimizer: Callable[[Any], optax.GradientTransformation],
    samples: int,
    batch_size: int,
    epochs_per_call: int,
    size: int,
) -> tuple[Callable, Callable]:
    """Return the jitted functions that initialize and train `size` networks side by side.

    They are the same functions for the same arguments: they are compiled once.
    """

    def begin(hyperparameter: Any, key: Array) -> TrainState:
        optimizer = make_optimizer(hyperparameter)
        if initialize is None:
            return steps.init(config.net, optimizer, key)
        return steps.begin(optimizer, *initialize(hyperparameter, key))

    def train(train_state, hyperparameter, key, x, targets, done, count, evaluate):
        epoch = pure_epoch(config, make_optimizer(hyperparameter), None)
        run = pure_run(epoch, samples, batch_size, epochs_per_call)
        order_key = jax.random.fold_in(key, 1)
        return run(train_state, x, targets, order_key, done, count, evaluate)

    return jax.jit(side_by_side(begin, size, 2)), jax.jit(
        side_by_side(train, size, 3),
        donate_argnums=0,
        compiler_options=_xla.options_for_loops(),
    )


def _compile_programs(
    functions: Callable[[int], tuple[Callable, Any]], grid: Grid, data: TrainingData, size: int
) -> _Programs:
    """Compile the functions for `size` networks side by side, unless JAX is not to compile."""
    x, targets, evaluate = data
    members = grid.members(np.arange(size))
    begin, train = functions(size)
    if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        return _Programs(size, begin, train)
    train_state = jax.eval_shape(begin, *members)
    arguments = train_state, *members, x, targets, np.int32(0), np.int32(1), evaluate
    return _Programs(size, begin, train.lower(*arguments).compile())


def _choose_size(
    compile_for: Callable[[int], _Programs], grid: Grid, at_once: int | None
) -> _Programs:
    """Compile the programs for `at_once` networks, or for as many as the memory holds."""
    size = at_once or (1 if jax.default_backend() == "cpu" else grid.networks)
    programs = compile_for(even_part(grid.networks, size))
    if at_once is None and isinstance(programs.train, jax.stages.Compiled):
        fitting = networks_that_fit(programs.train, programs.size)
        if fitting < programs.size:
            programs = compile_for(even_part(grid.networks, fitting))
    return programs


def _train_part(
    programs: _Programs,
    grid: Grid,
    first: int,
    data: TrainingData,
    epochs: int,
    epochs_per_call: int,
    report: ReportEpochs | None,
) -> tuple[TrainState, np.ndarray, Any]:
    """Train the networks from number `first` on; return train states, costs and evaluations."""
    x, targets, evaluate = data
    present = min(programs.size, grid.networks - first)
    # the last part may be smaller: the program's remaining places train the last network again
    numbers = np.minimum(np.arange(first, first + programs.size), grid.networks - 1)
    members = grid.members(numbers)
    train_state, calls = programs.begin(*members), []
    for done in range(0, epochs, epochs_per_call):
        count = min(epochs_per_call, epochs - done)
        train_state, *rows = programs.train(
            train_state, *members, x, targets, np.int32(done), np.int32(count), evaluate
        )
        calls.append(jax.tree.map(lambda a, n=count: np.asarray(a)[:, :n], rows))
        if report is not None:
            report(first * epochs + present * (done + count), grid.networks * epochs)
    costs, evaluations = jax.tree.map(lambda *a: np.concatenate(a, axis=1), *calls)
    results = train_state, costs, evaluations
    return jax.tree.map(lambda a: np.asarray(a)[:present], results)


def _first_divergence(costs: np.ndarray) -> np.ndarray:
    """Return the first epoch with a cost that is not finite, counted from 1, or 0; (H, S)."""
    diverged = np.any(~np.isfinite(costs), axis=3)
    return np.where(np.any(diverged, axis=2), np.argmax(diverged, axis=2) + 1, 0)
