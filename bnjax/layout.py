"""A batch as its sums over samples see it: neighbouring axes merged, few channels side by side.

Every per-channel quantity is a vector (channels,): the feature axes in x's order, flattened.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard
from jax.typing import DTypeLike

from bnjax import _xla

Tree = TypeVar("Tree")


class Layout(NamedTuple):
    """A view of x in which neighbouring axes of one kind are merged. Static.

    Attributes:
        shape: Of the view.
        sample_axes: The view's sample axes; the others are feature axes. None for one sample.
        groups: The neighbouring axes of x that go together, and how many of the view's they are.
        samples_per_row: k, where (n, C) is seen as (n / k, k C).
    """

    shape: tuple[int, ...]
    sample_axes: tuple[int, ...]
    groups: tuple[tuple[tuple[int, ...], int], ...]
    samples_per_row: int

    @property
    def n(self) -> int:
        """The number of samples in each channel."""
        return self.samples_per_row * math.prod(self.shape[a] for a in self.sample_axes)

    @property
    def channels(self) -> int:
        """The number of channels."""
        return math.prod(self._feature_sizes()) // self.samples_per_row

    def _feature_sizes(self) -> list[int]:
        return [size for a, size in enumerate(self.shape) if a not in self.sample_axes]

    def view(self, x: Array) -> Array:
        """Return x, or another array of its shape, in this layout."""
        return x if x.shape == self.shape else x.reshape(self.shape)

    def view_weights(self, w: Array, shape: tuple[int, ...]) -> Array:
        """Return weights, of x's rank and broadcastable to its `shape`, in this layout."""
        if self.samples_per_row > 1:
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
        """Return a vector (channels,) in a shape that broadcasts to the view."""
        v = v if self.samples_per_row == 1 else jnp.tile(v, self.samples_per_row)
        return lax.expand_dims(v.reshape(self._feature_sizes()), self.sample_axes)

    def sum(self, t: Array) -> Array:
        """Sum a view over the samples: (channels,)."""
        total = t
        split = any(parts > 1 for _, parts in self.groups)
        for i, a in enumerate(reversed(self.sample_axes)):
            total = jnp.sum(_xla.separate(total, on_gpu=split) if i else total, a)
        if self.samples_per_row > 1:
            total = total.reshape(*_xla.split_row(self.samples_per_row), -1)
            while total.ndim > 1:
                total = jnp.sum(_xla.separate(total, on_gpu=False), 0)
        return _flat(total)

    def sum_weights(self, w: Array) -> Array:
        """Sum weights over the samples as if they had x's shape: (channels,)."""
        if self.samples_per_row > 1:
            return self.sum(w)
        repeats = math.prod(self.shape[a] for a in self.sample_axes if w.shape[a] == 1)
        total = jnp.asarray(repeats, w.dtype) * jnp.sum(w, self.sample_axes)
        return _flat(jnp.broadcast_to(total, self._feature_sizes()))

    def max(self, t: Array) -> Array:
        """Return the largest of a view over the samples: (channels,)."""
        largest = _flat(jnp.max(t, self.sample_axes))
        return jnp.max(largest.reshape(self.samples_per_row, -1), 0)

    def few_samples(self, x: Array) -> Array:
        """Return eight samples spread over a view of x, of fewer some twice: (8, channels)."""
        if not self.sample_axes:
            return jnp.broadcast_to(x.reshape(1, -1), (8, self.channels))
        long = [a for a in self.sample_axes if self.shape[a] >= 8]
        along = long[0] if long else max(self.sample_axes, key=lambda a: self.shape[a])
        for a in self.sample_axes:
            if a != along:
                x = lax.slice_in_dim(x, self.shape[a] // 2, self.shape[a] // 2 + 1, axis=a)
        # by number, not by strides: where x lies on several devices this is a single message
        numbers = [(2 * i + 1) * self.shape[along] // 16 for i in range(8)]
        few = jnp.take(x, jnp.array(numbers), axis=along, mode="clip", indices_are_sorted=True)
        return jnp.moveaxis(few, along, 0).reshape(8, -1)[:, : self.channels]


def by_platform(x: Array, features: tuple[int, ...], f: Callable[[Layout], Tree]) -> Tree:
    """Return `f` of the layout of a batch that suits the platform: merged on a CPU, else plain.

    XLA:GPU forms two sums at once, and beside them what they are sums of, from a batch (n, C), but
    not where feature axes enclose sample axes, as in (G, n, C). There these are merged, which moves
    nothing, as it may on a TPU, and split again as `_xla.split_for_gpu` says.

    Args:
        x: The batch.
        features: Its feature axes.
        f: Computes the same in every layout, but for rounding.
    """
    layouts = of(x, features), plain(x, features)
    apart = features[-1] - features[0] >= len(features)
    layouts += (merge(x, features, _xla.split_for_gpu) if apart else layouts[1],)
    if layouts[0] == layouts[1] == layouts[2]:
        return f(layouts[0])
    cpu, elsewhere, gpu = (lambda _, layout=layout: f(layout) for layout in layouts)
    if layouts[1] == layouts[2]:
        return _xla.by_platform(x, cpu=cpu, elsewhere=elsewhere)
    return _xla.by_platform(x, cpu=cpu, elsewhere=elsewhere, gpu=gpu)


def plain(x: Array, features: tuple[int, ...]) -> Layout:
    """Return the layout that is x's own shape: another one moves the numbers on an accelerator."""
    axes = tuple(range(x.ndim))
    samples = tuple(a for a in axes if a not in features)
    return Layout(x.shape, samples, tuple(((a,), 1) for a in axes), 1)


def channel_vector(v: Array, x: Array, features: tuple[int, ...]) -> Array:
    """Return an argument over the feature axes as a vector (channels,), sharded as sums of x."""
    v, spec = _flat(v), jax.typeof(x).sharding.spec
    wanted = P(spec[features[0]] if len(features) == 1 else None)
    return v if jax.typeof(v).sharding.spec == wanted else reshard(v, wanted)


def _flat(v: Array) -> Array:
    """Return an array over the feature axes as a vector."""
    if v.ndim > 1 and _sharded(v):
        v = reshard(v, P())  # no type says how the vector would lie on the devices
    return v.reshape(-1)


def _sharded(a: Array) -> bool:
    return any(part is not None for part in jax.typeof(a).sharding.spec)


def rearrangeable(x: Array) -> bool:
    """Return whether axes of x may be merged or split, and samples be picked out.

    Not where its type shards an axis: that may need communication, and JAX refuses some of it. Not
    where a size is a symbol, as under `jax.export`: nothing is known of it.
    """
    return not _sharded(x) and all(isinstance(size, int) for size in x.shape)


def of(x: Array, features: tuple[int, ...]) -> Layout:
    """Choose the layout of a batch for a CPU.

    Args:
        x: The batch.
        features: Its feature axes.
    """

    def split(size: int, groups: int) -> tuple[int, ...]:
        # on a CPU a sum across a vmap takes a hundred times as long beside an axis of size 1
        if size == 1:
            return ()
        return _xla.split_size(size, x.size) if groups > 2 else (size,)

    layout = merge(x, features, split)
    if not rearrangeable(x) or len(layout.shape) != 2 or layout.sample_axes != (0,):
        return layout
    n, channels = layout.shape
    k = _xla.samples_per_row(n, channels)
    return layout._replace(shape=(n // k, k * channels), samples_per_row=k)


def merge(
    x: Array,
    features: tuple[int, ...],
    split: Callable[[int, int], tuple[int, ...]] = lambda size, _: (size,),
) -> Layout:
    """Return the layout in which neighbouring axes of one kind are one, where they may be.

    Args:
        x: The batch.
        features: Its feature axes.
        split: From the size of merged sample axes and the number of merged axes, its own sizes.
    """
    if not rearrangeable(x):
        return plain(x, features)
    groups: list[tuple[int, ...]] = []
    for a in range(x.ndim):
        if a and (a in features) == (a - 1 in features):
            groups[-1] += (a,)
        else:
            groups.append((a,))
    shape: list[int] = []
    sample_axes: list[int] = []
    parts: list[int] = []
    for group in groups:
        size = math.prod(x.shape[a] for a in group)
        sizes = (size,)
        if group[0] not in features:
            sizes = split(size, len(groups))
            sample_axes += range(len(shape), len(shape) + len(sizes))
        shape += sizes
        parts.append(len(sizes))
    return Layout(tuple(shape), tuple(sample_axes), tuple(zip(groups, parts, strict=True)), 1)


def accumulator_dtype(*dtypes: DTypeLike) -> jnp.dtype:
    """Return the dtype in which sums over all of `dtypes` are formed: at least float32."""
    # not by promotion, which `jax_numpy_dtype_promotion="strict"` refuses
    wide = any(jnp.dtype(dtype) == jnp.float64 for dtype in dtypes)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)
