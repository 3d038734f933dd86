"""Features scaled with the training set's statistics."""

import numpy as np

from bnjax.app.data.raw import Floats

SCALES = ("auto", "standard", "range", "none")
SCALING = {
    "standard": "standardized with the training set's mean and standard deviation",
    "range": "scaled to [0, 1] with the training set's minimum and maximum",
    "none": "not scaled",
}


def statistics(x: Floats, scale: str) -> tuple[Floats | float, Floats | float]:
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
