"""What is likely wrong with a gradient, where a simple pattern explains it.

Each pattern is tried on got and wanted, arrays of (trials, *shape); the first that leaves next to
nothing of the difference is named.
"""

import numpy as np

_LEFT = 1e-2  # of the difference, at most, for a pattern to explain it


def diagnose(got: np.ndarray, wanted: np.ndarray, noise: np.ndarray | float = 0.0) -> str:
    """Name the likely kind of error; "" where nothing simple explains it.

    Args:
        got: What the rule gave, (trials, *shape).
        wanted: What the reference gave.
        noise: How far roundings may move each number.

    Example:
        >>> wanted = np.arange(12.0).reshape(2, 3, 2)
        >>> diagnose(1.5 * wanted, wanted), diagnose(-wanted, wanted)
        ('off by a factor of 1.5', 'the sign is wrong')
        >>> diagnose(wanted + wanted.mean(axis=1, keepdims=True), wanted)
        'a term that is constant along axis 0 is missing or too much'
    """
    known = np.isfinite(wanted)
    strange = known & ~np.isfinite(got)
    if np.any(strange):
        kind = "NaN" if np.any(np.isnan(got[strange])) else "infinite"
        return f"{kind} at {_share(strange)} where the reference is finite"
    if np.any(np.isfinite(got) & ~known):
        return f"finite at {_share(np.isfinite(got) & ~known)} where the reference is not"
    got, wanted = np.where(known, got, 0), np.where(known, wanted, 0)
    difference = got - wanted
    enough = max(
        _LEFT * np.linalg.norm(difference), np.linalg.norm(np.broadcast_to(noise, got.shape))
    )

    def explains(left: np.ndarray) -> bool:
        return bool(np.linalg.norm(left) <= enough < np.linalg.norm(difference))

    if not np.any(got):
        return "no gradient at all: zero everywhere"
    if explains(got + wanted):
        return "the sign is wrong"
    factor = np.vdot(wanted, got) / (np.vdot(wanted, wanted) or 1.0)
    if explains(got - factor * wanted):
        return f"off by a factor of {factor:.5g}"
    if got.ndim == 3 and got.shape[1] == got.shape[2]:
        if explains(got - np.swapaxes(wanted, 1, 2)):
            return "transposed"
    for axis in range(1, got.ndim):
        if got.shape[axis] > 1 and explains(difference - difference.mean(axis, keepdims=True)):
            return f"a term that is constant along axis {axis - 1} is missing or too much"
    if got.ndim > 2 and explains(
        np.sort(got.reshape(len(got), -1)) - np.sort(wanted.reshape(len(got), -1))
    ):
        return "the right numbers in wrong places"
    return ""


def _share(places: np.ndarray) -> str:
    return f"{np.count_nonzero(places)} of {places.size} places"
