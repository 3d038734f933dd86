"""What the geometry of a run was, epoch by epoch: recorded in training, read back to explain it.

The angles between Δ, u and x (G.1), and the neurons and weights that stopped learning (G.6), are
those of one batch, which stays the same.

geometry.npz holds the batch, `x` and `targets`, and for each network one structured array: a row
for each epoch that was looked at, 0 for before training; its fields are those of
`geometry.Summary`.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import geometry
from bnjax.app.io import arrays as npz
from bnjax.app.io.folder import Folder
from bnjax.app.io.terminal import say
from bnjax.identities.quick import quick
from bnjax.network import Network, Params, init

FILE = "geometry.npz"
_BATCH = ("x", "targets")
_MOST = 1000  # samples in the batch: all vectors of a layer are as long as that
_INSTEAD_OF_ONE = 60  # samples, where the training's own batch is a single one
_WRITING = 0.02  # share of the time that writing the file may take: it is written whole each time
_FEW = 500  # looks: fewer are had sooner from a program that was compiled in a hurry
_PICTURES = ("cos1", "cos2", "cos3", "percentiles")  # too many numbers for a line of metrics

Batch = tuple[Array, Array]
Look = Callable[[Params, int], np.ndarray]


class Recorder:
    """Looks at the networks of a run on their way; those that were written survive any crash."""

    def __init__(
        self,
        folder: Folder,
        nets: Mapping[str, Network],
        params: Mapping[str, Params],
        batch: Batch,
        *,
        every: int,
        epochs: int,
        start: int = 0,
    ) -> None:
        """Look for the first time, or take up what was seen so far.

        Args:
            folder: Where geometry.npz is written.
            nets: The networks.
            params: Their parameters, which tell the shapes.
            batch: The samples to look at, from `choose_batch`.
            every: Epochs between two looks.
            epochs: All epochs of the run.
            start: The epoch that it goes on from.
        """
        self._folder, self._nets, self._batch, self._every = folder, nets, batch, every
        looks = epochs // every
        self._looks = {
            name: make_look(net, params[name], batch, looks=looks) for name, net in nets.items()
        }
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in nets}
        self._next = 0.0  # when the file may be written again
        if start:
            self._take_up(start)
        else:
            for name in nets:
                self.look(name, params[name], 0)

    def look(self, name: str, params: Params, epoch: int) -> dict[str, list[float]]:
        """Look at one network after an epoch, if it is one of those to look at.

        Returns:
            What its line of metrics.jsonl says of it, figures for each layer; or nothing.
        """
        if epoch % self._every:
            return {}
        row = self._looks[name](params, epoch)
        self._rows[name].append(row)
        if time.monotonic() >= self._next:
            self.write()
        figures = (field for field in row.dtype.names or () if field not in _PICTURES)
        return {f: _short(row[f]) for f in figures if f != "epoch"}

    def write(self) -> None:
        """Write geometry.npz."""
        began = time.monotonic()
        arrays: dict[str, Any] = dict(zip(_BATCH, map(np.asarray, self._batch), strict=True))
        arrays |= {name: np.array(rows) for name, rows in self._rows.items() if rows}
        self._folder.write(FILE, lambda file: npz.save(file, arrays))
        ended = time.monotonic()
        self._next = ended + (ended - began) / _WRITING

    def _take_up(self, epoch: int) -> None:
        try:
            found = read(self._folder.path)[1]
            for name, net in self._nets.items():
                check_rows(name, found[name], net, self._batch)
                self._rows[name] = list(found[name][found[name]["epoch"] <= epoch])
        except (KeyError, OSError, ValueError) as error:
            say(f"{FILE} cannot be read ({error}): looks up to epoch {epoch} are missing")


def choose_batch(x: Array, targets: Array, *, batch_size: int, seed: int) -> Batch:
    """Choose the samples to look at: as many as a mini-batch has, which is what learning sees."""
    size = min(batch_size if batch_size > 1 else _INSTEAD_OF_ONE, len(x), _MOST)
    # by NumPy: neither the weights nor the order of the samples come from this seed
    chosen = np.random.default_rng(seed).permutation(len(x))[:size]
    return x[chosen], targets[chosen]


def make_look(net: Network, params: Params, batch: Batch, *, looks: int) -> Look:
    """Make (params, epoch) -> a row of geometry.npz; params here tell the shapes."""
    # a compiler that takes its time makes a look three times as fast, and takes as long as 500
    summarize = quick("net")(geometry.summarize) if looks < _FEW else geometry.summarize
    dtype = _dtype_of_rows(net, params, batch)

    def look(params: Params, epoch: int) -> np.ndarray:
        found = jax.device_get(summarize(net, params, *batch))
        return np.array((epoch, *found), dtype)

    return look


def read(path: Path) -> tuple[Batch, dict[str, np.ndarray]]:
    """Read a run's geometry.npz: the batch, and the rows of each network, for `check_rows`.

    Raises:
        OSError: It is not there.
        ValueError: It is damaged.
    """
    arrays = npz.load(path / FILE)
    if not {*_BATCH} <= arrays.keys():
        raise ValueError(f"it does not hold {' and '.join(_BATCH)}")
    x, targets = (arrays.pop(name) for name in _BATCH)
    for name, array in (("x", x), ("targets", targets)):
        if array.ndim != 2 or not array.size or array.dtype.kind != "f":
            raise ValueError(f"{name} is {array.dtype}{array.shape}, not a row for each sample")
    if len(x) != len(targets):
        raise ValueError(f"it has {len(x)} samples and {len(targets)} targets")
    return (jnp.asarray(x), jnp.asarray(targets)), arrays


def check_rows(name: str, rows: np.ndarray, net: Network, batch: Batch) -> None:
    """Check rows of geometry.npz against the network that they are said to be of.

    Raises:
        ValueError: They are not what `make_look` makes of it, in any precision.
    """
    layers = len(net.sizes) - 1  # compared before thousands of them are traced
    if "W" in (rows.dtype.names or ()) and rows["W"].shape[1:] != (layers,):
        raise ValueError(f"{name} does not hold {layers} layers")
    params, _ = jax.eval_shape(partial(init, net), jax.random.key(0))
    wanted = _dtype_of_rows(net, params, batch)
    if rows.dtype.names is None or not {*(wanted.names or ())} <= {*rows.dtype.names}:
        raise ValueError(f"{name} does not hold the fields of this version of bnjax")
    for field in wanted.names or ():
        like, got = wanted[field], rows.dtype[field]
        if (got.shape, got.base.kind) != (like.shape, like.base.kind):
            raise ValueError(f"{name}, {field}: {got}, not {like}")
    if rows.ndim != 1 or not len(rows) or np.any(np.diff(rows["epoch"], prepend=-1) < 1):
        raise ValueError(f"the epochs of {name} are not in their order")


def _dtype_of_rows(net: Network, params: Params, batch: Batch) -> np.dtype:
    fields = jax.eval_shape(partial(geometry.summarize, net), params, *batch)._asdict().items()
    return np.dtype([("epoch", np.int32), *((f, like.dtype, like.shape) for f, like in fields)])


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]
