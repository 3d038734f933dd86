"""The preparation of a run's data as one file of JSON, validated as a whole when it is read.

{"center": [..] or number, "spread": [.., null for a constant feature] or number,
 "classes": ["cat", ..], "targets": [{"name": "y", "center": 0.5, "spread": 2.0}, ..],
 "columns": [{"name": "age", "categories": null or ["f", ..], "fill": 29.5}, ..], "label": "y"}
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bnjax.app.data.preparation import Preparation, Target, features_of
from bnjax.app.data.raw import Column
from bnjax.app.errors import UserError
from bnjax.app.io import files

FILE = "preparation.json"


def to_json(preparation: Preparation) -> dict[str, Any]:
    """Return what `read_preparation` reads; infinity is null, for which JSON has no word."""
    spread = np.where(np.isfinite(preparation.spread), preparation.spread, np.nan).tolist()
    if isinstance(spread, list):
        spread = [None if math.isnan(each) else each for each in spread]
    return {
        "center": np.asarray(preparation.center).tolist(),
        "spread": spread,
        "classes": list(preparation.classes),
        "targets": [target._asdict() for target in preparation.targets],
        "columns": [
            column._asdict() | {"categories": column.categories and list(column.categories)}
            for column in preparation.columns
        ],
        "label": preparation.label,
    }


def read_preparation(path: Path) -> Preparation:
    """Read the file at `path`.

    Raises:
        UserError: It cannot be read, or a part of it is not what it should be.
    """
    try:
        files.check_plain(path)
        found = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_no_constant)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {reason}; train again") from None
    return _Reader(path).preparation(found)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _is_spread(value: Any) -> bool:
    return value is None or (_is_number(value) and value > 0)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


class _Reader:
    """Checks values, and names file, key, what is required and what was found."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def require(self, good: bool, key: str, expected: str, got: Any) -> None:
        if not good:
            text = repr(got)
            shown = text if len(text) <= 60 else text[:59] + "…"
            raise UserError(
                f"{self.path}, {key}: expected {expected}, got {shown}; train again, or bring the "
                "file back as the run wrote it"
            )

    def keys(self, value: Any, names: tuple[str, ...], key: str) -> dict[str, Any]:
        fits = isinstance(value, dict) and value.keys() == set(names)
        self.require(fits, key, f"an object with {', '.join(names)}", value)
        return value

    def items(self, value: Any, good: Callable[[Any], bool], key: str, expected: str) -> list:
        self.require(isinstance(value, list), key, f"a list of {expected}", value)
        for number, item in enumerate(value):
            self.require(good(item), f"{key}[{number}]", expected, item)
        return value

    def names(self, value: Any, key: str) -> tuple[str, ...]:
        names = self.items(value, _is_text, key, "texts")
        self.require(len(set(names)) == len(names), key, "different texts", value)
        return tuple(names)

    def numbers(self, value: Any, good: Callable[[Any], bool], key: str) -> Any:
        """Return a number, or an array of them with null as infinity."""
        if not isinstance(value, list):
            self.require(_is_number(value) and good(value), key, "a number or a list", value)
            return float(value)
        items = self.items(value, good, key, "numbers")
        return np.array([math.inf if item is None else item for item in items], np.float64)

    def column(self, value: Any, key: str) -> Column:
        name, categories, fill = self.keys(value, Column._fields, key).values()
        name, categories, fill = value["name"], value["categories"], value["fill"]
        self.require(_is_text(name), f"{key}.name", "a text", name)
        if categories is None:
            self.require(fill is None or _is_number(fill), f"{key}.fill", "a number or null", fill)
            return Column(name, None, None if fill is None else float(fill))
        categories = self.names(categories, f"{key}.categories")
        self.require(bool(categories), f"{key}.categories", "at least one", value["categories"])
        known = fill is None or fill in categories
        self.require(known, f"{key}.fill", "one of its categories or null", fill)
        return Column(name, categories, fill)

    def target(self, value: Any, key: str) -> Target:
        target = Target(**self.keys(value, Target._fields, key))
        self.require(_is_text(target.name), f"{key}.name", "a text", target.name)
        self.require(_is_number(target.center), f"{key}.center", "a number", target.center)
        good = _is_number(target.spread) and target.spread > 0
        self.require(good, f"{key}.spread", "a number above 0", target.spread)
        return Target(target.name, float(target.center), float(target.spread))

    def preparation(self, found: Any) -> Preparation:
        """Return the whole, whose parts fit each other."""
        names = ("center", "spread", "classes", "targets", "columns", "label")
        found = self.keys(found, names, "the whole")
        columns = self.items(found["columns"], lambda item: True, "columns", "objects")
        targets = self.items(found["targets"], lambda item: True, "targets", "objects")
        self.require(_is_text(found["label"]), "label", "a text", found["label"])
        preparation = Preparation(
            self.numbers(found["center"], _is_number, "center"),
            self.numbers(found["spread"], _is_spread, "spread"),
            self.names(found["classes"], "classes"),
            tuple(self.target(item, f"targets[{i}]") for i, item in enumerate(targets)),
            tuple(self.column(item, f"columns[{i}]") for i, item in enumerate(columns)),
            found["label"],
        )
        sizes = {np.shape(preparation.center), np.shape(preparation.spread)}
        self.require(len(sizes) == 1, "spread", "as many numbers as center has", found["spread"])
        ((*size,),) = sizes
        if size and columns:
            n_in = features_of(preparation.columns, 0)
            self.require(size == [n_in], "center", f"{n_in} numbers", found["center"])
        one = bool(preparation.classes) != bool(preparation.targets)
        self.require(
            one and len(found["classes"]) != 1, "classes", "two or more, or targets", names
        )
        return preparation
