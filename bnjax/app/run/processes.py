"""The devices that a run trains on: one, several of this process, or all of several processes.

Every process does the same, on the same data; each hands its own samples to its own devices, and
the first one alone writes and speaks.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from bnjax import training
from bnjax.app.errors import UserError
from bnjax.app.run import meeting
from bnjax.app.run.partners import Partners

T = TypeVar("T")
Tree = TypeVar("Tree")


class _AgreedError(UserError):
    """A UserError that every process of the run raises."""


@contextlib.contextmanager
def joined(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[Partners]:
    """Join the other processes of this run, if it has several; part from them in the end.

    Raises:
        UserError: They cannot be found.
    """
    if coordinator is None:
        yield Partners(0, {})
        return
    address, links = None, {}  # auto: Slurm and Open MPI end all processes where one dies
    if coordinator != "auto":
        links, address = meeting.meet(coordinator, num_processes or 1, process_id or 0)
    partners = Partners(process_id or 0, links)
    try:
        with _found(partners), _stdout_on_stderr():
            jax.distributed.initialize(address, num_processes, process_id)
            _gather(0)
        yield partners
    except _AgreedError:
        _part(partners)
        raise
    except BaseException as error:
        partners.desert(error)
        raise
    _part(partners)


@contextlib.contextmanager
def _found(partners: Partners) -> Iterator[None]:
    """Say of the errors that JAX raises how the processes find each other."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        partners.wait()  # more likely one of them is gone, and the watch says so
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--coordinator: the processes of this run cannot find each other: {reason}; name the "
            "HOST:PORT of the first one, with --num-processes and --process-id"
        ) from error


def _part(partners: Partners) -> None:
    jax.distributed.shutdown()  # waits for all, watched
    partners.part()


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


def together(begin: Callable[[], T]) -> T:
    """Begin in every process, or in none.

    Raises:
        UserError: This process, or another one, cannot begin.
    """
    begun, problem = None, None
    try:
        begun = begin()
    except UserError as error:
        problem = error
    if any(_gather(problem is not None)):
        raise _AgreedError(
            str(problem or "another process of this run cannot begin; see what it says")
        ) from problem
    return begun  # pyright: ignore[reportReturnType]


def choose(wanted: int | str | None) -> Mesh | None:
    """Lay out the devices that are asked for; None for a single one.

    Raises:
        UserError: There are fewer.
    """
    several = jax.process_count() > 1
    if several and wanted not in (None, "all"):
        raise UserError(
            f"--devices: several processes use all of their devices, got {wanted}; leave it out"
        )
    found = jax.devices()
    count = len(found) if several or wanted == "all" else int(wanted or 1)
    if count > len(found):
        raise UserError(f"--devices: expected at most {len(found)}, got {count}; use fewer, or all")
    return training.data_mesh(found[:count]) if count > 1 else None


def rows(mesh: Mesh | None, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the rows of this process of data of which each process has all."""
    if mesh is None:
        return arrays
    return tuple(array[training.local_rows(mesh, len(array))] for array in arrays)


def everywhere(mesh: Mesh | None, tree: Tree) -> Tree:
    """Copy arrays to each device."""
    return tree if mesh is None else training.copy_everywhere(mesh, tree)


def to_host(tree: Tree) -> Tree:
    """Copy arrays that all devices hold to NumPy."""
    # not a view: training is given the buffers
    return jax.tree.map(lambda a: np.array(a.addressable_data(0)), tree)


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
