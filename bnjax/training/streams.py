"""Training on data that do not fit on the device: batches are loaded one by one, and in advance.

Each mini-batch is one step (BL.6), the same as in `fit`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, Sharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import Partial
from jax.typing import ArrayLike

from bnjax.network import Network
from bnjax.training import devices
from bnjax.training.host import as_numbers
from bnjax.training.runs import Evaluation, Progress, as_pytree
from bnjax.training.steps import StepConfig, TrainState, build_step

BatchArrays = tuple[ArrayLike, ...]


def prefetch(
    batches: Iterable[BatchArrays], *, size: int = 2, sharding: Sharding | None = None
) -> Iterator[BatchArrays]:
    """Copy batches to the device while earlier ones are in use.

    JAX copies and computes asynchronously: what the body of the loop starts on one batch continues
    while the next batches are read and copied.

    Args:
        batches: An iterable of pytrees of arrays on the host, all of one structure.
        size: The number of batches on the device beyond the one in use; at least 1.
        sharding: None for one device, or the sharding of each array over several. With several
            processes each provides its own rows.

    Returns:
        An iterator of the same batches, on the device.

    Raises:
        ValueError: size is less than one.

    Example:
        >>> ahead = prefetch((np.full((2, 2), i),) for i in range(3))
        >>> print([int(x[0, 0]) for (x,) in ahead])
        [0, 1, 2]
    """
    if size < 1:
        raise ValueError(f"training.prefetch: `size` must be at least 1; got {size}.")

    def copy(a: ArrayLike) -> jax.Array:
        if sharding is None:
            return jax.device_put(a)
        return jax.make_array_from_process_local_data(sharding, np.asarray(a))

    def iterate() -> Iterator[BatchArrays]:
        waiting: deque[BatchArrays] = deque()
        for batch in batches:
            waiting.append(jax.tree.map(copy, batch))
            if len(waiting) > size:
                yield waiting.popleft()
        yield from waiting

    return iterate()


def fit_batches(
    net: Network,
    optimizer: optax.GradientTransformation,
    train_state: TrainState,
    batches: Callable[[int], Iterable[BatchArrays]] | Iterable[BatchArrays],
    *,
    epochs: int,
    start: int = 0,
    gradient: str = "rule",
    evaluate: Evaluation | None = None,
    mesh: Mesh | None = None,
    sync_statistics: bool = True,
    ahead: int = 2,
) -> Iterator[Progress]:
    """Train on batches from a loader or a function, with the same step as `fit`.

    Args:
        net: The network.
        optimizer: As in `make_step`.
        train_state: As in `fit`. Donated.
        batches: An iterable of batches (x, targets) on the host, iterated over anew in each epoch,
            such as a DataLoader of torch or grain; or a function of the epoch's number, counted
            from 1, that returns one. If they depend on the number alone, a resumed run sees the
            batches that it would have seen. x is (B, n_in) and targets (B, n_out), arrays or what
            NumPy converts, such as tensors. No batch may be larger than the first; smaller ones
            are padded and masked. With several processes: the rows of this one.
        epochs: As in `fit`.
        start: As in `fit`.
        gradient: As in `make_step`.
        evaluate: As in `fit`.
        mesh: As in `fit`.
        sync_statistics: As in `make_step`.
        ahead: The number of batches that wait on the device, `size` of `prefetch`.

    Returns:
        An iterator of `Progress`, one per epoch.

    Raises:
        TypeError: As in `fit`.
        ValueError: As in `fit`; or an epoch has no batch, or one larger than the first; or batches
            are an iterator, which is empty after one epoch.

    Example:
        >>> from bnjax import training
        >>> net, optimizer = Network((2, 4, 1)), optax.sgd(0.5)
        >>> def batches(epoch):
        ...     rng = np.random.default_rng(epoch)
        ...     for rows in (4, 4, 2):
        ...         x = rng.normal(size=(rows, 2))
        ...         yield x, x[:, :1] > 0
        >>> start = training.init(net, optimizer, jax.random.key(0))
        >>> for progress in fit_batches(net, optimizer, start, batches, epochs=2):
        ...     print(progress.epoch, progress.train_state.step, progress.costs.shape)
        1 3 (1, 3)
        2 6 (1, 3)
    """
    _check_lasting(batches, epochs - start)
    config = StepConfig(
        "training.fit_batches", net, gradient, devices.mesh_axes(mesh), sync_statistics
    )
    # without mask, with
    programs = {arrays: _jit_step(config, optimizer, mesh, arrays) for arrays in (2, 3)}
    evaluation = as_pytree(evaluate)
    pad = _Padding(mesh)
    sharding = None if mesh is None else devices.row_sharding(mesh)

    def load(epoch: int) -> Iterator[BatchArrays]:
        loaded = batches if isinstance(batches, Iterable) else batches(epoch)
        return prefetch(map(pad, loaded), size=ahead, sharding=sharding)

    def iterate(train_state: TrainState) -> Iterator[Progress]:
        train_state = devices.copy_to(mesh, train_state)
        for epoch in range(start + 1, epochs + 1):
            train_state, costs = _train_epoch(programs, train_state, load(epoch), ahead)
            if not costs:
                raise ValueError(
                    "training.fit_batches: `batches` must yield at least one batch; got none in "
                    f"epoch {epoch}. An iterator is empty the second time: return a new one."
                )
            found = jax.tree.map(lambda a: a[None], _evaluate(evaluation, train_state))
            yield Progress(epoch, train_state, jnp.stack(costs)[None], found)

    return iterate(train_state)


def _check_lasting(batches: object, epochs: int) -> None:
    """Raise for an iterator that should last for several epochs."""
    if isinstance(batches, Iterator) and epochs > 1:
        raise ValueError(
            f"training.fit_batches: `batches` must last for {epochs} epochs; got an iterator, "
            "which is empty after one. Pass what can be iterated over again, or a function of the "
            "epoch that returns it."
        )


def _train_epoch(
    programs: dict[int, Callable[..., Any]],
    train_state: TrainState,
    batches: Iterator[BatchArrays],
    ahead: int,
) -> tuple[TrainState, list[jax.Array]]:
    """Train on each batch with the program for its number of arrays; return all costs."""
    costs: list[jax.Array] = []
    for batch in batches:
        train_state, cost = programs[len(batch)](train_state, *batch)
        costs.append(cost)
        if len(costs) > ahead:  # otherwise Python would enqueue steps, and batches, without limit
            costs[-ahead - 1].block_until_ready()
    return train_state, costs


class _Padding:
    """Pads batches to the number of rows of the first one, with a mask where rows are missing."""

    def __init__(self, mesh: Mesh | None) -> None:
        self.devices = 1 if mesh is None else len(mesh.local_devices)
        # processes must run the same program, and none sees the batches of the others
        self.always = mesh is not None and jax.process_count() > 1
        self.rows = 0

    def __call__(self, batch: BatchArrays) -> BatchArrays:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(
                "training.fit_batches: `batches` must yield pairs (x, targets); got "
                f"{type(batch).__name__}. Map each batch to such a pair."
            )
        names = ("x", "targets")
        x, targets = (
            np.asarray(as_numbers("training.fit_batches", *one))
            for one in zip(names, batch, strict=True)
        )
        self.rows = self.rows or -(-len(x) // self.devices) * self.devices
        missing = self.rows - len(x)
        if missing < 0:
            raise ValueError(
                "training.fit_batches: `batches` must yield no batch larger than the first, "
                f"{self.rows} rows; got {len(x)}."
            )
        if not missing and not self.always:
            return x, targets
        padded = (np.pad(a, ((0, missing), *((0, 0),) * (a.ndim - 1))) for a in (x, targets))
        return *padded, np.arange(self.rows) < len(x)


@jax.jit
def _evaluate(evaluation: Partial, train_state: TrainState) -> Any:
    return evaluation(train_state)


@lru_cache(maxsize=16)
def _jit_step(
    config: StepConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None,
    arrays: int,
) -> Callable[..., Any]:
    """Return the jitted step, sharded over the mesh if there is one, for so many arrays a batch.

    It is the same function for the same arguments: it is compiled once.
    """
    step = build_step(config, optimizer)
    if mesh is not None:
        rows = P(mesh.axis_names)
        step = jax.shard_map(step, mesh=mesh, in_specs=(P(),) + (rows,) * arrays, out_specs=P())
    return jax.jit(step, donate_argnums=0)
