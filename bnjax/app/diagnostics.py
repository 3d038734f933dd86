"""What the geometry of a run was, epoch by epoch: recorded in training, read back to explain it.

(G.1)  angles between Δ, u and x on one batch that stays the same
(G.6)  what stopped, and what handed its learning to γ

geometry.npz holds the batch, `x` and `targets`, and for each network one structured array: a row
for each epoch that was looked at, 0 for before training, its fields those of `geometry.Summary`.
"""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import geometry, training
from bnjax.app.errors import UserError
from bnjax.app.progress import say
from bnjax.app.sessions import Session
from bnjax.network import Network, Params

FILE = "geometry.npz"
_MOST = 1000  # samples in the batch: all vectors of a layer are as long as that
_FEWEST = 60  # where the training's own batches are of one sample, which has no direction
_WRITING = 0.02  # share of the time that writing the file may take: it is written whole each time
_NOT_FIGURES = ("cos1", "cos2", "cos3", "percentiles")


class Recorder:
    """The readings of a run on its way; what has been written survives any crash."""

    def __init__(self, session: Session, x: Array, targets: Array) -> None:
        """Choose the batch, or take up what was recorded up to where the session stands."""
        self._session = session
        size = batch_size(session.batch_size, len(x))
        deal = training.shuffle(jax.random.fold_in(session.key, 0), len(x), size)[0]  # epoch 0: new
        self._batch = x[deal], targets[deal]
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in session.runs}
        self._summarize, self._dtypes = {}, {}
        for name, run in session.runs.items():
            summarize = jax.jit(lambda *args, net=run.net: geometry.summarize(net, *args))
            args = run.train_state.params, *self._batch
            found = jax.eval_shape(summarize, *args)._asdict().items()
            fields = [(field, like.dtype, like.shape) for field, like in found]
            self._dtypes[name] = np.dtype([("epoch", np.int32), *fields])
            self._summarize[name] = summarize.lower(*args).compile()
        self._next = 0.0
        if session.epoch:
            self._take_up()
        else:
            for name in session.runs:
                self.look(name)
            self.write()

    def look(self, name: str, epoch: int = 0) -> dict[str, Any]:
        """Look at one network after an epoch, if it is one of those to look at.

        Returns:
            What belongs into its line of metrics.jsonl: "geometry", figures for each layer; or
            nothing.
        """
        if epoch % self._session.options.diagnostics:
            return {}
        params = self._session.runs[name].train_state.params
        found = self._summarize[name](params, *self._batch)._asdict()
        row = np.array((epoch, *map(np.asarray, found.values())), self._dtypes[name])
        self._rows[name].append(row)
        if time.monotonic() > self._next:
            self.write()
        figures = (field for field in found if field not in _NOT_FIGURES)
        return {"geometry": {field: _rounded(row[field]) for field in figures}}

    def write(self) -> None:
        """Write geometry.npz."""
        began = time.monotonic()
        x, targets = map(np.asarray, self._batch)
        rows = {name: np.array(self._rows[name], self._dtypes[name]) for name in self._rows}
        self._session.folder.write_arrays(FILE, {"x": x, "targets": targets, **rows})
        self._next = time.monotonic() + (time.monotonic() - began) / _WRITING

    def _take_up(self) -> None:
        path, epoch = self._session.folder.path, self._session.epoch
        try:
            found = read(path)
            for name, dtype in self._dtypes.items():
                rows = found[name]
                if rows.dtype != dtype:
                    raise ValueError(f"{name} holds other fields or shapes")
                self._rows[name] = list(rows[rows["epoch"] <= epoch])
        except (KeyError, OSError, ValueError) as error:
            say(f"{path / FILE} is damaged ({error}): what it held up to epoch {epoch} is lost")


def batch_size(own: int, samples: int) -> int:
    return min(own if own > 1 else _FEWEST, samples, _MOST)


def read(path):
    with np.load(path / FILE, allow_pickle=False) as archive:
        return dict(archive)


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]
