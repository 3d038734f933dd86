"""Data ready for training: encoded targets, a held-out test set, scaled features."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnjax.app.errors import UserError, nearest
from bnjax.app.readers import EMBEDDED, Floats, Raw, read
from bnjax.costs import COSTS

SCALES = ("auto", "standard", "range", "none")

_SCALING = {
    "standard": "standardized with the training set's mean and standard deviation",
    "range": "scaled to [0, 1] with the training set's minimum and maximum",
    "none": "not scaled",
}


@dataclass(frozen=True, eq=False)
class Data:
    """A training and a test set, float64; x_train = (features as read − center) / spread."""

    name: str
    x_train: Floats  # (N, n_in)
    targets_train: Floats  # (N, n_out)
    x_test: Floats
    targets_test: Floats
    classes: tuple[str, ...]  # in the order of their codes; empty for regression
    scaling: str  # a sentence for the summary, as is split
    split: str
    center: Floats | float = 0.0  # (n_in,)
    spread: Floats | float = 1.0  # (n_in,), infinite where a feature is constant

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
) -> Data:
    """Load `source`, encode its labels for `cost`, hold out a test set and scale the features.

    Labels that are integers, strings or whole floats are classes, sorted as numbers where all are
    numbers, else as text. Two classes under `sigmoid_cross_entropy` share one output, 1 for the
    second class; otherwise targets are one-hot. Floats under `squared_error` are regression
    targets, left as they are.

    Args:
        source: what `readers.read` takes.
        cost: one of `bnjax.costs.COSTS`.
        label: the label's column in a CSV file.
        test_fraction: the share of the samples to hold out, in (0, 1); unused where the data came
            with a test set.
        seed: of the split, 0 to 2³² − 1.
        scale: "standard", "range", "none", or "auto": "range" for images, else "standard";
            statistics are the training set's.

    Raises:
        UserError: the source cannot be read, its labels do not fit the cost, or a side of the
            split would lack a class.
    """
    for what, value, valid in (("cost", cost, COSTS), ("scale", scale, SCALES)):
        if value not in valid:
            raise UserError(f"unknown {what} {value!r}: {nearest(value, valid)}")
    if not 0 < test_fraction < 1:
        raise UserError(f"test fraction: expected a number between 0 and 1, got {test_fraction}")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed: expected an integer from 0 to {2**32 - 1}, got {seed}")

    raw = read(source, label=label)
    if scale == "auto":
        scale = "range" if raw.images else "standard"
    regression = cost == "squared_error" and raw.y.dtype.kind == "f"
    classes, codes = ((), None) if regression else _encode(source, raw, cost)
    targets = (
        raw.y.reshape(len(raw.y), -1) if codes is None else _targets(codes, len(classes), cost)
    )
    if raw.test is not None:
        x_train, targets_train, (x_test, y_test) = raw.x, targets, raw.test
        field = f"{source}, {'targets' if regression else 'labels'} of the test set"
        targets_test = encode_known(field, y_test, classes, cost, targets.shape[1])
        split = "the test set that came with the data"
    else:
        train, test = _split(source, raw, classes, codes, test_fraction, seed)
        x_train, targets_train = raw.x[train], targets[train]
        x_test, targets_test = raw.x[test], targets[test]
        how = "seed" if regression else "stratified, seed"
        counts = f"{len(train)} to train, {len(test)} to test"
        split = f"{counts} ({100 * test_fraction:g} %, {how} {seed})"
    center, spread = _statistics(x_train, scale)
    return Data(
        raw.name,
        (x_train - center) / spread,
        targets_train,
        (x_test - center) / spread,
        targets_test,
        classes,
        _SCALING[scale],
        split,
        center,
        spread,
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


def _place(source: str, raw: Raw, row: int | np.integer) -> str:
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


def _encode(source: str, raw: Raw, cost: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the classes and each sample's code, an index into them."""
    field = f"{source}, {raw.target}"
    labels = _labels(raw.y, field, lambda row: _place(source, raw, row), cost)
    found, codes = np.unique(labels, return_inverse=True)
    names = [str(name) for name in found]
    if len(names) < 2:
        raise UserError(
            f"{field}: expected at least two classes, got {names[0]!r} for all {len(labels)} "
            "samples; check that these are the labels"
        )
    try:
        order = sorted(range(len(names)), key=lambda i: float(names[i]))
    except ValueError:
        order = sorted(range(len(names)), key=names.__getitem__)
    return tuple(names[i] for i in order), np.argsort(order)[codes]


def encode_known(
    field: str, y: np.ndarray, classes: tuple[str, ...], cost: str, n_out: int
) -> Floats:
    """Encode labels of samples that are not the training set's, for `cost`.

    Args:
        field: what messages call them.
        y: as read, (N,) or (N, k).
        classes: the training set's; empty for regression.
        cost: as in `load`.
        n_out: the number of outputs.

    Returns:
        Targets, (N, n_out).

    Raises:
        UserError: a label is none of `classes`; or targets are no numbers, or of another width.
    """
    if classes:
        return _targets(_known_codes(field, y, classes, cost), len(classes), cost)
    columns = math.prod(y.shape[1:])
    if y.dtype.kind not in "iuf" or columns != n_out:
        raise UserError(
            f"{field}: expected numbers in {n_out} column(s) like the training set's, got dtype "
            f"{y.dtype} in {columns}; store both alike"
        )
    return y.reshape(len(y), -1).astype(np.float64)


def _known_codes(field: str, y: np.ndarray, classes: tuple[str, ...], cost: str) -> np.ndarray:
    def place(row: int | np.integer) -> str:
        return f"{field}, sample {row} (counted from 0)"

    labels = [str(label) for label in _labels(y, field, place, cost)]
    codes = {name: code for code, name in enumerate(classes)}
    for row, label in enumerate(labels):
        if label not in codes:
            raise UserError(
                f"{place(row)}: expected a class of the training set, got {label!r}; "
                f"{nearest(label, classes)}"
            )
    return np.array([codes[label] for label in labels])


def _targets(codes: np.ndarray, n_classes: int, cost: str) -> Floats:
    """Return the targets (N, n_out) that `cost` compares the outputs with."""
    if n_classes == 2 and cost == "sigmoid_cross_entropy":
        return codes[:, None].astype(np.float64)
    targets = np.zeros((len(codes), n_classes))
    targets[np.arange(len(codes)), codes] = 1
    return targets


def _split(
    source: str,
    raw: Raw,
    classes: tuple[str, ...],
    codes: np.ndarray | None,
    fraction: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the training and of the test set, every class in both."""
    from sklearn.model_selection import train_test_split  # slow to import

    n = len(raw.x)
    for code in () if codes is None else np.flatnonzero(np.bincount(codes) < 2):
        raise UserError(
            f"{_place(source, raw, np.flatnonzero(codes == code)[0])}: expected at least 2 samples "
            f"of class {classes[code]!r}, one to train and one to test, got 1; "
            "add some or remove it, or for regression use squared_error and floats throughout"
        )
    n_test, least = math.ceil(fraction * n), len(classes) or 1
    if not least <= n_test <= n - least:
        raise UserError(
            f"{source}: expected at least {least} of {n} samples on each side of the split, got "
            f"{n - n_test} to train and {n_test} to test; change the test fraction {fraction:g} "
            "or add samples"
        )
    sides = train_test_split(np.arange(n), test_size=n_test, random_state=seed, stratify=codes)
    train, test = map(np.asarray, sides)
    if codes is not None:
        for side, rows, change in (("train", train, "smaller"), ("test", test, "larger")):
            counts = np.bincount(codes[rows], minlength=len(classes))
            if not counts.all():
                code = counts.argmin()
                raise UserError(
                    f"{source}, {raw.target}: expected a sample of every class to {side}, got none "
                    f"of class {classes[code]!r} ({np.count_nonzero(codes == code)} samples in "
                    f"all); use a {change} test fraction than {fraction:g} or add samples"
                )
    return train, test


def _statistics(x: Floats, scale: str) -> tuple[Floats | float, Floats | float]:
    """Return the center and the spread of every feature, infinite for a constant one."""
    if scale == "none":
        return 0.0, 1.0
    if scale == "range":
        center, spread = x.min(axis=0), np.ptp(x, axis=0)
    else:
        # around the first sample: a constant feature's deviation is exactly 0, not a rounding error
        around = x - x[0]
        center, spread = x[0] + around.mean(axis=0), around.std(axis=0)
    return center, np.where(spread > 0, spread, np.inf)
