"""Labels encoded as the targets that a cost compares the outputs with."""

import math
from collections.abc import Callable

import numpy as np

from bnjax.app.data.cells import shown
from bnjax.app.data.preparation import Preparation
from bnjax.app.data.raw import BYTES, Floats, Raw, check_size
from bnjax.app.errors import UserError, nearest


def place_of(source: str, raw: Raw, row: int | np.integer) -> str:
    """Name the label of a sample: the line in its file, or its number."""
    if raw.lines is None:
        return f"{source}, {raw.target}, sample {row} (counted from 0)"
    return f"{source}, line {raw.lines[row]}, {raw.target}"


def _labels(
    y: np.ndarray, field: str, place: Callable[[int | np.integer], str], cost: str
) -> np.ndarray:
    """Return one integer or string per sample."""
    regress = "for regression use squared_error and floats throughout"
    if y.ndim == 2 and y.shape[1] != 1:
        raise UserError(
            f"{field}: expected one label per sample for {cost}, shape (N,) or (N, 1), "
            f"got shape {y.shape}; turn one-hot rows into labels with argmax, or {regress}"
        )
    y = y.reshape(len(y))
    if y.dtype.kind != "f":
        return y
    bad = np.flatnonzero((y != np.trunc(y)) | (np.abs(y) >= 2**53))
    if bad.size:
        raise UserError(
            f"{place(bad[0])}: expected whole numbers or strings as labels for {cost}, "
            f"got {y[bad[0]]}; {regress}"
        )
    return y.astype(np.int64)


def encode(source: str, raw: Raw, cost: str, max_size: float) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the classes and each sample's code, an index into them."""
    field = f"{source}, {raw.target}"
    labels = _labels(raw.y, field, lambda row: place_of(source, raw, row), cost)
    found, codes = np.unique(labels, return_inverse=True)
    names = [str(name) for name in found]
    if len(names) < 2:
        raise UserError(
            f"{field}: expected at least two classes, got {shown(names[0])} for all {len(labels)} "
            "samples; check that these are the labels"
        )
    what = f"an output for each of {len(names)} classes (for regression use squared_error and "
    size = BYTES * len(labels) * len(names)
    check_size(field, f"{what}floats throughout)", size, max_size)
    try:
        order = sorted(range(len(names)), key=lambda i: float(names[i]))
    except ValueError:
        order = sorted(range(len(names)), key=names.__getitem__)
    return tuple(names[i] for i in order), np.argsort(order)[codes]


def encode_known(field: str, y: np.ndarray, preparation: Preparation, cost: str) -> Floats:
    """Encode labels of samples that are not the training set's, for `cost`.

    Args:
        field: what messages call them.
        y: as read, (N,) or (N, k).
        preparation: the training set's.
        cost: as in `load`.

    Returns:
        Targets, (N, n_out), a regression's scaled.

    Raises:
        UserError: a label is none of `classes`; or targets are no numbers, or of another width.
    """
    classes, n_out = preparation.classes, len(preparation.targets)
    if classes:
        return to_targets(_known_codes(field, y, classes, cost), len(classes), cost)
    columns = math.prod(y.shape[1:])
    if y.dtype.kind not in "iuf" or columns != n_out:
        raise UserError(
            f"{field}: expected numbers in {n_out} column(s) like the training set's, got dtype "
            f"{y.dtype} in {columns}; store both alike"
        )
    return preparation.scaled(y.reshape(len(y), -1).astype(np.float64))


def _known_codes(field: str, y: np.ndarray, classes: tuple[str, ...], cost: str) -> np.ndarray:
    def place(row: int | np.integer) -> str:
        return f"{field}, sample {row} (counted from 0)"

    labels = [str(label) for label in _labels(y, field, place, cost)]
    codes = {name: code for code, name in enumerate(classes)}
    for row, label in enumerate(labels):
        if label not in codes:
            raise UserError(
                f"{place(row)}: expected a class of the training set, got {shown(label)}; "
                f"{nearest(label[:80], classes)}"
            )
    return np.array([codes[label] for label in labels])


def to_targets(codes: np.ndarray, n_classes: int, cost: str) -> Floats:
    """Return the targets (N, n_out) that `cost` compares the outputs with."""
    if n_classes == 2 and cost == "sigmoid_cross_entropy":
        return codes[:, None].astype(np.float64)
    targets = np.zeros((len(codes), n_classes))
    targets[np.arange(len(codes)), codes] = 1
    return targets
