"""The run folder: what a run leaves behind, written so that no crash loses a finished line."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bnjax.app import checkpoints, folders, saved
from bnjax.app.checkpoints import Checkpoint
from bnjax.app.errors import UserError
from bnjax.network import NormDense, Params, State

try:
    import fcntl
except ModuleNotFoundError:  # Windows: two runs into one folder are not told apart there
    fcntl = None

_OWN = (
    "config.json",
    "summary.json",
    "preparation.json",
    "params_*.npz",
    "folded.npz",
    "curves.png",
    "inputs.png",
    "predictions.csv",
    "geometry.npz",
    "report/*",
)


class RunFolder(folders.Folder):
    """A folder that holds one run: config.json, metrics.jsonl, checkpoints, params, pictures.

    folded.npz is the normalized network as a baseline network (P.4).
    metrics.jsonl is locked as long as the run lives: a second run into the folder is refused, and
    the lock dies with the process, however that dies.
    """

    def __init__(self, path: Path, metrics: BinaryIO) -> None:
        """Take a folder whose open metrics.jsonl is locked; see `create` and `reopen`."""
        super().__init__(path)
        self._metrics = metrics
        self.mend = f"mend this, then go on with bnjax train --resume {path}"

    @classmethod
    def create(cls, path: str | None, *, overwrite: bool) -> "RunFolder":
        """Make the folder, or empty it of an earlier run.

        Raises:
            UserError: It holds something and may not be overwritten, or cannot be written.
        """
        place, used = folders.prepare(path, overwrite=overwrite)
        with folders.naming("--out", place, "name another folder"):
            folder = cls(place, _lock("--out", place))
            if folder._metrics.seek(0, os.SEEK_END) and not overwrite:  # a run that was quicker
                folder.close()
                raise folders.not_empty(place)
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
        with folders.naming("--resume", place, "see to its permissions"):
            return cls(place, _lock("--resume", place))

    def write_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl, unbuffered: a later crash cannot lose it."""
        written = (folders.to_json(line) + "\n").encode()
        end = self._metrics.seek(0, os.SEEK_END)
        with self.writing(saved.METRICS):
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
        with self.writing(saved.METRICS):
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
        self.write(f"{name}.npz", lambda path: np.savez(path, **arrays))

    def write_checkpoint(self, checkpoint: Checkpoint, *, keep: int) -> None:
        """Write a checkpoint, and drop all but the newest `keep`."""
        with self.writing(f"the checkpoint of epoch {checkpoint.epoch}"):
            checkpoints.write(self.path, checkpoint, keep=keep)

    def close(self) -> None:
        """Close metrics.jsonl, and give the folder free."""
        self._metrics.close()


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
