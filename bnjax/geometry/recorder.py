"""Looks at a model while it is trained by any loop, written so that a crash cannot lose them."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike, fspath
from types import TracebackType
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.experimental import io_callback

from bnjax.geometry.few_runs import jit_for_few_runs
from bnjax.geometry.functions import observe_function
from bnjax.geometry.layer_figures import layer_figures
from bnjax.geometry.observed import Observed, ObservedLayer
from bnjax.geometry.recording import (
    COSINES,
    Recording,
    empty_look,
    first_line,
    look_line,
    read_lines,
    read_look,
    torn_start,
    with_looks,
    without_looks,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _LayerLook:
    """One look at a layer: a pytree.

    Attributes:
        figures: Numbers, (n,).
        cosines: (3, 40).
        names: Of the figures, static.
    """

    figures: Array
    cosines: Array
    names: tuple[str, ...] = field(metadata={"static": True})


class Recorder:
    """Records what a model looks like while any loop trains it.

    A look takes one pass forward and backward of `loss` and as much again for the angles: on 32
    samples instead of the whole batch, `recorder.look(step, params, x[:32], y[:32])`, it is the
    cheaper. It is compiled at the first look, and again for another shape of the batch only.

    `look` may also be called in jitted code, in a `scan` over steps too; `step` is then traced.
    Not under `vmap` or `grad`.

    Args:
        loss: (params, *batch) to the cost, or to (cost, anything) with `has_aux`; in training mode,
            as for `observe_function`. What changes must be an argument: running statistics, a
            random key and so on are part of the batch.
        path: A file to write to, one line a look; None to record in memory only. If the file
            exists, it must be a recording of the same layers, which is gone on with.
        every: Steps from one look to the next.
        start: None, or the step that the training goes on from: the looks of the file at this step
            and later are removed.
        has_aux: As in `jax.grad`.
        plain: Whether layers without normalization are recorded, too.

    Raises:
        OSError: The file cannot be read or written.
        TypeError: `every` or `start` is not an int.
        ValueError: `every` < 1, `start` < 0; the file is no recording, or, at the first look, one
            of other layers.

    Example:
        >>> from bnjax import batch_norm
        >>> def loss(params, x, targets):
        ...     y, _ = batch_norm(x @ params["W"], params["gamma"])
        ...     return ((jax.nn.relu(y) - targets) ** 2).mean()
        >>> params = {"W": jnp.array([[3.0], [4.0]]), "gamma": jnp.ones(1)}
        >>> x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
        >>> with Recorder(loss, every=100) as recorder:
        ...     for step in range(201):
        ...         recorder.look(step, params, x, x[:, 1:])
        >>> print(recorder.recording.names, recorder.recording.steps)
        ("params['W']",) [  0 100 200]
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        path: str | PathLike[str] | None = None,
        *,
        every: int = 100,
        start: int | None = None,
        has_aux: bool = False,
        plain: bool = True,
    ) -> None:
        """Read the file, if it exists."""
        for name, value, least in (("every", every, 1), ("start", start, 0)):
            if value is not None:
                _check_number(name, value, least)
        self._path, self._every, self._start = path, every, start
        self._loss, self._options = loss, {"has_aux": has_aux, "plain": plain}
        self._found = None if path is None else _read_existing(path)
        self._layers: Recording | None = None  # known from the first look on
        self._steps: list[int] = []
        self._looks: list[np.ndarray] = []
        self._file: BinaryIO | None = None
        self._closed = False

    def look(self, step: int | Array, params: Any, *batch: Any) -> None:
        """Record what the model looks like, if `step` is a multiple of `every`.

        Args:
            step: The step of the training, larger from look to look.
            params: As `loss` takes them.
            *batch: The same. Of one shape throughout, at least 16 samples for `faults` to judge.

        Raises:
            OSError: The file cannot be written.
            TypeError: As `observe_function`.
            ValueError: As `observe_function`; `step` is not after the last look; the layers, or
                their samples, are not those of the recording; the recorder is closed.
        """
        self._check_open()
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((step, params, batch))):
            now, here = step % self._every == 0, partial(self._look_inside, step, params, batch)
            jax.lax.cond(now, here, lambda: None)
        elif int(step) % self._every == 0:
            observed = self._observe(params, batch)
            self._begin(observed)
            plain = (replace(layer, name="", unfollowed="") for layer in observed.layers)
            self._append(int(step), jax.device_get([*map(_look_at, plain)]))

    @property
    def recording(self) -> Recording:
        """The recording so far.

        Raises:
            ValueError: There was no look yet.
        """
        jax.effects_barrier()  # looks in jitted code
        if self._layers is not None:
            return with_looks(self._layers, self._steps, self._looks)
        if self._found is None:
            raise ValueError(
                "geometry.Recorder.recording: there was no look yet. Call look(0, params, *batch) "
                "before the first step."
            )
        return self._found[0]

    def close(self) -> None:
        """Close the file; the recording stays readable."""
        jax.effects_barrier()
        self._closed = True
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def __enter__(self) -> "Recorder":
        """Return the recorder, to be closed at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def _look_inside(self, step: int | Array, params: Any, batch: tuple[Any, ...]) -> None:
        observed = self._observe(params, batch)
        self._begin(observed)
        looks = [_look_at(layer) for layer in observed.layers]

        def append(step: np.ndarray, looks: list[_LayerLook]) -> None:
            self._append(int(step), jax.device_get(looks))

        io_callback(append, None, step, looks, ordered=True)

    def _observe(self, params: Any, batch: tuple[Any, ...]) -> Observed:
        return observe_function(self._loss, params, *batch, **self._options)

    def _begin(self, observed: Observed) -> None:
        """Note the layers at the first look, and open the file; later check that they stayed."""
        layers = observed.layers
        fresh = without_looks(
            names=[layer.name for layer in layers],
            norm=[layer.angles.rho is not None for layer in layers],
            unfollowed=[layer.unfollowed for layer in layers],
            skipped=observed.skipped,
            samples=[layer.samples for layer in layers],
        )
        if self._layers is not None:
            _check_same("the first look", self._layers, fresh)
            return
        if self._path is not None:
            line, size = first_line(fresh), 0
            if self._found is not None:
                found, ends = self._found
                _check_same(fspath(self._path), found, fresh)
                kept = sum(self._start is None or step < self._start for step in found.steps)
                self._steps, self._looks = found.steps[:kept].tolist(), list(found.looks[:kept])
                line, size = b"", ends[kept]
            self._file = open(self._path, "ab", 0)  # noqa: SIM115 - closed by `close`
            self._file.truncate(size)  # also of what a crash tore
            self._write(line)
        self._layers = fresh

    def _append(self, step: int, looks: list[_LayerLook]) -> None:
        self._check_open()
        if self._steps and step <= self._steps[-1]:
            raise ValueError(
                f"geometry.Recorder.look: `step` must be after the last look, {self._steps[-1]}; "
                f"got {step}. To record again from a step on, pass it as start=."
            )
        row = empty_look(len(looks))
        for at, look in enumerate(looks):
            for name, figure in zip(look.names, look.figures, strict=True):
                row[name][at] = figure
            for name, shares in zip(COSINES, look.cosines, strict=True):
                row[name][at] = shares
        line = look_line(step, row)
        self._write(line)
        self._steps.append(step)
        self._looks.append(read_look(line, len(looks))[1])  # as it is read from the file

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("geometry.Recorder.look: the recorder is closed; make another one.")

    def _write(self, line: bytes) -> None:
        """Write a line, or nothing of it."""
        if self._file is None:
            return
        size = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        except BaseException:
            self._file.truncate(size)
            raise


@jit_for_few_runs()
def _look_at(layer: ObservedLayer) -> _LayerLook:
    figures = layer_figures(layer)
    cosines = jnp.stack([figures.pop(name) for name in COSINES])
    return _LayerLook(jnp.stack([*figures.values()]), cosines, tuple(figures))


def _read_existing(path: str | PathLike[str]) -> tuple[Recording, list[int]] | None:
    """Read the file that is there, if any look can be in it."""
    if not os.path.exists(path) or torn_start(path):
        return None
    return read_lines(path)


def _check_same(other: str, wanted: Recording, got: Recording) -> None:
    """Raise where two recordings are not of the same layers."""
    for name in ("names", "norm", "unfollowed", "skipped", "samples"):
        a, b = getattr(wanted, name), getattr(got, name)
        if a != b:
            raise ValueError(
                f"geometry.Recorder.look: the layers must be those of {other}, whose {name} are "
                f"{a}; got {b}. Record another model, or batches of another size, by another "
                "Recorder with another path."
            )


def _check_number(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"geometry.Recorder: `{name}` must be an int; got {value!r}.")
    if value < least:
        raise ValueError(f"geometry.Recorder: `{name}` must be at least {least}; got {value}.")
