"""A grid of networks, in parts that fit into the memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

_USABLE_MEMORY = 0.8  # of what is free: the rest for fragmentation and other programs


class Grid(NamedTuple):
    """H hyperparameters by S seeds: the networks, numbered row by row."""

    hyperparameters: Any
    keys: Array

    @property
    def rows(self) -> int:
        """Return H, the number of hyperparameters."""
        return len(jax.tree.leaves(self.hyperparameters)[0])

    @property
    def seeds(self) -> int:
        """Return S, the number of seeds."""
        return len(self.keys)

    @property
    def networks(self) -> int:
        """Return the number of networks, H S."""
        return self.rows * self.seeds

    def check(self, at_once: int | None) -> None:
        """Raise for an empty grid, and for less than one network at once."""
        if not self.networks or (at_once is not None and at_once < 1):
            raise ValueError(
                "training.sweep: `hyperparameters`, `keys` and `at_once` must be at least one "
                f"each; got {self.rows}, {self.seeds} and {at_once}."
            )

    def members(self, numbers: np.ndarray) -> tuple[Any, Array]:
        """Return the hyperparameters and the keys of the networks with these numbers."""
        row, seed = np.divmod(numbers, self.seeds)
        return jax.tree.map(lambda a: np.asarray(a)[row], self.hyperparameters), self.keys[seed]


def side_by_side(f: Callable, size: int, mapped: int) -> Callable:
    """Map f over the first axis of its first `mapped` arguments: by vmap if size > 1."""
    if size > 1:

        def many(*args: Any) -> Any:
            return jax.vmap(f, in_axes=(0,) * mapped + (None,) * (len(args) - mapped))(*args)

        return many

    def alone(*args: Any) -> Any:
        first = jax.tree.map(lambda a: a[0], args[:mapped])
        return jax.tree.map(lambda a: a[None], f(*first, *args[mapped:]))

    return alone


def even_part(networks: int, at_once: int) -> int:
    """Return the size of equal parts, as few of them as parts of `at_once` networks allow."""
    parts = -(-networks // at_once)
    return -(-networks // parts)


def networks_that_fit(program: jax.stages.Compiled, size: int) -> int:
    """Return how many networks fit into the free memory, given a program for `size` of them.

    The result is at most `size`, and equal to it where the device does not report its memory.
    """
    memory, needs = jax.devices()[0].memory_stats(), program.memory_analysis()
    if memory is None or needs is None or "bytes_limit" not in memory:
        return size
    free = _USABLE_MEMORY * (memory["bytes_limit"] - memory["bytes_in_use"])
    needed = needs.temp_size_in_bytes + needs.argument_size_in_bytes
    return max(1, min(size, int(size * free / needed)))
