"""What must be true before a run goes on: its options are its own, its data are the same."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from bnjax.app import data as datasets
from bnjax.app import saved
from bnjax.app.errors import UserError
from bnjax.app.options import Train
from bnjax.app.progress import say

_PROCESSES = ("coordinator", "num_processes", "process_id")
_BESIDE = frozenset({"--resume", "--json", "--epochs"}) | {
    f"--{name.replace('_', '-')}" for name in _PROCESSES
}


@dataclass(frozen=True)
class Old:
    """A run that has begun."""

    path: Path
    options: Train
    config: dict[str, Any]
    finished: bool


def read(options: Train, given: frozenset[str]) -> Old:
    """Read what the run in `options.resume` began with.

    Args:
        options: Those of the command line.
        given: The names of those that were spelt out.

    Raises:
        UserError: An option stands beside --resume that may not, or there is no such run.
    """
    for name in sorted(given - _BESIDE):
        raise UserError(
            f"{name}: not beside --resume, which goes on with the run's own options; leave it "
            "out, or start another run"
        )
    path = Path(options.resume or "")
    config = saved.read_config(path)
    own = _options(path, config)
    if "--epochs" in given and options.epochs < own.epochs:
        raise UserError(
            f"--epochs: expected at least {own.epochs}, what the run was to have, got "
            f"{options.epochs}; leave it out"
        )
    epochs = options.epochs if "--epochs" in given else own.epochs
    processes = {name: getattr(options, name) for name in _PROCESSES}
    own = dataclasses.replace(own, epochs=epochs, json=options.json, **processes)
    summary = saved.read_summary(path)
    finished = (
        summary is not None
        and summary.get("finished", False)
        and summary["options"]["epochs"] >= epochs
    )
    return Old(path, own, config, finished)


def check(old: Old, resolved: Mapping[str, Any]) -> None:
    """Refuse data or numbers that are not those the run began with.

    Raises:
        UserError: They are not.
    """
    path, then = old.path, old.config["resolved"]
    if resolved["digest"] != then["digest"]:
        raise UserError(
            f"--resume: {old.options.data} is not what {path} was trained on; bring the old data "
            "back, or start another run"
        )
    if old.config["x64"] != (x64 := jnp.result_type(float) == jnp.float64):
        raise UserError(
            f"--resume: {path} was begun with JAX_ENABLE_X64={int(not x64)}, now it is {int(x64)}; "
            "set it as it was"
        )
    before, now = (
        (f"jax {jax_version}", f"{devices} device{'s' * (devices > 1)}")
        for jax_version, devices in (
            (old.config["versions"]["jax"], then["devices"]),
            (jax.__version__, resolved["devices"]),
        )
    )
    for was, is_now in zip(before, now, strict=True):
        if was != is_now:
            say(f"{path} was begun on {was}, now it is {is_now}: the last digits may differ")


def _options(path: Path, config: Mapping[str, Any]) -> Train:
    try:
        values = datasets.BEFORE | config["options"]
        for field in dataclasses.fields(Train):
            if isinstance(values.get(field.name), list):
                values[field.name] = tuple(values[field.name])
        values |= {"data": config["resolved"]["data"], "out": str(path)}
        return Train(**values)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"--resume: {path}/config.json is not one of this version of bnjax ({error}); start "
            "another run"
        ) from error
