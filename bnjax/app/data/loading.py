"""Data ready for training: encoded targets, a held-out test set, scaled features."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnjax.app.data.encoding import encode, encode_known, to_targets
from bnjax.app.data.preparation import SCALES, SCALING, Preparation, features_of, prepare
from bnjax.app.data.raw import BYTES, MAX_SIZE, Floats, check_size
from bnjax.app.data.sources import EMBEDDED, MISSING, read, readable
from bnjax.app.data.splitting import split
from bnjax.app.errors import UserError, nearest
from bnjax.costs import COSTS

# of a run's configuration: the options that `load` takes, and those that older runs do without
OPTIONS = ("cost", "label", "missing", "max_size", "test_fraction", "seed", "scale")
OPTIONS += ("scale_targets",)
BEFORE = {"missing": "fill", "max_size": MAX_SIZE, "scale_targets": False}


@dataclass(frozen=True, eq=False)
class Data:
    """A training and a test set, float64, as `preparation` makes them from raw columns."""

    name: str
    x_train: Floats  # (N, n_in)
    targets_train: Floats  # (N, n_out)
    x_test: Floats
    targets_test: Floats
    preparation: Preparation
    scaling: str  # a sentence for the summary, as is split
    split: str
    notes: tuple[str, ...] = ()  # what was decided about the data, for the user to know

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes in the order of their codes; empty for regression."""
        return self.preparation.classes

    @property
    def n_in(self) -> int:
        """Return the number of features."""
        return self.x_train.shape[1]

    @property
    def n_out(self) -> int:
        """Return the number of outputs that the targets ask for."""
        return self.targets_train.shape[1]


def load(
    source: str,
    *,
    cost: str,
    label: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    scale: str = "auto",
    scale_targets: bool = True,
    missing: str = "fill",
    max_size: float = MAX_SIZE,
) -> Data:
    """Load `source`, encode its labels for `cost`, hold out a test set and scale the features.

    Labels that are integers, strings or whole floats are classes, sorted as numbers where all are
    numbers, else as text. Two classes under `sigmoid_cross_entropy` share one output, 1 for the
    second class; otherwise targets are one-hot. Floats under `squared_error` are regression
    targets. A table's columns of text become one feature for each category, 0 or 1.

    Args:
        source: what `read` takes.
        cost: one of `bnjax.costs.COSTS`.
        label: the label's column in a table.
        test_fraction: the share of the samples to hold out, in (0, 1); unused where the data came
            with a test set.
        seed: of the split, 0 to 2³² − 1.
        scale: "standard", "range", "none", or "auto": "range" for images, else "standard";
            statistics are the training set's.
        scale_targets: whether a regression's targets are standardized too.
        missing: "fill" to replace a table's missing values by the training set's mean or most
            frequent category, or "refuse".
        max_size: as in `read`.

    Raises:
        UserError: the source cannot be read, its labels do not fit the cost, or a side of the
            split would lack a class.
    """
    _check_options(cost, scale, missing, test_fraction, seed)
    with readable(source, max_size):
        raw = read(source, label=label, missing=missing, max_size=max_size)
        if scale == "auto":
            scale = "range" if raw.images else "standard"
        n_in = features_of(raw.columns, raw.x.shape[1])
        size = BYTES * len(raw.x) * n_in
        check_size(source, f"{len(raw.x)} samples of {n_in} features", size, max_size)
        regression = cost == "squared_error" and raw.y.dtype.kind == "f"
        classes, codes = ((), None) if regression else encode(source, raw, cost, max_size)
        train, test, how = split(source, raw, classes, codes, test_fraction, seed)
        preparation = prepare(source, raw, train, classes, scale, scale_targets, missing)
        y = raw.y if codes is None else to_targets(codes, len(classes), cost)
        targets = preparation.scaled(y.reshape(len(y), -1))
        if raw.test is None:
            x_test, targets_test = raw.x[test], targets[test]
        else:
            field = f"{source}, {'targets' if regression else 'labels'} of the test set"
            x_test, targets_test = raw.test[0], encode_known(field, raw.test[1], preparation, cost)
        return Data(
            raw.name,
            preparation.features(raw.x[train]),
            targets[train],
            preparation.features(x_test),
            targets_test,
            preparation,
            SCALING[scale],
            how,
            (*raw.notes, *filled(source, raw.x, preparation.columns)),
        )


def _check_options(cost: str, scale: str, missing: str, test_fraction: float, seed: int) -> None:
    """Refuse names that are unknown and numbers out of their range."""
    for what, value, valid in (
        ("cost", cost, COSTS),
        ("scale", scale, SCALES),
        ("missing", missing, MISSING),
    ):
        if value not in valid:
            raise UserError(f"unknown {what} {value!r}: {nearest(value, valid)}")
    if not 0 < test_fraction < 1:
        raise UserError(f"test fraction: expected a number between 0 and 1, got {test_fraction}")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed: expected an integer from 0 to {2**32 - 1}, got {seed}")


def filled(source: str, x: np.ndarray, columns: tuple) -> tuple[str, ...]:
    """Return a note that says how many missing values are filled, and where."""
    counts = np.isnan(x).sum(axis=0) if columns else np.zeros(1)
    if not counts.any():
        return ()
    names = [columns[i].name or f"column {i}" for i in np.flatnonzero(counts)]
    more = f", … ({len(names)} columns)" if len(names) > 5 else ""
    return (
        f"{source}: missing values ({int(counts.sum())} in {', '.join(names[:5])}{more}) are "
        "replaced by the training set's mean or most frequent category",
    )


def absolute(source: str) -> str:
    """Name `source` so that it is found from another folder, too."""
    return source if source in EMBEDDED else str(Path(source).absolute())


def digest(data: Data) -> str:
    """Compute SHA-256 of all that is trained and tested on, the split and the scaling too."""
    found = hashlib.sha256("\0".join(data.classes).encode())
    for array in (data.x_train, data.targets_train, data.x_test, data.targets_test):
        found.update(f"{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
