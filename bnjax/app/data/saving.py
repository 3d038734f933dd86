"""The preparation of a run's data as one file of JSON, validated as a whole when it is read.

{"center": [..], "spread": [.., null for a constant feature],
 "classes": ["cat", ..], "targets": [{"name": "y", "center": 0.5, "spread": 2.0}, ..],
 "columns": [{"name": "age", "categories": null or ["f", ..], "fill": 29.5}, ..], "label": "y"}
"""

import json
import math
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
    spread = np.atleast_1d(preparation.spread).tolist()
    return {
        "center": np.atleast_1d(preparation.center).tolist(),
        "spread": [each if math.isfinite(each) else None for each in spread],
        "classes": list(preparation.classes),
        "targets": [target._asdict() for target in preparation.targets],
        "columns": [
            column._asdict() | {"categories": column.categories and list(column.categories)}
            for column in preparation.columns
        ],
        "label": preparation.label,
    }


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len({*value}) == len(value)


_NUMBER = "a number", _is_number
_TEXT = "text", _is_text
_POSITIVE = "a number above 0", lambda value: _is_number(value) and value > 0
_SPREAD = "a number above 0 or null", lambda value: value is None or _POSITIVE[1](value)
_SCHEMA = {
    "center": [_NUMBER],
    "spread": [_SPREAD],
    "classes": ("a list of different texts, two or none", lambda v: _are_names(v) and len(v) != 1),
    "targets": [{"name": _TEXT, "center": _NUMBER, "spread": _POSITIVE}],
    "columns": [
        {
            "name": _TEXT,
            "categories": (
                "a list of different texts or null",
                lambda value: value is None or (_are_names(value) and len(value) > 0),
            ),
            "fill": ("a number, text or null", lambda v: v is None or _is_number(v) or _is_text(v)),
        }
    ],
    "label": _TEXT,
}


def read_preparation(path: Path) -> Preparation:
    """Read the file at `path`.

    Raises:
        UserError: It cannot be read, or a part of it is not what it should be.
    """

    def require(good: bool, key: str, expected: str, got: Any) -> None:
        if not good:
            shown = repr(got)[:60]
            raise UserError(
                f"{path}, {key}: expected {expected}, got {shown}; train again, or bring the file "
                "back as the run wrote it"
            )

    def check(value: Any, schema: Any, key: str) -> None:
        if isinstance(schema, dict):
            fits = isinstance(value, dict) and value.keys() == schema.keys()
            require(fits, key or "the whole", f"an object with {', '.join(schema)}", value)
            for name, one in schema.items():
                check(value[name], one, f"{key}.{name}" if key else name)
        elif isinstance(schema, list):
            require(isinstance(value, list), key, "a list", value)
            for number, item in enumerate(value):
                check(item, schema[0], f"{key}[{number}]")
        else:
            require(schema[1](value), key, schema[0], value)

    found = _read_json(path)
    check(found, _SCHEMA, "")
    columns = []
    for number, (name, categories, fill) in enumerate(
        (each["name"], each["categories"], each["fill"]) for each in found["columns"]
    ):
        fits = fill is None or (_is_number(fill) if categories is None else fill in categories)
        require(fits, f"columns[{number}].fill", "a value that the column can have or null", fill)
        columns.append(Column(name, categories and tuple(categories), fill))
    n_in = features_of(columns, len(found["center"]))
    require(n_in == len(found["center"]), "center", f"{n_in} numbers", found["center"])
    require(n_in == len(found["spread"]), "spread", f"{n_in} numbers", found["spread"])
    one = bool(found["classes"]) != bool(found["targets"])
    require(one, "classes", "either classes or targets", found["classes"])
    return Preparation(
        np.array(found["center"], np.float64),
        np.array([math.inf if each is None else each for each in found["spread"]], np.float64),
        tuple(found["classes"]),
        tuple(Target(**each) for each in found["targets"]),
        tuple(columns),
        found["label"],
    )


def _read_json(path: Path) -> Any:
    try:
        files.check_plain(path)
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {reason}; train again") from None
