"""The devices that a run trains on: one, several of this process, or all of several processes.

Every process does the same, on the same data; each hands its own samples to its own devices, and
the first one alone writes and speaks.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TypeVar

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from bnjax import training
from bnjax.app.errors import UserError
from bnjax.app.options import Train
from bnjax.training import TrainState

Tree = TypeVar("Tree")


def join(options: Train) -> None:
    """Join the other processes of this run, if it has several.

    Raises:
        UserError: They cannot be found.
    """
    if options.coordinator is None:
        return
    try:
        with _stdout_on_stderr():
            jax.distributed.initialize(
                None if options.coordinator == "auto" else options.coordinator,
                options.num_processes,
                options.process_id,
            )
            everyone(True)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--coordinator: the processes of this run cannot find each other: {reason}; name the "
            "HOST:PORT of the first one, with --num-processes and --process-id"
        ) from error


@contextlib.contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Lead what C++ prints elsewhere: Gloo greets on stdout, which may be a JSON object's."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def is_first() -> bool:
    """Return whether this process writes and speaks."""
    return jax.process_index() == 0


def choose(options: Train) -> Mesh | None:
    """Lay out the devices that are asked for; None for a single one.

    Raises:
        UserError: There are fewer.
    """
    several = jax.process_count() > 1
    if several and options.devices not in (None, "all"):
        raise UserError(
            f"--devices: several processes use all of their devices, got {options.devices}; "
            "leave it out"
        )
    found = jax.devices()
    wanted = len(found) if several or options.devices == "all" else int(options.devices or 1)
    if wanted > len(found):
        raise UserError(
            f"--devices: expected at most {len(found)}, got {wanted}; use fewer, or all"
        )
    return training.data_mesh(found[:wanted]) if wanted > 1 else None


def place(mesh: Mesh | None, train_state: TrainState) -> TrainState:
    """Copy a train state to each device."""
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, train_state)
    return training.copy_everywhere(mesh, train_state)


def share(mesh: Mesh | None, *arrays: Array) -> tuple[Array, ...]:
    """Put data, of which each process has all, on the devices: each of these takes its share."""
    if mesh is None:
        return arrays
    samples = len(arrays[0])
    rows = training.local_rows(mesh, samples)
    return tuple(training.spread(mesh, array[rows], samples) for array in arrays)


def here(tree: Tree) -> Tree:
    """Take this process's own copy of arrays that all devices hold."""
    return jax.tree.map(lambda a: a.addressable_data(0), tree)


def everyone(flag: bool) -> bool:
    """Return whether it holds in all processes."""
    return not any(_gather(not flag))


def anyone(flag: bool) -> bool:
    """Return whether it holds in any process."""
    return any(_gather(flag))


def from_first(number: int) -> int:
    """Return the number that the first process has, in all processes."""
    return int(_gather(number)[0])


def _gather(number: int) -> np.ndarray:
    if jax.process_count() == 1:
        return np.array([number])
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.array(number)).reshape(-1)
