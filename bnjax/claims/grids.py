"""What a grid of trainings came to: when a target was reached, and which setting did best.

A choice among settings is made by the median over the seeds, for each network by itself: each is
compared at its own best.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np

from bnjax.claims.claim import Data, median
from bnjax.claims.training import Varied
from bnjax.network import Network

LABELS = {"baseline": "baseline", "bn": "normalized"}
NETWORKS = tuple(LABELS)
HIDDEN = (100, 100, 100)


def networks(data: Data, hidden: Sequence[int] = HIDDEN, **options: Any) -> dict[str, Network]:
    """Return the baseline and the normalized network for some data, by name.

    Args:
        data: The data.
        hidden: Sizes of the hidden layers.
        options: Further attributes of `Network`.
    """
    sizes = (data.n_in, *hidden, data.n_out)
    return {name: Network(sizes, norm=name == "bn", **options) for name in NETWORKS}


def rows(**values: Iterable[float]) -> list[Varied]:
    """Return all combinations of some values, the last name varying fastest.

    Example:
        >>> rows(rate=(1.0, 2.0), scale=(0.5,))
        [{'rate': 1.0, 'scale': 0.5}, {'rate': 2.0, 'scale': 0.5}]
    """
    return [dict(zip(values, each, strict=True)) for each in product(*values.values())]


def as_grid(values: np.ndarray, *lengths: int) -> np.ndarray:
    """Return (S, H, ...) as (S, *lengths, ...), for rows that `rows` made."""
    return np.reshape(values, (len(values), *lengths, *values.shape[2:]))


def steps_to(accuracies: np.ndarray, steps: np.ndarray, target: float) -> np.ndarray:
    """Return after how many steps an accuracy was first reached.

    Args:
        accuracies: (..., evaluations).
        steps: The number of steps before each evaluation, (evaluations,).
        target: The accuracy.

    Returns:
        (...); NaN where it never was.

    Example:
        >>> steps_to(np.array([[0.1, 0.9, 0.8], [0.1, 0.2, 0.3]]), np.array([5, 10, 15]), 0.8)
        array([10., nan])
    """
    reached = accuracies >= target
    return np.where(reached.any(-1), steps[reached.argmax(-1)], np.nan)


def best(values: np.ndarray, *, least: bool = False) -> np.ndarray:
    """Return the values of the best of several settings, by the median over the seeds.

    Args:
        values: (S, H, ...), H settings. NaN is worst.
        least: Whether the least value is the best one.

    Returns:
        (S, ...): for each remaining place the values of the setting that is best there.

    Example:
        >>> best(np.array([[1.0, 3.0], [5.0, 4.0], [1.0, 3.5]]))
        array([3. , 4. , 3.5])
    """
    at = best_setting(values, least=least)
    return np.take_along_axis(values, at[None, None], axis=1)[:, 0]


def best_setting(values: np.ndarray, *, least: bool = False) -> np.ndarray:
    """Return which setting `best` chooses, (...) int."""
    middle = median(values if least else -values)
    return np.argmin(np.where(np.isnan(middle), np.inf, middle), axis=0)


def largest(values: Sequence[float], which: np.ndarray) -> np.ndarray:
    """Return the largest of some values that is marked, (..., V) bool -> (...); NaN for none."""
    found = np.where(which, np.asarray(values), -np.inf).max(-1)
    return np.where(np.isfinite(found), found, np.nan)
