"""What a finding is, and what the rooms that find share.

The mean and the largest |cos| (G.1) are read off a histogram.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnjax import geometry
from bnjax.app.report.evidence import Evidence

_CENTERS = (np.arange(geometry.COSINE_BINS) + 0.5) * 2 / geometry.COSINE_BINS - 1
BIN = 2 / geometry.COSINE_BINS


@dataclass(frozen=True)
class Finding:
    """Something that the figures say.

    Attributes:
        name: Of its place in the report.
        title: A few words.
        text: Sentences.
        tags: Of the equations that it rests on.
        figures: The numbers in the text, and those behind it.
        strength: How far it is from nothing special, in orders of magnitude.
    """

    name: str
    title: str
    text: str
    tags: tuple[str, ...]
    figures: dict[str, Any] = field(default_factory=dict)
    strength: float = 0.0


def mean_cosine(shares: np.ndarray) -> np.ndarray:
    """Return the mean |cos| of histograms, (..., 40) -> (...); to half a bin."""
    return shares @ np.abs(_CENTERS)


def largest_cosine(shares: np.ndarray) -> np.ndarray:
    """Return the edge of the outermost bin that is not empty, (..., 40) -> (...)."""
    edge = np.abs(_CENTERS) + 1 / geometry.COSINE_BINS
    return np.max(np.where(shares > 0, edge, 0), -1)


def normalized(evidence: Evidence) -> np.ndarray | None:
    """Return the normalized network's rows, if it has a normalized layer that was looked at."""
    rows = evidence.history.get("bn")
    return rows if rows is not None and rows["removed"].shape[1] else None


def ratio_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Divide; NaN where either is zero, which has no order of magnitude."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((a > 0) & (b > 0), a / b, np.nan)
