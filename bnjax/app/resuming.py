"""What must be true before a run goes on: its options are its own, its data are the same."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from bnjax.app import saved
from bnjax.app.errors import UserError
from bnjax.app.options import Train
from bnjax.app.progress import say
from bnjax.app.runs import RunFolder

_BESIDE = frozenset({"--resume", "--json", "--epochs"})


@dataclass(frozen=True)
class Old:
    """A run that has begun."""

    folder: RunFolder
    options: Train
    config: dict[str, Any]
    finished: bool


def reopen(options: Train, given: frozenset[str]) -> Old:
    """Take up the run in `options.resume`, with its own options.

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
    folder = RunFolder.reopen(options.resume or "")
    try:
        config = saved.read_config(folder.path)
        own = _options(folder.path, config)
        if "--epochs" in given and options.epochs < own.epochs:
            raise UserError(
                f"--epochs: expected at least {own.epochs}, what the run was to have, got "
                f"{options.epochs}; leave it out"
            )
        epochs = options.epochs if "--epochs" in given else own.epochs
        own = dataclasses.replace(own, epochs=epochs, json=options.json)
        summary = saved.read_summary(folder.path)
        finished = (
            summary is not None
            and summary.get("finished", False)
            and summary["options"]["epochs"] >= epochs
        )
    except BaseException:
        folder.close()
        raise
    return Old(folder, own, config, finished)


def check(old: Old, resolved: Mapping[str, Any]) -> None:
    """Refuse data or numbers that are not those the run began with; note a longer run.

    Raises:
        UserError: They are not.
    """
    path = old.folder.path
    if resolved["digest"] != old.config["resolved"]["digest"]:
        raise UserError(
            f"--resume: {old.options.data} is not what {path} was trained on; bring the old data "
            "back, or start another run"
        )
    if old.config["x64"] != (x64 := jnp.result_type(float) == jnp.float64):
        raise UserError(
            f"--resume: {path} was begun with JAX_ENABLE_X64={int(not x64)}, now it is {int(x64)}; "
            "set it as it was"
        )
    if (then := old.config["versions"]["jax"]) != jax.__version__:
        say(
            f"{path} was begun with jax {then}, now it is {jax.__version__}: "
            "the last digits may differ"
        )
    if old.options.epochs > old.config["options"]["epochs"]:
        old.folder.write_config(dataclasses.asdict(old.options), resolved)


def _options(path: Path, config: Mapping[str, Any]) -> Train:
    try:
        values = dict(config["options"])
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
