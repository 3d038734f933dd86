"""What a report is about: recordings, each with a title and names that fit into sentences."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from bnjax import geometry
from bnjax.geometry import Recording
from bnjax.report.words import listed

_CENTERS = (np.arange(geometry.COSINE_BINS) + 0.5) * 2 / geometry.COSINE_BINS - 1
_LONGEST = 40  # characters of a name


class Curve(NamedTuple):
    """How a figure of the training went: `values` over `steps`; NaN where it is not finite."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Subject:
    """A recording, and what it is called.

    Attributes:
        name: Its key in JSON.
        title: Its name in a sentence, "the baseline"; "" where there is only one.
        recording: What was seen.
        unit: What `recording.steps` count, "step" or "epoch".
        curves: "training cost", "test cost" or "test accuracy" to its course.
        color: Its place in the order of colours.
    """

    name: str
    title: str
    recording: Recording
    unit: str = "step"
    curves: Mapping[str, Curve] = field(default_factory=dict)
    color: int = 0

    def figures(self, name: str) -> np.ndarray:
        """Return a field of the looks, (K, L) or (K, L, n); NaN, (K, L), where there is none."""
        looks = self.recording.looks
        if name in (looks.dtype.names or ()):
            return np.array(looks[name], np.float64)
        return np.full((len(looks), self.count), np.nan)

    def cosines(self, kind: int) -> np.ndarray:
        """Return the mean |cos θ1|, |cos θ2| or |cos θ3| of the layers, (K, L); to half a bin."""
        shares = self.figures(f"cos{kind}")
        return np.where(shares.sum(2) > 0, shares @ np.abs(_CENTERS), np.nan)

    def largest_cosine(self, kind: int) -> np.ndarray:
        """Return the lower edge of the outermost bin that is not empty, (K, L)."""
        edge = np.abs(_CENTERS) - 1 / geometry.COSINE_BINS
        shares = self.figures(f"cos{kind}")
        return np.where(shares.sum(2) > 0, np.max(np.where(shares > 0, edge, 0), 2), np.nan)

    @property
    def seen(self) -> bool:
        """Return whether there is a look at a layer."""
        return bool(len(self.recording.steps)) and self.count > 0

    @property
    def count(self) -> int:
        """Return L."""
        return len(self.recording.names)

    @cached_property
    def norm(self) -> np.ndarray:
        """Return which layers are normalized, (L,) bool."""
        return np.array(self.recording.norm, bool)

    @cached_property
    def layer_names(self) -> tuple[str, ...]:
        """Return short names: params['block1']['conv']['kernel'] is block1/conv."""
        paths = [_path(name) for name in self.recording.names]
        while min(map(len, paths), default=0) > 1 and len({path[-1] for path in paths}) == 1:
            paths = [path[:-1] for path in paths]
        short = ["/".join(path) for path in paths]
        found = short if len(set(short)) == len(short) else self.recording.names
        return tuple(one if len(one) <= _LONGEST else f"…{one[-_LONGEST:]}" for one in found)

    def layer(self, at: int) -> str:
        """Name a layer: by its number, counted from zero, and its name."""
        name = self.layer_names[at]
        if name == f"layer {at}":
            return name + (" (the last)" if at == self.count - 1 else "")
        return f"layer {at} ({name})"

    def place(self, at: int) -> str:
        """Name a layer, and whose it is."""
        return f"{self.layer(at)} of {self.title}" if self.title else self.layer(at)

    def layers(self, chosen: Sequence[int], most: int = 4) -> str:
        """Name layers, of many the first."""
        more = [f"{len(chosen) - most} more"] if len(chosen) > most else []
        return listed([self.layer(at) for at in chosen[:most]] + more)

    def when(self, k: int) -> str:
        """Name a moment."""
        step = int(self.recording.steps[k])
        if step == 0:
            return "before training"
        return f"after epoch {step:,}" if self.unit == "epoch" else f"at step {step:,}"

    @property
    def inside(self) -> str:
        """Return " in the baseline", or nothing where there is only one."""
        return f" in {self.title}" if self.title else ""


def _path(name: str) -> list[str]:
    """Return the parts of a parameter's path; of another name itself."""
    parts = [part.strip() for part in re.split(r"[][.'\"]+", name.removeprefix("params"))]
    return [*filter(None, parts)] if name.startswith("params") and any(parts) else [name]


class Peak(NamedTuple):
    """The largest of some figures: its look, its layer, its value, and that of the last look."""

    look: int
    layer: int
    value: float
    last: float


def peak(figures: np.ndarray, by: np.ndarray | None = None) -> Peak | None:
    """Return the largest of (K, L) figures, or where `by` is largest; None where all are NaN."""
    by = figures if by is None else by
    if not np.isfinite(by).any():
        return None
    k, at = np.unravel_index(np.nanargmax(np.where(np.isfinite(by), by, np.nan)), by.shape)
    return Peak(int(k), int(at), float(figures[k, at]), float(figures[-1, at]))


def ratio_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Divide; NaN where either is zero, which has no order of magnitude."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((a > 0) & (b > 0), a / b, np.nan)


def logarithm(ratio: np.ndarray) -> np.ndarray:
    """Return |log10| of ratios."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(np.log10(ratio))
