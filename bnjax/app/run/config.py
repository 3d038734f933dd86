"""config.json: what a run began with, and what must be the same where it goes on."""

import dataclasses
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypedDict

import jax
import jax.numpy as jnp
import msgspec

import bnjax
from bnjax.app import data as datasets
from bnjax.app.data import Data
from bnjax.app.errors import UserError
from bnjax.app.io import files
from bnjax.app.io.terminal import say
from bnjax.app.options import Train

FILE = "config.json"
_PACKAGES = ("jax", "jaxlib", "optax", "numpy")
_PROCESSES = ("coordinator", "num_processes", "process_id")
# what may stand beside --resume: the rest is the run's own
_BESIDE = ("resume", "json", "epochs", "compilation_cache", *_PROCESSES)


class Resolved(TypedDict):
    """What the options came to."""

    data: str  # absolute
    digest: str
    batch_size: Annotated[int, msgspec.Meta(ge=1)]
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] | None  # None for a sweep
    devices: Annotated[int, msgspec.Meta(ge=1)]


class Config(TypedDict):
    """All that is needed to do a run again."""

    options: dict[str, Any]
    resolved: Resolved
    versions: dict[str, str]
    platform: str
    device: str
    x64: bool


def resolve(
    source: str,
    data: Data,
    batch_size: int,
    *,
    learning_rate: float | None = None,
    devices: int = 1,
) -> Resolved:
    """Return what options come to; `source` is what --data names."""
    return Resolved(
        data=datasets.absolute(source),
        digest=datasets.digest(data),
        batch_size=batch_size,
        learning_rate=learning_rate,
        devices=devices,
    )


def make(options: Any, resolved: Resolved) -> Config:
    """Gather what config.json holds; `options` is a command's dataclass."""
    packages = {name: version(name) for name in _PACKAGES}
    return Config(
        options=dataclasses.asdict(options),
        resolved=resolved,
        versions={"python": platform.python_version(), "bnjax": bnjax.__version__, **packages},
        platform=platform.platform(),
        device=device_name(),
        x64=uses_x64(),
    )


def read(path: Path) -> tuple[Config, Train]:
    """Read a run's config.json, and the options in it.

    Raises:
        UserError: It is missing or damaged, or an option in it is unknown or out of its range.
    """
    file, way_out = path / FILE, "name the folder of a run that bnjax train has begun"
    if not os.path.exists(file):  # nor can it, where the name is too long
        raise UserError(
            f"{path}: no run has begun in it: there is no {FILE}; {way_out}, or begin one with "
            f"bnjax train --out {path}"
        )
    config = files.read_json(file, Config, way_out)
    if config["resolved"]["learning_rate"] is None:
        raise UserError(f"{file}: expected a learning rate, got null; {way_out}")
    fields = {field.name for field in dataclasses.fields(Train)}
    try:
        if unknown := config["options"].keys() - fields:
            raise UserError(f"unknown option {min(unknown)!r}")
        options = msgspec.convert(datasets.BEFORE | config["options"], Train)
        options = dataclasses.replace(options, data=config["resolved"]["data"], out=str(path))
        options.check()
    except (msgspec.ValidationError, UnicodeEncodeError, UserError) as error:
        raise UserError(
            f"{file}: its options are not those of this version of bnjax: {files.reason(error)}; "
            "start another run"
        ) from None
    return config, options


def beside(options: Train, given: frozenset[str], own: Train) -> Train:
    """Return the options that a run goes on with.

    Args:
        options: Those of the command line.
        given: The names of those that were spelt out, as --epochs.
        own: Those that the run began with.

    Raises:
        UserError: An option may not stand beside --resume, or --epochs is smaller than it was.
    """
    allowed = {f"--{name.replace('_', '-')}" for name in _BESIDE}
    for name in sorted(given - allowed - {"--no-compilation-cache"}):
        raise UserError(
            f"{name}: cannot be combined with --resume, which continues with the options that the "
            "run began with; leave it out, or start another run"
        )
    epochs = options.epochs if "--epochs" in given else own.epochs
    if epochs < own.epochs:
        raise UserError(
            f"--epochs: expected at least {own.epochs}, which the run was begun with, got "
            f"{epochs}; leave it out"
        )
    now = {name: getattr(options, name) for name in _BESIDE if name != "resume"}
    return dataclasses.replace(own, **{**now, "epochs": epochs})


def check_same(path: Path, then: Config, now: Config) -> None:
    """Refuse data or numbers that are not those that a run began with.

    Raises:
        UserError: They are not.
    """
    if now["resolved"]["digest"] != then["resolved"]["digest"]:
        raise UserError(
            f"--resume: {now['resolved']['data']} is not the data that {path} was trained on; "
            "restore the old data, or start another run"
        )
    if now["x64"] != then["x64"]:
        raise UserError(
            f"--resume: {path} was begun with JAX_ENABLE_X64={int(then['x64'])}, now it is "
            f"{int(now['x64'])}; set it as it was"
        )
    was, now_is = (
        (f"jax {one['versions'].get('jax')}", _count(one["resolved"]["devices"]))
        for one in (then, now)
    )
    for before, after in zip(was, now_is, strict=True):
        if before != after:
            say(f"{path} was begun on {before}, now it is {after}: the last digits may differ")


def device_name() -> str:
    """Return the name of the device that JAX computes on."""
    device = jax.devices()[0]
    return f"{device.platform} ({device.device_kind})"


def uses_x64() -> bool:
    """Return whether JAX computes in float64 by default."""
    return jnp.result_type(float) == jnp.float64


def _count(devices: int) -> str:
    return f"{devices} device{'s' * (devices > 1)}"
