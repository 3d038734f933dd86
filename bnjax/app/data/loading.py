"""Data ready for training: encoded targets, a held-out test set, scaled features."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnjax.app.data.encoding import encode, encode_known, to_targets
from bnjax.app.data.raw import Floats
from bnjax.app.data.scaling import SCALES, SCALING, statistics
from bnjax.app.data.sources import EMBEDDED, read
from bnjax.app.data.splitting import split as hold_out
from bnjax.app.errors import UserError, nearest
from bnjax.costs import COSTS


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
        source: what `read` takes.
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
    classes, codes = ((), None) if regression else encode(source, raw, cost)
    targets = (
        raw.y.reshape(len(raw.y), -1) if codes is None else to_targets(codes, len(classes), cost)
    )
    if raw.test is not None:
        x_train, targets_train, (x_test, y_test) = raw.x, targets, raw.test
        field = f"{source}, {'targets' if regression else 'labels'} of the test set"
        targets_test = encode_known(field, y_test, classes, cost, targets.shape[1])
        split = "the test set that came with the data"
    else:
        train, test = hold_out(source, raw, classes, codes, test_fraction, seed)
        x_train, targets_train = raw.x[train], targets[train]
        x_test, targets_test = raw.x[test], targets[test]
        how = "seed" if regression else "stratified, seed"
        counts = f"{len(train)} to train, {len(test)} to test"
        split = f"{counts} ({100 * test_fraction:g} %, {how} {seed})"
    center, spread = statistics(x_train, scale)
    return Data(
        raw.name,
        (x_train - center) / spread,
        targets_train,
        (x_test - center) / spread,
        targets_test,
        classes,
        SCALING[scale],
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
