"""The likely mistake in a derivative rule, where a simple pattern explains the error."""

import numpy as np

_UNEXPLAINED = 1e-2  # the largest fraction of the difference that a pattern may leave


def diagnose(got: np.ndarray, wanted: np.ndarray, noise: np.ndarray | float = 0.0) -> str:
    """Name the first simple pattern that explains the difference between two results.

    Args:
        got: The rule's result, (trials, *shape).
        wanted: The reference's, the same shape.
        noise: How far rounding errors may move each number.

    Returns:
        The likely mistake, or "" where no pattern explains the difference.

    Example:
        >>> wanted = np.arange(12.0).reshape(2, 3, 2)
        >>> diagnose(1.5 * wanted, wanted), diagnose(-wanted, wanted)
        ('off by a factor of 1.5', 'the sign is wrong')
        >>> diagnose(wanted + wanted.mean(axis=1, keepdims=True), wanted)
        'a term that is constant along axis 0 is missing or superfluous'
    """
    finite = np.isfinite(wanted)
    strange = finite & ~np.isfinite(got)
    if np.any(strange):
        kind = "NaN" if np.any(np.isnan(got[strange])) else "infinite"
        return f"{kind} at {_count_places(strange)} where the reference is finite"
    if np.any(np.isfinite(got) & ~finite):
        places = _count_places(np.isfinite(got) & ~finite)
        return f"finite at {places} where the reference is not"
    got, wanted = np.where(finite, got, 0), np.where(finite, wanted, 0)
    difference = got - wanted
    size = np.linalg.norm(difference)
    small = max(_UNEXPLAINED * size, np.linalg.norm(np.broadcast_to(noise, got.shape)))

    def explained(rest: np.ndarray) -> bool:
        return bool(np.linalg.norm(rest) <= small < size)

    if not np.any(got):
        return "the result is zero everywhere"
    if explained(got + wanted):
        return "the sign is wrong"
    factor = np.vdot(wanted, got) / (np.vdot(wanted, wanted) or 1.0)
    if explained(got - factor * wanted):
        return f"off by a factor of {factor:.5g}"
    if got.ndim == 3 and got.shape[1] == got.shape[2]:
        if explained(got - np.swapaxes(wanted, 1, 2)):
            return "transposed"
    for axis in range(1, got.ndim):
        if got.shape[axis] > 1 and explained(difference - difference.mean(axis, keepdims=True)):
            return f"a term that is constant along axis {axis - 1} is missing or superfluous"
    if got.ndim > 2 and explained(
        np.sort(got.reshape(len(got), -1)) - np.sort(wanted.reshape(len(got), -1))
    ):
        return "the right values in the wrong places"
    return ""


def _count_places(places: np.ndarray) -> str:
    return f"{np.count_nonzero(places)} of {places.size} places"
