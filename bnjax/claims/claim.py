"""What a claim about learning is, what is measured for it, and how it is judged.

A claim is judged by a criterion that its text states before anything runs. The seeds are divided
into disjoint sets and each set is judged by itself: where they disagree, the verdict is "depends".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jax import Array

SETS = 3  # of seeds

Verdict = Literal["seen", "not seen here", "depends"]
SEEN: Verdict = "seen"
NOT_SEEN: Verdict = "not seen here"
DEPENDS: Verdict = "depends"

Report = Callable[[int, int], None]


class Data(NamedTuple):
    """A training and a test set: x (N, n_in), targets (N, n_out) of classes."""

    x: Array
    targets: Array
    x_test: Array
    targets_test: Array

    @property
    def n_in(self) -> int:
        """The number of features."""
        return self.x.shape[1]

    @property
    def n_out(self) -> int:
        """The number of outputs."""
        return self.targets.shape[1]


@dataclass(frozen=True, eq=False)
class Setting:
    """What an experiment is run on.

    Attributes:
        data: The data.
        seeds: Of the weights and of the order of the samples, all different.
        quick: Whether a smaller grid and shorter trainings will do.
        batch_size: Samples of a mini-batch, where that is not what is varied.
        target: The test accuracy that counts as learnt, in (0, 1).
        report: Called with (done, all), parts of the experiment.
    """

    data: Data
    seeds: tuple[int, ...]
    quick: bool = False
    batch_size: int = 60
    target: float = 0.95
    report: Report = lambda done, total: None


class Measured(NamedTuple):
    """What an experiment measured; it survives JSON, where NaN is null.

    Attributes:
        varied: The values that were tried, numbers or names, the same for all seeds.
        values: What was measured, by name: float arrays (S, ...), one row per seed. NaN stands for
            "never" and for what is not finite.
    """

    varied: dict[str, tuple[Any, ...]]
    values: dict[str, np.ndarray]

    def pair(self, name: str) -> dict[str, np.ndarray]:
        """Return the values "baseline_NAME" and "bn_NAME" by their network."""
        return {network: self.values[f"{network}_{name}"] for network in ("baseline", "bn")}

    def of(self, seeds: Sequence[int]) -> "Measured":
        """Return what was measured with some of the seeds, by their position."""
        return Measured(self.varied, {k: v[list(seeds)] for k, v in self.values.items()})


class Figure(NamedTuple):
    """One number that was measured, for the table.

    Attributes:
        name: What it is.
        values: One per seed, (S,); NaN where there is none.
        shape: How it is written, as for `format`.
        unit: What follows the number, with its space.
        missing: What is written in place of NaN.
    """

    name: str
    values: np.ndarray
    shape: str
    unit: str = ""
    missing: str = "never"

    def __str__(self) -> str:
        """Write the median and the range over the seeds: 98.3% (97.8% to 98.6%)."""
        low, middle, high = (self._write(v) for v in spread(self.values))
        return middle + self.unit if low == high else f"{middle}{self.unit} ({low} to {high})"

    def _write(self, value: float) -> str:
        return format(value, self.shape) if np.isfinite(value) else self.missing


class Curve(NamedTuple):
    """One line of a chart: the median over the seeds, and their range.

    Attributes:
        label: What the legend says.
        network: "baseline" or "bn": its colour.
        x: Where it was measured: numbers, or names.
        values: (S, X); NaN: never, or not finite.
        style: 0 for the first line of a network, 1, 2, ... for further ones.
    """

    label: str
    network: str
    x: tuple[float | str, ...]
    values: np.ndarray
    style: int = 0


class Chart(NamedTuple):
    """One picture, as data: whoever shows it draws it.

    Attributes:
        title: What it shows.
        x: The label of the x axis.
        y: The label of the y axis.
        curves: The lines, all over the same kind of x.
        log_x: Whether the x axis is logarithmic.
        log_y: Whether the y axis is logarithmic.
        percent: Whether y is a share in [0, 1], shown in per cent.
        threshold: A horizontal line, in the unit of y, or None.
    """

    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]
    log_x: bool = False
    log_y: bool = False
    percent: bool = False
    threshold: float | None = None


@dataclass(frozen=True)
class Claim:
    """A claim, its experiment, and the criterion by which it is judged.

    Attributes:
        name: How it is called: letters and underscores.
        text: The claim in one sentence.
        source: Who claims it.
        varied: What the experiment varies, and what is the same.
        criterion: When it counts as seen, and when as not seen, as `judge` decides it.
        run: Run the experiment.
        judge: Judge what was measured with one set of seeds.
        figures: Return the numbers for the table.
        charts: Return the pictures.
    """

    name: str
    text: str
    source: str
    varied: str
    criterion: str
    run: Callable[[Setting], Measured]
    judge: Callable[[Measured], Verdict]
    figures: Callable[[Measured], tuple[Figure, ...]]
    charts: Callable[[Measured], tuple[Chart, ...]]


def judge_sets(claim: Claim, measured: Measured) -> tuple[Verdict, ...]:
    """Return the verdict of each of `SETS` disjoint sets of seeds, fewer where there are fewer.

    Args:
        claim: The claim.
        measured: What its experiment measured, with S seeds.

    Returns:
        One verdict per set.

    Example:
        >>> larger = Claim("larger", "", "", "", "", run=lambda setting: Measured({}, {}),
        ...     judge=lambda m: SEEN if np.median(m.values["a"]) > 1 else NOT_SEEN,
        ...     figures=lambda m: (), charts=lambda m: ())
        >>> judge_sets(larger, Measured({}, {"a": np.array([2.0, 3.0, 2.0, 4.0, 0.0, 0.5])}))
        ('seen', 'seen', 'not seen here')
    """
    seeds = len(next(iter(measured.values.values())))
    parts = np.array_split(np.arange(seeds), min(SETS, seeds))
    return tuple(claim.judge(measured.of(part.tolist())) for part in parts)


def agree(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on which all sets agree, or "depends".

    Example:
        >>> agree(("seen", "seen")), agree(("seen", "not seen here"))
        ('seen', 'depends')
    """
    return verdicts[0] if len(set(verdicts)) == 1 else DEPENDS


def spread(values: np.ndarray) -> tuple[float, float, float]:
    """Return the least, the median and the largest of some numbers; NaN counts as the largest.

    The median of an even count is the lower one of the two: "never" cannot be averaged.

    Example:
        >>> print(*spread(np.array([np.nan, 1.0, 2.0, 3.0])))
        1.0 2.0 nan
    """
    low, middle, high = over_seeds(np.asarray(values)[:, None])
    return float(low[0]), float(middle[0]), float(high[0])


def over_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the least, the lower median and the largest over the seeds, (S, ...) -> (...) each.

    NaN counts as the largest.
    """
    ordered = np.sort(values, axis=0)  # NaN last
    return ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1]


def median(values: np.ndarray) -> np.ndarray:
    """Return the lower median over the seeds, (S, ...) -> (...); NaN counts as the largest."""
    return over_seeds(values)[1]
