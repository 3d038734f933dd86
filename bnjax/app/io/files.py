"""The one way to write a file: beside, to the disk, then renamed; and JSON, checked as it is read.

Whoever reads a file finds the old one or the new one, whole, even after a power cut. A symbolic
link is never followed: what it points to does not belong to the run.
"""

import errno
import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from bnjax.app.errors import UserError

T = TypeVar("T")

_MOST_JSON = 2**28  # bytes; a feature takes some 40 in preparation.json

_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def write(
    path: Path, content: Callable[[BinaryIO], object], check: Callable[[Path], object] | None = None
) -> None:
    """Write a file beside `path`, force it to the disk, and rename it to `path`.

    Args:
        path: The file.
        content: Writes to the open file that it is given.
        check: Reads back what was written, before it is renamed, and raises if it is not whole.

    Raises:
        OSError: It cannot be written; what stood there before still does.
    """
    beside = temporary(path)
    beside.unlink(missing_ok=True)
    try:
        with open(
            os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | _PLAIN, 0o666), "wb"
        ) as file:
            content(file)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(beside)
        os.replace(beside, path)
        sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def temporary(path: Path) -> Path:
    """Return the name under which `write` writes before it renames."""
    return path.with_name(f".{path.name}.tmp")


def append_to(path: Path) -> BinaryIO:
    """Open a file to append to it, unbuffered: what is written survives the process.

    Raises:
        OSError: It cannot be opened, or is a link.
    """
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _PLAIN, 0o666), "ab", 0)


def subfolder(path: Path) -> Path:
    """Make a folder in a folder, if it is not there.

    Raises:
        OSError: It cannot be made, or something else has its name, for instance a link.
    """
    path.mkdir(exist_ok=True)
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise OSError(errno.ENOTDIR, "is a link or a file, not a folder", str(path))
    return path


def sync_folder(path: Path) -> None:
    """Force the names in a folder to the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
                raise
        finally:
            os.close(descriptor)


def to_json(value: Any, indent: int = 0) -> bytes:
    """Write a value as JSON; NaN and infinity, for which it has no word, become null."""
    try:
        text = msgspec.json.encode(value, enc_hook=_item)
    except UnicodeEncodeError:  # a name of a file that is no text; escaped, it can be read back
        plain = _without_nan(msgspec.to_builtins(value, enc_hook=_item))
        return json.dumps(plain, indent=indent or None).encode()
    return msgspec.json.format(text, indent=indent) if indent else text


def _item(number: Any) -> Any:
    return number.item()  # NumPy's


def _without_nan(value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_nan(item) for key, item in value.items()}
        case list() | tuple():
            return [*map(_without_nan, value)]
        case float() if not math.isfinite(value):
            return None
    return value


def check_plain(path: Path, most: float = _MOST_JSON) -> None:
    """Refuse what would hang or fill the memory when it is read: a pipe, a device, too large.

    Raises:
        OSError: It is not there, is no plain file, or has more bytes than `most`.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, "Is a directory", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is a pipe or a device, not a file", str(path))
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"has more than {most:,} bytes", str(path))


def read_json(path: Path, schema: type[T], way_out: str) -> T:
    """Read a file of JSON that must have the form of `schema`.

    Args:
        path: The file.
        schema: A type, as msgspec takes it.
        way_out: What the message tells the user to do.

    Raises:
        UserError: The file cannot be read, is not JSON, or has another form: it names the key.
    """
    try:
        check_plain(path)
        found = json.loads(path.read_bytes(), parse_constant=_refuse)
        return msgspec.convert(found, schema)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: {reason(error)}; {way_out}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"is not JSON: {constant}")


def reason(error: BaseException) -> str:
    """Say why something failed, in one line."""
    match error:
        case msgspec.ValidationError():
            found = str(error)
            return f"{found[:1].lower()}{found[1:]}".replace(" - at `$.", ", at `")
        case msgspec.DecodeError() | json.JSONDecodeError() | UnicodeDecodeError():
            return f"is not JSON: {error}"
        case RecursionError():
            return "is not JSON that is written here: nested too deeply"
        case OSError():
            return f"cannot be read: {error.strerror or error}"
    lines = str(error).splitlines()
    return lines[0] if lines else repr(error)
