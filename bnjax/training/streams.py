"""Training on data that do not fit on the device: batches come one by one, and ahead of need.

(BL.6)  one step for each mini-batch
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, Sharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from bnjax.network import Network
from bnjax.training import devices
from bnjax.training.runs import Evaluate, Progress, as_argument
from bnjax.training.steps import Step, TrainState, make_step

Batch = tuple[ArrayLike, ...]


def prefetch(
    batches: Iterable[Batch], *, size: int = 2, sharding: Sharding | None = None
) -> Iterator[Batch]:
    """Send batches to the device while earlier ones are being worked on.

    JAX copies and computes without making Python wait: what the loop's body starts on one batch
    goes on while the next are read and sent.

    Args:
        batches: Whatever yields pytrees of arrays on the host, all of one kind.
        size: How many lie on the device beyond the one in use; at least 1.
        sharding: None for one device; or how to lay each array out over several. With several
            processes each brings its own rows.

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
        raise ValueError(f"prefetch: `size` must be at least 1; got {size}.")

    def send(a: ArrayLike) -> jax.Array:
        if sharding is None:
            return jax.device_put(a)
        return jax.make_array_from_process_local_data(sharding, np.asarray(a))

    def ahead() -> Iterator[Batch]:
        sent: deque[Batch] = deque()
        for batch in batches:
            sent.append(jax.tree.map(send, batch))
            if len(sent) > size:
                yield sent.popleft()
        yield from sent

    return ahead()


def fit_batches(
    net: Network,
    optimizer: optax.GradientTransformation,
    train_state: TrainState,
    batches: Callable[[int], Iterable[Batch]],
    *,
    epochs: int,
    start: int = 0,
    gradient: str = "rule",
    evaluate: Evaluate | None = None,
    mesh: Mesh | None = None,
    sync_statistics: bool = True,
    ahead: int = 2,
) -> Iterator[Progress]:
    """Train on batches that somebody else reads, with the step that `fit` scans.

    Args:
        net: The network.
        optimizer: As in `make_step`.
        train_state: As in `fit`. Donated.
        batches: Epoch number, counted from 1 -> its batches (x, targets), on the host; a loader
            such as grain's may be behind it. If the number alone decides what comes, a run that
            goes on sees what it would have seen. All have the size of the first, or less: such a
            one is filled up and masked. With several processes: this one's rows.
        epochs: As in `fit`.
        start: As in `fit`.
        gradient: As in `make_step`.
        evaluate: As in `fit`.
        mesh: As in `fit`.
        sync_statistics: As in `make_step`.
        ahead: How many batches wait on the device, as in `prefetch`.

    Returns:
        An iterator of `Progress`, after every epoch.

    Raises:
        ValueError: As in `fit`; or an epoch has no batch, or one that is larger than the first.

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
    names = None if mesh is None else tuple(mesh.axis_names)
    step = make_step(
        net, optimizer, gradient=gradient, axis_name=names, sync_statistics=sync_statistics
    )
    whole, masked = (_compiled(step, mesh, arrays) for arrays in (2, 3))
    sharding = None if mesh is None else devices.by_row(mesh)
    look = jax.jit(as_argument(evaluate))

    here = 1 if mesh is None else len(mesh.local_devices)
    # processes must agree on which program runs, and one cannot see another's batch
    always = mesh is not None and jax.process_count() > 1
    rows = 0

    def filled(batches: Iterable[Batch]) -> Iterator[Batch]:
        nonlocal rows
        for batch in batches:
            rows = rows or -(-np.shape(batch[0])[0] // here) * here
            yield _fill(batch, rows, always)

    def go_on(train_state: TrainState) -> Iterator[Progress]:
        if mesh is None:
            train_state = jax.device_put(train_state)
        else:
            train_state = devices.copy_everywhere(mesh, train_state)
        for epoch in range(start + 1, epochs + 1):
            costs: list[jax.Array] = []
            for batch in prefetch(filled(batches(epoch)), size=ahead, sharding=sharding):
                train_state, cost = (whole if len(batch) == 2 else masked)(train_state, *batch)
                costs.append(cost)
                if len(costs) > ahead:  # or Python would queue up steps, and batches with them
                    costs[-ahead - 1].block_until_ready()
            if not costs:
                raise ValueError(
                    f"fit_batches: `batches` must yield at least one batch; got none in epoch "
                    f"{epoch}. An iterator is empty the second time: return a new one."
                )
            found = jax.tree.map(lambda a: a[None], look(train_state))
            yield Progress(epoch, train_state, jnp.stack(costs)[None], found)

    return go_on(train_state)


def _fill(batch: Batch, rows: int, always: bool) -> Batch:
    """Fill a batch up to so many rows, with a mask; leave a whole one alone, unless always."""
    x, targets = map(np.asarray, batch)
    empty = rows - len(x)
    if empty < 0:
        raise ValueError(
            f"fit_batches: `batches` must yield none that is larger than the first, {rows} rows; "
            f"got {len(x)}."
        )
    if not empty and not always:
        return x, targets
    filled = (np.pad(a, ((0, empty), (0, 0))) for a in (x, targets))
    return *filled, np.arange(rows) < len(x)


def _compiled(step: Step, mesh: Mesh | None, arrays: int) -> Callable[..., Any]:
    if mesh is not None:
        rows = P(mesh.axis_names)
        step = jax.shard_map(step, mesh=mesh, in_specs=(P(),) + (rows,) * arrays, out_specs=P())
    return jax.jit(step, donate_argnums=0)
