"""How a batch is laid out for its sums over samples, and how each sum reads it afresh.

Every per-channel quantity is a vector (channels,): the feature axes in x's order, flattened.
"""

import math
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

_LANES = 1024  # numbers in a row of a batch with few channels: full vectors, short columns
_FEW = 64  # channels below which a row would be mostly overhead, and a column a long, lossy sum
_LONG = 1 << 8
_SMALL = 1 << 17  # numbers up to which short sums matter more than long reads
_SHORT = 16

Tree = TypeVar("Tree")


class Layout(NamedTuple):
    """A view of x in which neighbouring axes of one kind are merged. Static.

    Attributes:
        shape: Of the view.
        samples: The view's sample axes.
        groups: The neighbouring axes of x that go together, and how many of the view's they are.
        lanes: How many samples stand in one row: (n, C) is seen as (n / lanes, lanes · C).
    """

    shape: tuple[int, ...]
    samples: tuple[int, ...]
    groups: tuple[tuple[tuple[int, ...], int], ...]
    lanes: int

    @property
    def n(self) -> int:
        """The number of samples in each channel."""
        return self.lanes * math.prod(self.shape[a] for a in self.samples)

    @property
    def channels(self) -> int:
        """The number of channels."""
        return math.prod(self._features()) // self.lanes

    def _features(self) -> list[int]:
        return [size for a, size in enumerate(self.shape) if a not in self.samples]

    def view(self, x: Array) -> Array:
        """See x, or another array of its shape, in this layout."""
        return x if x.shape == self.shape else x.reshape(self.shape)

    def view_weights(self, w: Array, shape: tuple[int, ...]) -> Array:
        """See weights, broadcastable to x of `shape` and of its rank, in this layout."""
        if self.lanes > 1:
            return jnp.broadcast_to(w, shape).reshape(self.shape)
        spread, sizes = list(w.shape), list(self.shape)
        seen: list[int] = []
        for group, parts in self.groups:
            one = all(w.shape[a] == 1 for a in group)
            own = [sizes.pop(0) for _ in range(parts)]
            seen += [1] * parts if one else own
            for a in () if one else group:
                spread[a] = shape[a]
        return jnp.broadcast_to(w, spread).reshape(seen)

    def row(self, v: Array) -> Array:
        """Make a vector (channels,) broadcastable to the view."""
        v = v if self.lanes == 1 else jnp.tile(v, self.lanes)
        return lax.expand_dims(v.reshape(self._features()), self.samples)

    def sum(self, t: Array) -> Array:
        """Sum over the samples: view -> (channels,)."""
        last, *others = reversed(self.samples)
        total = jnp.sum(t, last)
        # each a sum of its own, behind a barrier, or XLA makes one of them: one long chain of
        # additions loses what small terms add to a large one
        for a in others:
            total = jnp.sum(lax.optimization_barrier(total), a)
        if self.lanes > 1:
            total = total.reshape(*_factors(self.lanes), -1)
            while total.ndim > 1:
                total = jnp.sum(lax.optimization_barrier(total), 0)
        return total.reshape(-1)

    def sum_weights(self, w: Array) -> Array:
        """Sum weights over the samples as if they had x's shape: (channels,)."""
        if self.lanes > 1:
            return self.sum(w)
        repeats = math.prod(self.shape[a] for a in self.samples if w.shape[a] == 1)
        total = repeats * jnp.sum(w, self.samples)
        return jnp.broadcast_to(total, self._features()).reshape(-1)

    def max(self, t: Array) -> Array:
        """Take the largest over the samples: view -> (channels,)."""
        return jnp.max(jnp.max(t, self.samples).reshape(self.lanes, -1), 0)

    def sample(self, x: Array, number: int) -> Array:
        """Take one sample of a view of x: (channels,)."""
        number, lane = divmod(number, self.lanes)
        start, stop = [0] * x.ndim, list(x.shape)
        for a in reversed(self.samples):
            number, start[a] = divmod(number, self.shape[a])
            stop[a] = start[a] + 1
        flat = lax.slice(x, start, stop).reshape(-1)
        return flat[lane * self.channels : (lane + 1) * self.channels]


def of(x: Array, features: tuple[int, ...]) -> Layout:
    """Choose the layout of a batch.

    Args:
        x: The batch.
        features: Its feature axes.
    """
    # axes sharded by type stay apart: merging them may need communication, or be refused
    apart = any(part is not None for part in jax.typeof(x).sharding.spec)
    groups: list[tuple[int, ...]] = []
    for a in range(x.ndim):
        if a and not apart and (a in features) == (a - 1 in features):
            groups[-1] += (a,)
        else:
            groups.append((a,))
    shape: list[int] = []
    samples: list[int] = []
    parts: list[int] = []
    short = x.size <= _SMALL and not apart and len(groups) > 2
    for group in groups:
        size = math.prod(x.shape[a] for a in group)
        sizes = _factors(size) if short and group[0] not in features else (size,)
        if group[0] not in features:
            samples += range(len(shape), len(shape) + len(sizes))
        shape += sizes
        parts.append(len(sizes))
    layout = Layout(tuple(shape), tuple(samples), tuple(zip(groups, parts, strict=True)), 1)
    if apart or len(shape) != 2 or samples != [0]:
        return layout
    n, channels = shape
    if channels >= _FEW or n < _LONG:
        return layout
    if x.size <= _SMALL:
        rows, most = n, n // _SHORT
    else:  # of the rows left, a power of two can still be shared out between devices
        rows, most = n // math.gcd(n, 64), _LANES // max(channels, 1)
    lanes = max(d for d in range(1, most + 1) if rows % d == 0)
    return layout._replace(shape=(n // lanes, lanes * channels), lanes=lanes)


def _factors(size: int) -> tuple[int, ...]:
    """Split a size into short ones, as far as its divisors allow."""
    short: list[int] = []
    while size > _SHORT:
        part = max(d for d in range(1, _SHORT + 1) if size % d == 0)
        if part == 1:
            break
        short.append(part)
        size //= part
    return size, *short


def fresh(arrays: Tree, reader: int = 1) -> Tree:
    """Hand the arrays on so that what is formed from them is formed once more, not shared.

    XLA:CPU writes out a value that two sums share, x − shift say, and reads it back: one and a
    half times the work. Behind a barrier each sum forms it from x while it reads. A GPU shares
    inside one loop and needs no barrier.

    Args:
        arrays: The arrays.
        reader: A number from 1, its own for each reader of the same arrays: XLA takes two
            barriers around the same for one, so that reader k stands behind k of them.
    """

    def behind(arrays: Tree) -> Tree:
        for _ in range(reader):
            # one by one: around several, JAX 0.10 lets all of them vary under shard_map
            arrays = jax.tree.map(lax.optimization_barrier, arrays)
        return arrays

    return lax.platform_dependent(arrays, cpu=behind, default=lambda arrays: arrays)
