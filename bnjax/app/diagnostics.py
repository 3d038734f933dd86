"""What the geometry of a run was, epoch by epoch: recorded in training, read back to explain it.

The angles between Δ, u and x (G.1), and the neurons and weights that stopped learning (G.6), are
those of one batch, which stays the same.

geometry.npz holds the batch, `x` and `targets`, and for each network one structured array: a row
for each epoch that was looked at, 0 for before training; its fields are those of
`geometry.Summary`.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import geometry
from bnjax.app.progress import say
from bnjax.app.sessions import Session
from bnjax.identities.quick import quick
from bnjax.network import Network, Params

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
    """The looks at a run on its way; those that were written survive any crash.

    Without --diagnostics, and in processes that write nothing, it does nothing.
    """

    def __init__(self, session: Session, x: Array, targets: Array) -> None:
        """Look for the first time, or take up what was seen up to where the session stands."""
        self._session, self._folder = session, session.folder
        self._every = session.options.diagnostics
        if not self._every or self._folder is None:
            return
        own, seed = session.batch_size, session.options.seed
        self._batch = choose_batch(x, targets, batch_size=own, seed=seed)
        looks = session.options.epochs // self._every
        self._looks = {
            name: make_look(run.net, run.here.params, self._batch, looks=looks)
            for name, run in session.runs.items()
        }
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in session.runs}
        self._next = 0.0  # when the file may be written again
        if session.epoch:
            self._take_up(self._folder.path, session.epoch)
        else:
            for name in session.runs:
                self.look(name, 0)

    def look(self, name: str, epoch: int) -> dict[str, Any]:
        """Look at one network after an epoch, if it is one of those to look at.

        Returns:
            What its line of metrics.jsonl says of it: "geometry", figures for each layer; or
            nothing.
        """
        if not self._every or self._folder is None or epoch % self._every:
            return {}
        row = self._looks[name](self._session.runs[name].here.params, epoch)
        self._rows[name].append(row)
        if time.monotonic() >= self._next:
            self.write()
        figures = (field for field in row.dtype.names or () if field not in _PICTURES)
        return {"geometry": {f: _short(row[f]) for f in figures if f != "epoch"}}

    def write(self) -> None:
        """Write geometry.npz."""
        if not self._every or self._folder is None:
            return
        began = time.monotonic()
        arrays: dict[str, Any] = dict(zip(_BATCH, map(np.asarray, self._batch), strict=True))
        arrays |= {name: np.array(rows) for name, rows in self._rows.items() if rows}
        self._folder.write(FILE, lambda path: np.savez(path, **arrays))
        ended = time.monotonic()
        self._next = ended + (ended - began) / _WRITING

    def _take_up(self, path: Path, epoch: int) -> None:
        try:
            found = read(path)[1]
            for name in self._rows:
                self._rows[name] = list(found[name][found[name]["epoch"] <= epoch])
        except (KeyError, OSError, ValueError) as error:
            say(f"{path / FILE} is lost ({error}): looks up to epoch {epoch} are missing")


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
    fields = jax.eval_shape(partial(geometry.summarize, net), params, *batch)._asdict().items()
    dtype = np.dtype([("epoch", np.int32), *((f, like.dtype, like.shape) for f, like in fields)])

    def look(params: Params, epoch: int) -> np.ndarray:
        found = jax.device_get(summarize(net, params, *batch))
        return np.array((epoch, *found), dtype)

    return look


def read(path: Path) -> tuple[Batch, dict[str, np.ndarray]]:
    """Read a run's geometry.npz: the batch, and the rows of each network.

    Raises:
        OSError: It is not there.
        ValueError: It is damaged.
    """
    with (path / FILE).open("rb") as file:
        try:
            arrays = dict(np.load(file, allow_pickle=False))
            x, targets = (jnp.asarray(arrays.pop(name)) for name in _BATCH)
        except Exception as error:  # whatever a damaged archive makes NumPy raise
            raise ValueError(f"a damaged file: {error}") from error
    for name, rows in arrays.items():
        if rows.dtype.names is None or not {"epoch", *geometry.Summary._fields} <= {
            *rows.dtype.names
        }:
            raise ValueError(f"{name} does not hold the fields of this version of bnjax")
    return (x, targets), arrays


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]
