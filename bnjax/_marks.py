"""Marks around each normalization, by which `geometry.observe_function` finds it in a program.

A mark is an identity with a name. There is none in ordinary programs: they are made only while
`observing` is set, which is part of the key under which JAX keeps what it has traced.
"""

import json
from itertools import count
from typing import NamedTuple

import jax
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.custom_batching import custom_vmap

_PREFIX = "bnjax.batch_norm "
_numbers = count()
observing = jax.make_user_context(False)


class Mark(NamedTuple):
    """What a mark says of its array, all static.

    Attributes:
        number: That of the normalization; where a traced function is used twice, of both.
        role: "x", "gamma" or "y".
        features: The feature axes of x.
        eps: ε.
        obstacle: Why the normalization cannot be observed, or "".
        names: How many axes of a `vmap` it normalizes over.
        vmapped: How many axes `vmap` has put before those of the array.
    """

    number: int
    role: str
    features: tuple[int, ...]
    eps: float
    obstacle: str
    names: int
    vmapped: int = 0


def new_mark(features: tuple[int, ...], eps: float, obstacle: str, names: int) -> Mark:
    """Return the mark of x in a normalization that has none yet."""
    return Mark(next(_numbers), "x", features, eps, obstacle, names)


def put(mark: Mark, a: Array) -> Array:
    """Return `a`, marked."""

    @custom_vmap
    def marked(a: Array) -> Array:
        return checkpoint_name(a, _PREFIX + json.dumps(mark))

    @marked.def_vmap
    def marked_vmapped(axis_size, in_batched, a):  # the new axis is the first
        del axis_size
        features = tuple(k + 1 for k in mark.features) if mark.role != "gamma" else mark.features
        return put(mark._replace(features=features, vmapped=mark.vmapped + 1), a), in_batched[0]

    return marked(a)


def read(name: str) -> Mark | None:
    """Return the mark that a name holds, or None."""
    if not name.startswith(_PREFIX):
        return None
    number, role, features, *others = json.loads(name.removeprefix(_PREFIX))
    return Mark(number, role, tuple(features), *others)
