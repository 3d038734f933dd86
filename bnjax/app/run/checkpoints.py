"""Checkpoints: all that a run needs to go on, one file each, `checkpoints/epoch_N.npz`.

The file holds every array of the networks' train states (parameters, statistics, optimizer state,
step), a few figures as JSON, and the digest of both. It counts once it has been read back. Runs of
bnjax 0.1 have folders written by orbax instead, which `orbax_checkpoints` reads.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict

import jax
import msgspec
import numpy as np

from bnjax.app.errors import UserError
from bnjax.app.io import arrays as npz
from bnjax.app.io import files
from bnjax.app.io.folder import Folder
from bnjax.app.io.terminal import say
from bnjax.app.measures.divergence import Divergence
from bnjax.app.run import orbax_checkpoints
from bnjax.training import TrainState

FOLDER = "checkpoints"
_ABOUT = "about"


class About(TypedDict):
    """The figures of a checkpoint."""

    seconds: dict[str, float]
    checks: dict[str, dict[str, float]]
    diverged: dict[str, Divergence]


class Checkpoint(NamedTuple):
    """What was true after an epoch."""

    epoch: int
    networks: dict[str, TrainState]  # of NumPy arrays
    about: About


def write(folder: Folder, checkpoint: Checkpoint, *, keep: int) -> None:
    """Write a checkpoint, read it back, and drop all but the newest `keep`.

    Raises:
        UserError: It cannot be written; what stood before still does.
    """
    arrays = _named(checkpoint.networks)
    arrays[_ABOUT] = np.frombuffer(files.to_json(checkpoint.about), np.uint8)

    def check(path: Path) -> None:
        try:
            same = npz.digest(npz.load(path)) == npz.digest(arrays)
        except ValueError as error:
            raise OSError(0, f"it does not read back ({error})") from error
        if not same:
            raise OSError(0, "it does not read back as it was written")

    folder.write(_name(checkpoint.epoch), lambda file: npz.save(file, arrays), check)
    clean(folder, newest_epochs(folder.path, checkpoint.epoch)[:keep])


def clean(folder: Folder, kept: list[int]) -> None:
    """Delete checkpoints but those of the epochs `kept`, and what a kill has left of others."""
    with folder.writing(FOLDER):
        dropped = {*_epochs(folder.path), *_epochs(folder.path, ".", ".npz.tmp")} - {*kept}
        folder.remove(map(_name, dropped))


def newest_epochs(run: Path, most: int) -> list[int]:
    """List the epochs up to `most` that have a checkpoint, newest first."""
    return sorted((epoch for epoch in _epochs(run) if epoch <= most), reverse=True)


def newest(run: Path, template: Mapping[str, TrainState], *, most: int) -> Checkpoint | None:
    """Read the newest checkpoint that is whole; those that are not are named and passed over.

    Args:
        run: The run folder.
        template: Train states with the shapes and dtypes that it must have.
        most: The last epoch that metrics.jsonl covers.

    Returns:
        The checkpoint, or None where there has never been one.

    Raises:
        UserError: There are checkpoints, and none can be read.
    """
    epochs = sorted({*_epochs(run), *orbax_checkpoints.epochs(run / FOLDER)}, reverse=True)
    for epoch in epochs:
        try:
            if epoch > most:
                raise ValueError(f"metrics.jsonl ends before it, after epoch {most}")
            return read(run, epoch, template)
        except (OSError, ValueError) as error:
            say(f"{run / FOLDER}: the checkpoint of epoch {epoch} is passed over: {error}")
    if epochs:
        raise UserError(
            f"--resume: none of the {len(epochs)} checkpoints in {run / FOLDER} can be used, as "
            "said above; nothing was changed: bring one back from a copy, or start another run"
        )
    return None


def read(run: Path, epoch: int, template: Mapping[str, TrainState]) -> Checkpoint:
    """Read the checkpoint of an epoch.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is damaged, or does not fit the template.
    """
    if not (run / _name(epoch)).exists():
        networks, found = orbax_checkpoints.read(run / FOLDER, epoch, template)
    else:
        arrays = npz.load(run / _name(epoch))
        found = json.loads(arrays.pop(_ABOUT, np.zeros(0, np.uint8)).tobytes() or b"{}")
        networks = _filled(template, arrays)
    try:
        return Checkpoint(epoch, networks, msgspec.convert(found, About))
    except msgspec.ValidationError as error:
        raise ValueError(f"its figures: {files.reason(error)}") from error


def _named(networks: Mapping[str, TrainState]) -> dict[str, np.ndarray]:
    """Return the arrays of train states, named by network and path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(dict(networks))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _filled(
    template: Mapping[str, TrainState], arrays: Mapping[str, np.ndarray]
) -> dict[str, TrainState]:
    """Return the template with named arrays in the place of its own.

    Raises:
        ValueError: One is missing, too much, or of another shape or dtype.
    """
    wanted = _named(template)
    for name in sorted({*wanted, *arrays}):
        like, got = wanted.get(name), arrays.get(name)
        if like is None or got is None:
            raise ValueError(f"{name} is {'not expected' if like is None else 'missing'}")
        if (got.shape, got.dtype) != (like.shape, like.dtype):
            raise ValueError(f"{name} is {got.dtype}{got.shape}, not {like.dtype}{like.shape}")
    structure = jax.tree.structure(dict(template))
    return jax.tree.unflatten(structure, [arrays[name] for name in wanted])


def _name(epoch: int) -> str:
    return f"{FOLDER}/epoch_{epoch}.npz"


def _epochs(run: Path, before: str = "", after: str = ".npz") -> set[int]:
    """Return the epochs that have a checkpoint, by its very name."""
    folder = run / FOLDER
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    digits = {name[len(before) + 6 : -len(after)] for name in names if name.endswith(after)}
    epochs = {int(each) for each in digits if each.isdecimal() and len(each) < 10}
    return {epoch for epoch in epochs if f"{before}epoch_{epoch}{after}" in names}


def files_of(run: Path) -> list[str]:
    """List the files of a run that are checkpoints, or what a kill has left of one."""
    return [_name(epoch) for epoch in _epochs(run) | _epochs(run, ".", ".npz.tmp")]
