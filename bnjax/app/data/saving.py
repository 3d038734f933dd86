"""The preparation of a run's data as one file of JSON, validated as a whole when it is read."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from bnjax.app.data.preparation import Preparation, Target, features_of
from bnjax.app.data.raw import Column
from bnjax.app.errors import UserError
from bnjax.app.io import files

FILE = "preparation.json"

_WAY_OUT = "train again, or bring the file back as the run wrote it"

_Number = Annotated[float, msgspec.Meta(gt=-1e300, lt=1e300)]
_Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e300)]


class _Target(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    center: _Number
    spread: _Positive


class _Column(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    categories: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] | None
    fill: _Number | str | None


class _Saved(msgspec.Struct, forbid_unknown_fields=True):
    """What the file holds."""

    center: list[_Number]
    spread: list[_Positive | None]  # null for a constant feature
    classes: tuple[str, ...]
    targets: list[_Target]
    columns: list[_Column]
    label: str


def to_json(preparation: Preparation) -> dict[str, Any]:
    """Return what `read_preparation` reads; infinity is null, for which JSON has no word."""
    spread = np.atleast_1d(preparation.spread).tolist()
    saved = _Saved(
        center=np.atleast_1d(preparation.center).tolist(),
        spread=[each if math.isfinite(each) else None for each in spread],
        classes=preparation.classes,
        targets=[_Target(*target) for target in preparation.targets],
        columns=[_Column(*column) for column in preparation.columns],
        label=preparation.label,
    )
    return msgspec.to_builtins(saved)


def read_preparation(path: Path) -> Preparation:
    """Read the file at `path`.

    Raises:
        UserError: It cannot be read, or a part of it is not what it should be.
    """
    saved = files.read_json(path, _Saved, _WAY_OUT)
    columns = tuple(Column(each.name, each.categories, each.fill) for each in saved.columns)
    require = partial(_require, path)
    require("label", "text", saved.label, _are_names([saved.label]))
    several = _are_names(saved.classes) and len(saved.classes) != 1
    require("classes", "different texts, two or none", saved.classes, several)
    one = bool(saved.classes) != bool(saved.targets)
    require("classes", "either classes or targets", saved.classes, one)
    for number, (name, categories, fill) in enumerate(columns):
        key = f"columns[{number}]"
        require(f"{key}.name", "text", name, _are_names([name]))
        different = _are_names(categories or ())
        require(f"{key}.categories", "different texts", categories, different)
        possible = not isinstance(fill, str) if categories is None else fill in (None, *categories)
        require(f"{key}.fill", "a value that the column can have or null", fill, possible)
    n_in = features_of(columns, len(saved.center))
    for key, numbers in (("center", saved.center), ("spread", saved.spread)):
        require(key, f"{n_in} numbers", len(numbers), len(numbers) == n_in)
    return Preparation(
        np.array(saved.center, np.float64),
        np.array([math.inf if each is None else each for each in saved.spread], np.float64),
        saved.classes,
        tuple(Target(each.name, each.center, each.spread) for each in saved.targets),
        columns,
        saved.label,
    )


def _require(path: Path, key: str, expected: str, got: Any, good: bool) -> None:
    if not good:
        raise UserError(
            f"{path}: expected {expected}, got {repr(got)[:60]}, at `{key}`; {_WAY_OUT}"
        )


def _are_names(texts: Sequence[str]) -> bool:
    """Return whether they are different, and all text: JSON can hold half a character."""
    halves = any("\ud800" <= each <= "\udfff" for text in texts for each in text)
    return len({*texts}) == len(texts) and not halves
