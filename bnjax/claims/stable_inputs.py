"""The claim that normalization helps because the layers' inputs stay as they are.

Source: S3; Ioffe & Szegedy 2015, abstract. Santurkar et al. 2018, §2, add noise and refute it.
"""

import numpy as np

from bnjax.claims import grids, shifts
from bnjax.claims.claim import (
    DEPENDS,
    NOT_SEEN,
    SEEN,
    Chart,
    Claim,
    Figure,
    Measured,
    Verdict,
    median,
)

_FEWER = 0.5


def steps(measured: Measured) -> dict[str, np.ndarray]:
    """Return after how many steps each kind was at the target, (S,); NaN: never."""
    (target,) = measured.varied["target"]
    at = np.array(measured.varied["step"])
    return {
        kind: grids.steps_to(measured.values[f"{kind}_accuracy"], at, target)
        for kind in shifts.LABELS
    }


def judge(measured: Measured) -> Verdict:
    """Judge by the criterion that `CLAIM` states."""
    moved = {k: median(v) for k, v in shifts.over_training(measured, "inputs").items()}
    needed = {k: np.nan_to_num(median(v), nan=np.inf) for k, v in steps(measured).items()}
    if needed["noisy"] == needed["baseline"] == np.inf:  # neither learnt
        return DEPENDS
    if needed["noisy"] >= needed["baseline"]:
        return SEEN
    refuted = moved["noisy"] >= moved["baseline"] and (
        needed["noisy"] <= _FEWER * needed["baseline"]
    )
    return NOT_SEEN if refuted else DEPENDS


def figures(measured: Measured) -> tuple[Figure, ...]:
    """Return steps and shifts."""
    moved, needed = shifts.over_training(measured, "inputs"), steps(measured)
    return tuple(
        Figure(f"{what}, {shifts.LABELS[kind]}", each, shape)
        for what, of_kinds, shape in (
            ("steps to the target", needed, ".0f"),
            ("shift of the inputs", moved, ".2g"),
        )
        for kind, each in of_kinds.items()
    )


def charts(measured: Measured) -> tuple[Chart, ...]:
    """Return the accuracies over training."""
    (target,) = measured.varied["target"]
    lines = shifts.curves(measured, "accuracy")
    title = "Learning, although noise moves the inputs at every step"
    return (Chart(title, "step (mini-batches)", "correct", lines, percent=True, threshold=target),)


CLAIM = Claim(
    name="stable_inputs",
    text="Normalization makes learning faster because it keeps the layers' inputs stable.",
    source="S3; Ioffe & Szegedy 2015, abstract",
    varied=shifts.VARIED,
    criterion="With noise the inputs are not stable: if that is why normalization helps, it helps "
    "no more. Seen if with noise the median of the steps to the target is at least the "
    "baseline's. Not seen if it is at most half of it although the inputs (measured as in "
    "input_shift) shift at least as much as the baseline's.",
    run=shifts.run,
    judge=judge,
    figures=figures,
    charts=charts,
)
