"""Checkpoints: all that a run needs to go on, written beside and renamed, under digests.

A run folder holds `checkpoints/epoch_N/`, each with `state/` (orbax: parameters, statistics,
optimizer state, step, the key of the data's order, what the inputs were), `about.json` (small
figures) and `digests.json` (SHA-256 of every other file).
"""

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bnjax.app.errors import UserError

_FOLDER = "checkpoints"


class Checkpoint(NamedTuple):
    """What was true after an epoch."""

    epoch: int
    arrays: Any  # a pytree of NumPy arrays
    about: dict[str, Any]  # ready for JSON


def require() -> None:
    """Refuse to begin what could not be saved later.

    Raises:
        UserError: orbax is not installed.
    """
    # found, not imported: the import takes longer than an epoch, and is only due at the first one
    try:
        found = importlib.util.find_spec("orbax.checkpoint")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise UserError(
            "--checkpoint-every: checkpoints need orbax-checkpoint, which is not installed: "
            "pip install 'bnjax[cli]', or --checkpoint-every 0 to do without"
        )


def write(run: Path, checkpoint: Checkpoint, *, keep: int) -> None:
    """Write a checkpoint beside, rename it, and drop all but the newest `keep`.

    Raises:
        OSError: It cannot be written; what stood before still does.
    """
    import orbax.checkpoint as ocp  # slow to import

    folder = run / _FOLDER
    path = _path(run, checkpoint.epoch)
    beside = folder / f".{path.name}.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        with _checkpointer() as checkpointer:
            checkpointer.save(
                (beside / "state").resolve(), args=ocp.args.StandardSave(checkpoint.arrays)
            )
        (beside / "about.json").write_text(json.dumps(checkpoint.about), encoding="utf-8")
        digests = json.dumps(dict(_digests(beside)), indent=1)
        (beside / "digests.json").write_text(digests, encoding="utf-8")
        _discard(path)  # a damaged one, if any
        os.replace(beside, path)
    except Exception as error:
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError):
            raise
        # orbax reports a full disk in exceptions of its own, of several kinds
        raise OSError(0, str(error).splitlines()[0] if str(error) else repr(error)) from error
    past = [path for path in _all(run) if _epoch(path) <= checkpoint.epoch]
    for path in {*_all(run)} - {*past[:keep]}:  # what lies ahead was damaged, and passed over
        _discard(path)


def newest(
    run: Path, template: Callable[[int], Any], *, most: int, say: Callable[[str], None]
) -> Checkpoint | None:
    """Read the newest checkpoint that is whole.

    Args:
        run: The run folder.
        template: From an epoch to a pytree of arrays in the shapes and dtypes that it must have.
        most: The last epoch that metrics.jsonl covers.
        say: Told about each checkpoint that is passed over, and why.

    Returns:
        The checkpoint, or None where there is none.
    """
    for path in _all(run):
        epoch = _epoch(path)
        try:
            if epoch > most:
                raise ValueError(f"metrics.jsonl ends before it, after epoch {most}")
            return read(run, epoch, template(epoch))
        except Exception as error:  # whatever a damaged file makes orbax raise
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            say(f"{path} is damaged ({reason}): passed over")
    return None


def clear(run: Path) -> None:
    """Remove all checkpoints of a run."""
    _discard(run / _FOLDER)


def read(run: Path, epoch: int, template: Any) -> Checkpoint:
    """Read the checkpoint of an epoch.

    Raises:
        ValueError: It is damaged, or has another structure than `template`; so may orbax.
    """
    import orbax.checkpoint as ocp  # slow to import

    path = _path(run, epoch)
    wanted = json.loads((path / "digests.json").read_text(encoding="utf-8"))
    found = dict(_digests(path))
    for name in sorted({*wanted, *found}):
        if name not in found:
            raise ValueError(f"{name} is missing")
        if wanted.get(name) != found[name]:
            raise ValueError(f"{name} is not what was written")
    figures = about(run, epoch)
    with _checkpointer() as checkpointer:
        arrays = checkpointer.restore(
            (path / "state").resolve(), args=ocp.args.StandardRestore(template)
        )
    for got, like in zip(jax.tree.leaves(arrays), jax.tree.leaves(template), strict=True):
        if (got.shape, got.dtype) != (like.shape, like.dtype):
            raise ValueError(f"an array is {got.dtype}{got.shape}, not {like.dtype}{like.shape}")
    return Checkpoint(epoch, arrays, figures)


def about(run: Path, epoch: int) -> dict[str, Any]:
    """Read the small figures of the checkpoint of an epoch."""
    return json.loads((_path(run, epoch) / "about.json").read_text(encoding="utf-8"))


def _checkpointer() -> Any:
    """Make a checkpointer of this process alone, whatever others there are."""
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _path(run: Path, epoch: int) -> Path:
    return run / _FOLDER / f"epoch_{epoch}"


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != "digests.json":
            yield file.relative_to(folder).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()


def _all(run: Path) -> list[Path]:
    """List the checkpoints, newest first."""
    found = [path for path in run.glob(f"{_FOLDER}/epoch_*") if path.name[6:].isdecimal()]
    return sorted(found, key=_epoch, reverse=True)


def _epoch(path: Path) -> int:
    return int(path.name[6:])


def _discard(path: Path) -> None:
    """Remove a folder; a kill on the way leaves nothing that looks like a damaged checkpoint."""
    if path.exists():
        gone = path.with_name(f".{path.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(path, gone)
        shutil.rmtree(gone, ignore_errors=True)
