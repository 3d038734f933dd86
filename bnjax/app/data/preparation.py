"""What turns raw columns into the features of a network, and its outputs into predictions.

Made from the training set alone, and kept in the run folder (`bnjax.app.data.saving`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from bnjax.app.data.raw import Column, Floats, Raw
from bnjax.app.errors import UserError

SCALES = ("auto", "standard", "range", "none")
SCALING = {
    "standard": "standardized with the training set's mean and standard deviation",
    "range": "scaled to [0, 1] with the training set's minimum and maximum",
    "none": "not scaled",
}


class Target(NamedTuple):
    """A target of a regression: what is trained on is (target − center) / spread."""

    name: str
    center: float = 0.0
    spread: float = 1.0


@dataclass(frozen=True, eq=False)
class Preparation:
    """What turns raw columns into features, and outputs into predictions.

    Attributes:
        center: What is subtracted from the features, (n_in,), or () in some runs of before.
        spread: What they are divided by then, infinite where a feature is constant.
        classes: The names of the classes in the order of their codes; empty for regression.
        targets: Of a regression; empty for classes.
        columns: Those of the table that was trained on; empty for arrays.
        label: The name of the label's column.
    """

    center: Floats
    spread: Floats
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    columns: tuple[Column, ...] = ()
    label: str = ""

    @property
    def n_in(self) -> int:
        """Return the number of features; 0 where any number of them is scaled alike."""
        return features_of(self.columns, np.size(self.center) * np.ndim(self.center))

    def features(self, x: np.ndarray) -> Floats:
        """Return raw columns, (N, n) as `Raw` has them, as features, (N, n_in), scaled."""
        return (_expand(np.asarray(x, np.float64), self.columns) - self.center) / self.spread

    def scaled(self, targets: Floats) -> Floats:
        """Return targets, (N, n_out), as they are trained on: a regression's scaled."""
        if not self.targets:
            return targets
        center, spread = self._targets()
        return (targets - center) / spread

    def predictions(self, outputs: ArrayLike) -> Floats:
        """Return the outputs of a regression, (N, n_out), in the targets' own units."""
        center, spread = self._targets()
        return np.asarray(outputs, np.float64) * spread + center

    def errors(self, outputs: ArrayLike, targets: np.ndarray) -> dict[str, float]:
        """Return each target's root mean square error in its own unit, from scaled ones."""
        difference = np.asarray(outputs, np.float64) - np.asarray(targets)
        each = np.sqrt(np.mean(difference**2, axis=0)) * self._targets()[1]
        return dict(zip((target.name for target in self.targets), each.tolist(), strict=True))

    def _targets(self) -> tuple[Floats, Floats]:
        pairs = np.array([(target.center, target.spread) for target in self.targets])
        return pairs[:, 0], pairs[:, 1]


def prepare(
    source: str,
    raw: Raw,
    train: np.ndarray | slice,
    classes: tuple[str, ...],
    scale: str,
    scale_targets: bool,
    missing: str,
) -> Preparation:
    """Make the preparation from the training set; the options are those of `load`."""
    columns = tuple(
        column._replace(fill=None if missing == "refuse" else _fill(source, number, column, values))
        for number, (column, values) in enumerate(zip(raw.columns, raw.x[train].T, strict=False))
    )
    center, spread = _scaling(_expand(raw.x[train], columns), scale, columns)
    targets = ()
    if not classes:
        y = raw.y.reshape(len(raw.y), -1)
        several = y.shape[1] > 1
        names = [f"{raw.label}[{i}]" if several else raw.label for i in range(y.shape[1])]
        # the spread of a constant target is infinite: it keeps its unit
        numbers = np.array(_scaling(y[train], "standard" if scale_targets else "none"))
        numbers = np.where(np.isfinite(numbers), numbers, 1.0)
        targets = tuple(map(Target, names, *numbers.tolist()))
    return Preparation(center, spread, classes, targets, columns, raw.label)


def features_of(columns: Sequence[Column], n: int) -> int:
    """Return how many features `n` raw columns have: one for each category, one for a number."""
    return sum(1 if one.categories is None else len(one.categories) for one in columns) or n


def _expand(x: np.ndarray, columns: Sequence[Column]) -> Floats:
    """Return numbers as they are and categories one-hot, missing values filled."""
    if not columns:
        return x
    parts = []
    for column, values in zip(columns, x.T, strict=True):
        fill = column.fill
        if column.categories is None:
            filled = values if fill is None else np.where(np.isnan(values), fill, values)
            parts.append(filled[:, None])
        else:
            if fill is not None:
                values = np.where(np.isnan(values), column.categories.index(str(fill)), values)
            parts.append(values[:, None] == np.arange(len(column.categories)))
    return np.concatenate(parts, axis=1, dtype=np.float64)


def _fill(source: str, number: int, column: Column, values: Floats) -> float | str:
    """Return what replaces a missing value: the mean, or the most frequent category."""
    values = values[~np.isnan(values)]
    if not values.size:
        raise UserError(
            f"{source}, column {column.name or number!r}: expected a value in the training set to "
            "fill the missing ones with, got none; remove the column"
        )
    if column.categories is None:
        return float(values[0] + np.mean(values - values[0]))
    return column.categories[np.bincount(values.astype(int)).argmax()]


def _scaling(x: Floats, scale: str, columns: Sequence[Column] = ()) -> tuple[Floats, Floats]:
    """Return the center and the spread of every feature, infinite for a constant one.

    Features that stand for a category stay 0 and 1.
    """
    if scale == "none":
        return np.zeros(x.shape[1]), np.ones(x.shape[1])
    if scale == "range":
        center, spread = x.min(axis=0), np.ptp(x, axis=0)
    else:
        # around the first sample: a constant feature's deviation is exactly 0, not a rounding error
        around = x - x[0]
        center, spread = x[0] + around.mean(axis=0), around.std(axis=0)
    spread = np.where(spread > 0, spread, np.inf)
    if columns:
        kinds = [(column.categories is not None, features_of([column], 1)) for column in columns]
        one_hot = np.repeat(*map(np.array, zip(*kinds, strict=True)))
        center, spread = np.where(one_hot, 0.0, center), np.where(one_hot, 1.0, spread)
    return center, spread
