"""The run folder: what a run leaves behind, written so that no crash loses a finished line."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bnjax.app.errors import UserError
from bnjax.app.io import arrays as npz
from bnjax.app.io import files, folder
from bnjax.app.run import checkpoints, metrics
from bnjax.app.run.metrics import Line
from bnjax.network import NormDense, Params, State


class RunFolder(folder.Folder):
    """A folder that holds one run: its configuration, metrics, checkpoints, networks, pictures."""

    kind = "run"
    names = (
        "config.json",
        metrics.FILE,
        "summary.json",
        "preparation.json",
        "params_baseline.npz",
        "params_bn.npz",
        "folded.npz",
        "curves.png",
        "inputs.png",
        "predictions.csv",
        "geometry.npz",
        "report/index.html",
    )

    def __init__(self, path: Path, option: str) -> None:
        """Open and lock the folder; see `create` and `reopen`."""
        self._metrics = None
        super().__init__(path, option)
        self.way_out = f"free some space, then go on with bnjax train --resume {path}"

    def own_names(self) -> list[str]:
        """List the files that a run may have written, the marker aside."""
        return [*self.names, *checkpoints.files_of(self.path)]

    def write_metrics(self, line: Line) -> None:
        """Add one line to metrics.jsonl, unbuffered: a later crash cannot lose it."""
        written = files.to_json(line) + b"\n"
        with self.writing(metrics.FILE):
            file = self._open_metrics()
            end = file.seek(0, os.SEEK_END)
            try:
                while written:
                    written = written[file.write(written) :]
            except OSError:
                with suppress(OSError):
                    file.truncate(end)  # half a line is worth nothing
                raise

    def keep_metrics(self, epoch: int) -> list[Line]:
        """Drop the lines after `epoch`, a torn last one too; return the others."""
        kept, end = [], 0
        for line, end_of_line in metrics.lines(self.path):
            if line["epoch"] > epoch:
                break
            kept.append(line)
            end = end_of_line
        with self.writing(metrics.FILE):
            self._open_metrics().truncate(end)
        return kept

    def sync_metrics(self) -> None:
        """Force the lines so far to the disk, before a checkpoint counts on them."""
        with self.writing(metrics.FILE):
            os.fsync(self._open_metrics().fileno())

    def write_params(self, name: str, params: Params, state: State) -> None:
        """Write NAME.npz: layer{l}.W, .b or .gamma, .beta, .mean, .var, ...."""
        arrays: dict[str, np.ndarray] = {}
        seen = iter(state)
        for number, layer in enumerate(params):
            parts = dict(layer._asdict())
            if isinstance(layer, NormDense):
                parts |= next(seen)._asdict()
            arrays |= {f"layer{number}.{key}": np.asarray(part) for key, part in parts.items()}
        self.write(f"{name}.npz", lambda file: npz.save(file, arrays))

    def close(self) -> None:
        """Close metrics.jsonl, and give the folder free."""
        if self._metrics is not None:
            self._metrics.close()
        super().close()

    def _open_metrics(self) -> Any:
        path = self.path / metrics.FILE
        if self._metrics is None:
            self._metrics = files.append_to(path)
        elif not os.path.exists(path) or not os.path.samestat(
            os.stat(path), os.fstat(self._metrics.fileno())
        ):
            raise UserError(
                f"{path} was deleted or replaced while the run was writing it; bring it back, or "
                "start another run: its checkpoints count on it"
            )
        return self._metrics
