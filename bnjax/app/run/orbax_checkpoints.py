"""Checkpoints of bnjax 0.1: folders `epoch_N/` that orbax wrote, read so that old runs go on.

Each holds `state/` (orbax), `about.json`, and `digests.json`, SHA-256 of every other file. The
statistics of a normalization lie side by side there, its kinds one after the other.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bnjax.training import TrainState


def epochs(folder: Path) -> list[int]:
    """List the epochs that have such a checkpoint."""
    found = [path.name for path in folder.glob("epoch_*") if (path / "digests.json").exists()]
    return [int(name[6:]) for name in found if name[6:].isdecimal()]


def read(
    folder: Path, epoch: int, template: Mapping[str, TrainState]
) -> tuple[dict[str, TrainState], dict[str, Any]]:
    """Read the networks of a checkpoint, and its figures.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is damaged or does not fit the template, or orbax is not installed.
    """
    path = folder / f"epoch_{epoch}"
    try:
        import orbax.checkpoint as ocp
    except ModuleNotFoundError as error:
        raise ValueError(
            "it is one of bnjax 0.1, which needs orbax: pip install orbax-checkpoint"
        ) from error
    wanted = json.loads((path / "digests.json").read_text(encoding="utf-8"))
    inside = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    del inside["digests.json"]
    if wanted != {
        name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in inside.items()
    }:
        raise ValueError("its files are not those that were written")
    about = json.loads((path / "about.json").read_text(encoding="utf-8"))
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            stored = checkpointer.restore((path / "state").resolve())["networks"]
        return {name: _fill(one, stored[name]) for name, one in template.items()}, about
    except Exception as error:  # whatever a damaged file makes orbax raise
        raise ValueError(f"orbax cannot read it: {error!r}".splitlines()[0]) from error


def _fill(template: TrainState, stored: Any) -> TrainState:
    """Return a train state whose arrays are the stored ones."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    normalized = len(stored["state"]) if template.state else 0

    def find(path: tuple[Any, ...], like: np.ndarray) -> np.ndarray:
        route: list[Any] = [
            getattr(key, "name", getattr(key, "idx", getattr(key, "key", None))) for key in path
        ]
        if route[0] == "state":
            kind, layer = divmod(route[1], normalized)
            route[1:2] = [layer, kind]
        found = stored
        for key in route:
            if key == "var_remainder" and key not in found:  # of before it was kept
                return 0 * np.asarray(found["var"])
            found = found[key]
        if (found.shape, found.dtype) != (like.shape, like.dtype):
            raise ValueError(
                f"an array is {found.dtype}{found.shape}, not {like.dtype}{like.shape}"
            )
        return np.asarray(found)

    return jax.tree.unflatten(structure, [find(path, np.asarray(leaf)) for path, leaf in leaves])
