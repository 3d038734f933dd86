"""The run folder: what a run leaves behind, written so that no crash loses a finished line."""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

import bnjax
from bnjax.app import checkpoints, saved
from bnjax.app.checkpoints import Checkpoint
from bnjax.app.errors import UserError
from bnjax.network import NormDense, Params, State

try:
    import fcntl
except ModuleNotFoundError:  # Windows: two runs into one folder are not told apart there
    fcntl = None

_PACKAGES = ("jax", "jaxlib", "optax", "chex", "numpy")
_OWN = (
    "config.json",
    "summary.json",
    "params_*.npz",
    "folded.npz",
    "curves.png",
    "inputs.png",
    "predictions.csv",
    "geometry.npz",
    "report/*",
)


class RunFolder:
    """A folder that holds one run: config.json, metrics.jsonl, checkpoints, params, pictures.

    folded.npz is the normalized network as a baseline network (P.4).
    metrics.jsonl is locked as long as the run lives: a second run into the folder is refused, and
    the lock dies with the process, however that dies.
    """

    def __init__(self, path: Path, metrics: BinaryIO) -> None:
        """Take a folder whose open metrics.jsonl is locked; see `create` and `reopen`."""
        self.path = path
        self._metrics = metrics

    @classmethod
    def create(cls, path: str | None, *, overwrite: bool) -> "RunFolder":
        """Make the folder, or empty it of an earlier run.

        Raises:
            UserError: It holds something and may not be overwritten, or cannot be written.
        """
        with _naming("--out", path or "runs", "name another folder"):
            place = _fresh() if path is None else Path(path)
            used = place.is_dir() and any(place.iterdir())
            taken = (
                f"--out: {place} is not empty; name another folder, or add --overwrite to lose the "
                "run in it"
            )
            if used and not overwrite:
                raise UserError(taken)
            place.mkdir(parents=True, exist_ok=True)
            folder = cls(place, _lock("--out", place))
            used |= folder._metrics.seek(0, os.SEEK_END) > 0  # by a run that was quicker
            if used and not overwrite:
                raise UserError(taken)
            if used:
                for file in (file for pattern in _OWN for file in place.glob(pattern)):
                    file.unlink()
                checkpoints.clear(place)
                folder._metrics.truncate(0)
        return folder

    @classmethod
    def reopen(cls, place: Path) -> "RunFolder":
        """Take up the folder of a run that has begun.

        Raises:
            UserError: It is in use or cannot be written.
        """
        with _naming("--resume", place, "see to its permissions"):
            return cls(place, _lock("--resume", place))

    def write_config(self, options: Mapping[str, Any], resolved: Mapping[str, Any]) -> None:
        """Write all that is needed to repeat the run."""
        config = {
            "options": options,
            "resolved": resolved,
            "versions": {
                "python": platform.python_version(),
                "bnjax": bnjax.__version__,
                **{name: version(name) for name in _PACKAGES},
            },
            "platform": platform.platform(),
            "device": device_name(),
            "x64": jnp.result_type(float) == jnp.float64,
        }
        self.write_json("config.json", config)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a file of JSON."""
        self._replace(name, lambda path: path.write_text(_json(value, indent=2), encoding="utf-8"))

    def write_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl, unbuffered: a later crash cannot lose it."""
        written = (_json(line) + "\n").encode()
        end = self._metrics.seek(0, os.SEEK_END)
        with self._writing(saved.METRICS):
            try:
                while written:
                    written = written[self._metrics.write(written) :]
            except OSError:
                with suppress(OSError):
                    self._metrics.truncate(end)  # half a line is worth nothing
                raise

    def keep_metrics(self, epoch: int) -> list[dict[str, Any]]:
        """Drop the lines after `epoch`, a torn last one too; hand out the others."""
        lines, end = [], 0
        for line, end_of_line in saved.lines(self.path):
            if line["epoch"] > epoch:
                break
            lines, end = [*lines, line], end_of_line
        with self._writing(saved.METRICS):
            self._metrics.truncate(end)
        return lines

    def write_params(self, name: str, params: Params, state: State, **more: Any) -> None:
        """Write NAME.npz: layer{l}.W, .b or .gamma, .beta, .mean, .var, ...; and `more`."""
        arrays = dict(more)
        seen = iter(state)
        for number, layer in enumerate(params):
            parts = dict(layer._asdict())
            if isinstance(layer, NormDense):
                parts |= next(seen)._asdict()
            arrays |= {f"layer{number}.{key}": np.asarray(part) for key, part in parts.items()}
        self.write_arrays(f"{name}.npz", arrays)

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a file of arrays."""
        self._replace(name, lambda path: np.savez(path, **arrays))

    def write_picture(self, name: str, draw: Callable[[Path], None]) -> None:
        """Let `draw` write a picture."""
        self._replace(name, draw)

    def write_checkpoint(self, checkpoint: Checkpoint, *, keep: int) -> None:
        """Write a checkpoint, and drop all but the newest `keep`."""
        with self._writing(f"the checkpoint of epoch {checkpoint.epoch}"):
            checkpoints.write(self.path, checkpoint, keep=keep)

    def close(self) -> None:
        """Close metrics.jsonl, and give the folder free."""
        self._metrics.close()

    def _replace(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write beside and rename: whoever reads `name` finds the old or the new, never half."""
        beside = self.path / f".tmp.{name}"
        with self._writing(name):
            try:
                write(beside)
                os.replace(beside, self.path / name)
            finally:
                beside.unlink(missing_ok=True)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path}: {name} cannot be written: {error.strerror}; what stands there is "
                f"whole: mend this, then go on with bnjax train --resume {self.path}"
            ) from error


def device_name() -> str:
    """Name the device that JAX computes on."""
    device = jax.devices()[0]
    return f"{device.platform} ({device.device_kind})"


def finite(value: Any) -> Any:
    """Turn NaN and infinity into None: JSON has no word for them."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fresh() -> Path:
    stem = time.strftime("%Y-%m-%d_%H-%M-%S")
    path, number = Path("runs") / stem, 2
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            path, number = Path("runs") / f"{stem}_{number}", number + 1


def _lock(option: str, place: Path) -> BinaryIO:
    """Open metrics.jsonl, to append to it, and hold its lock."""
    file = (place / saved.METRICS).open("ab", buffering=0)
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(
                f"{option}: another run is writing into {place}; wait for it to end, or name "
                "another folder"
            ) from None
        except OSError:  # some network file systems have no locks
            pass
    return file


@contextmanager
def _naming(option: str, place: str | Path, way_out: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{option}: {place} cannot be written: {error.strerror}; {way_out}"
        ) from None


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(finite(value), indent=indent, allow_nan=False)
