"""A folder that belongs to bnjax: a marker says so, and a lock holds it while a command writes.

The folder itself is locked, not a file in it, which could be deleted; the lock dies with the
process, however that dies.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, TypedDict

import bnjax
from bnjax.app.errors import UserError, refusals
from bnjax.app.io import files

try:
    import fcntl
except ModuleNotFoundError:  # Windows: two runs into one folder are not told apart there
    fcntl = None

_MARKER = ".bnjax"

Kind = Literal["run", "sweep", "claims"]


class _Marker(TypedDict):
    folder: Kind
    bnjax: str


class Folder:
    """A folder of ours, locked until `close`, whose files are written whole or not at all.

    Attributes:
        kind: What the marker of such folders says.
        names: The files that a command may write there, and nothing else it ever deletes.
    """

    kind: Kind
    names: tuple[str, ...]

    def __init__(self, path: Path, option: str) -> None:
        """Open and lock a folder that exists.

        Args:
            path: The folder.
            option: The option that has named it, for messages.

        Raises:
            UserError: It cannot be opened, or another process is writing into it.
        """
        self.path = path
        self.way_out = "free some space or restore the permissions, then try again"
        with naming(option, path):
            self._descriptor = os.open(path, os.O_RDONLY) if fcntl is not None else -1
        try:
            self._lock(option)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: str | None, *, overwrite: bool) -> Self:
        """Make the folder that --out names, or a new one in runs/; or empty one of ours.

        Raises:
            UserError: It holds something that may not be overwritten, or cannot be made.
        """
        with naming("--out", path or "runs"):
            place = _new_folder() if path is None else Path(path)
            place.mkdir(parents=True, exist_ok=True)
        folder = cls(place, "--out")
        try:
            with naming("--out", place):
                folder._empty(overwrite=overwrite)
                folder.mark()
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """Open the folder that --resume names, of something that has begun.

        Raises:
            UserError: It is in use or cannot be written.
        """
        opened = cls(path, "--resume")
        opened.mark()
        return opened

    def mark(self) -> None:
        """Write the marker that says what the folder is."""
        self.write(_MARKER, _Marker(folder=self.kind, bnjax=bnjax.__version__))

    def write(
        self,
        name: str,
        content: Callable[[BinaryIO], object] | bytes | Any,
        check: Callable[[Path], object] | None = None,
    ) -> None:
        """Write a file: what a function writes, bytes, or a value as JSON.

        Raises:
            UserError: It cannot be written; what stood there before still does.
        """
        if not callable(content):
            data = content if isinstance(content, bytes) else files.to_json(content, indent=2)
            content = lambda file: file.write(data)  # noqa: E731
        path = self.path / name
        with self.writing(name):
            if path.parent != self.path:
                files.subfolder(path.parent)
            files.write(path, content, check)

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Turn what the operating system refuses into one line for the user."""
        way_out = f"every file in the folder is as it was before; {self.way_out}"
        with refusals(f"{self.path}: {name} cannot be written", way_out):
            self._still_there()
            yield

    def remove(self, names: Iterable[str]) -> None:
        """Delete files of ours, and temporary files that a kill has left of them.

        Raises:
            OSError: One cannot be deleted, or is no plain file: then none has been deleted.
        """
        paths = [self.path / name for name in names]
        paths += [files.temporary(path) for path in paths]
        there = [path for path in paths if path.parent == self.path or _is_folder(path.parent)]
        there = [path for path in there if os.path.lexists(path)]
        for path in there:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise OSError(errno.EINVAL, f"{path.name} is a link or a folder that no run wrote")
        for path in there:
            path.unlink()
        for parent in {path.parent for path in there} - {self.path}:
            with suppress(OSError):  # somebody's own files are in it
                parent.rmdir()

    def own_names(self) -> list[str]:
        """List the files that a command may have written, the marker aside."""
        return list(self.names)

    def close(self) -> None:
        """Give the folder free."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _empty(self, *, overwrite: bool) -> None:
        torn = (files.temporary(self.path / name).name for name in (_MARKER, *self.names))
        held = {*os.listdir(self.path)} - {_MARKER, *torn}
        if not held:  # new, or of a run that was killed before it wrote anything
            return
        if not overwrite:
            raise UserError(
                f"--out: {self.path} is not empty; name another folder, or add --overwrite to "
                f"delete the {self.kind} in it"
            )
        marker = files.read_json(
            self.path / _MARKER,
            _Marker,
            f"--overwrite deletes a {self.kind} of this version of bnjax alone, which this folder "
            "does not hold; name another folder, or empty it yourself",
        )
        if marker["folder"] != self.kind:
            raise UserError(
                f"--overwrite: {self.path} holds a {marker['folder']}, not a {self.kind}; name "
                "another folder"
            )
        self.remove(self.own_names())

    def _lock(self, option: str) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{option}: another run is writing into {self.path}; wait for it to end, or name "
                "another folder"
            ) from None
        except OSError:  # some network file systems have no locks
            pass

    def _still_there(self) -> None:
        """Raise OSError if the folder was renamed or removed since it was opened."""
        if self._descriptor < 0:
            return
        found, opened = os.stat(self.path), os.fstat(self._descriptor)
        if (found.st_dev, found.st_ino) != (opened.st_dev, opened.st_ino):
            raise OSError(errno.ENOENT, "another folder has its name now; it was moved or removed")


def naming(option: str, path: str | Path) -> AbstractContextManager[None]:
    """Name option, place and way out where the operating system refuses a folder."""
    way_out = "name another folder, or see to its permissions"
    return refusals(f"{option}: {path} cannot be used", way_out)


def _is_folder(path: Path) -> bool:
    return os.path.lexists(path) and stat.S_ISDIR(path.lstat().st_mode)


def _new_folder() -> Path:
    """Make a folder in runs/ that is named for the time."""
    stem = time.strftime("%Y-%m-%d_%H-%M-%S")
    path, number = Path("runs") / stem, 2
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            path, number = Path("runs") / f"{stem}_{number}", number + 1
