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
        ndim: The rank of the array where it is marked. `vmap` may have added axes.
        features: The feature axes of x.
        eps: ε.
        obstacle: Why the normalization cannot be observed, or "".
        names: How many axes of a `vmap` it normalizes over; they are then x's and y's first.
    """

    number: int
    role: str
    ndim: int
    features: tuple[int, ...]
    eps: float
    obstacle: str
    names: int


def new_mark(x: Array, features: tuple[int, ...], eps: float, obstacle: str, names: int) -> Mark:
    """Return the mark of x in a normalization that has none yet."""
    return Mark(next(_numbers), "x", x.ndim, features, eps, obstacle, names)


def put(mark: Mark, a: Array) -> Array:
    """Return `a`, marked."""

    def name(a: Array) -> Array:
        return checkpoint_name(a, _PREFIX + json.dumps(mark))

    if not mark.names:
        return name(a)
    # only here: JAX cannot divide a custom_vmap into what is known before a pull-back and the rest
    marked = custom_vmap(name)

    @marked.def_vmap
    def marked_vmapped(axis_size, in_batched, a):  # the new axis is the first
        del axis_size
        features = tuple(axis + 1 for axis in mark.features)
        return put(mark._replace(features=features), a), in_batched[0]

    return marked(a)


def read(name: str) -> Mark | None:
    """Return the mark that a name holds, or None."""
    if not name.startswith(_PREFIX):
        return None
    number, role, ndim, features, *others = json.loads(name.removeprefix(_PREFIX))
    return Mark(number, role, ndim, tuple(features), *others)
