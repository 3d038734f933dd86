"""Folders that commands write into, so that whoever reads a file finds the old or the new one."""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import bnjax
from bnjax.app.errors import UserError

_PACKAGES = ("jax", "jaxlib", "optax", "chex", "numpy")


class Folder:
    """A folder whose files are written beside and renamed."""

    mend = "mend this and try again"

    def __init__(self, path: Path) -> None:
        """Take a folder that exists."""
        self.path = path

    def write_config(self, options: Mapping[str, Any], resolved: Mapping[str, Any]) -> None:
        """Write config.json: all that is needed to do it again."""
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

    def write_json(self, name: str, value: Any) -> None:
        """Write a file of JSON."""
        self.write_text(name, to_json(value, indent=2))

    def write_text(self, name: str, text: str) -> None:
        """Write a file of text."""
        self.write(name, lambda path: path.write_text(text, encoding="utf-8"))

    def write(self, name: str, write: Callable[[Path], Any]) -> None:
        """Let `write` write a file, beside, and rename it."""
        beside = self.path / f".tmp.{name}"
        with self.writing(name):
            try:
                write(beside)
                os.replace(beside, self.path / name)
            finally:
                beside.unlink(missing_ok=True)

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Turn what the operating system refuses into one line for the user."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path}: {name} cannot be written: {error.strerror}; what stands there is "
                f"whole: {self.mend}"
            ) from error


def prepare(path: str | None, *, overwrite: bool) -> tuple[Path, bool]:
    """Make the folder of --out, or a fresh one in runs/.

    Returns:
        The folder, and whether it holds something.

    Raises:
        UserError: It holds something and may not be overwritten, or cannot be made.
    """
    with naming("--out", path or "runs", "name another folder"):
        place = _fresh() if path is None else Path(path)
        used = place.is_dir() and any(place.iterdir())
        if used and not overwrite:
            raise not_empty(place)
        place.mkdir(parents=True, exist_ok=True)
    return place, used


def not_empty(place: Path) -> UserError:
    """Say that a folder is in use."""
    return UserError(
        f"--out: {place} is not empty; name another folder, or add --overwrite to lose the run in "
        "it"
    )


@contextmanager
def naming(option: str, place: str | Path, way_out: str) -> Iterator[None]:
    """Name option, place and way out where the operating system refuses."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{option}: {place} cannot be written: {error.strerror}; {way_out}"
        ) from None


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


def to_json(value: Any, indent: int | None = None) -> str:
    """Write a value as JSON."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def _fresh() -> Path:
    stem = time.strftime("%Y-%m-%d_%H-%M-%S")
    path, number = Path("runs") / stem, 2
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            path, number = Path("runs") / f"{stem}_{number}", number + 1
