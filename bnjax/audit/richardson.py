"""Directional derivatives by Richardson extrapolation of central differences, in float64.

The steps halve, h = 2⁻², 2⁻³, … of the size of the arguments, and the central differences are
extrapolated to h = 0. From the triangle of extrapolations, each number is taken where two
neighbours agree best (Ridders 1982), so that no step has to be chosen; how well they agree bounds
the error. Where the one-sided differences do not approach each other, there is no derivative.

The Taylor test needs no reference: the remainder |f(x + hu) − f(x) − h J u| decreases as h² if J is
correct, and as h if it is not.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import Array, lax

STEPS = 16
_ORDERS = 6
_FIRST_STEP = 2.0**-2
_SAFETY = 32.0  # two neighbours may agree by chance


class DirectionalDerivatives(NamedTuple):
    """The derivatives dy/dt of y(t) = f(x + tu) at t = 0, along D directions u.

    Attributes:
        values: The derivatives, (D, *shape).
        slack: How far off they may be, (D, *shape); infinite where the one-sided derivatives
            differ.
        steps: The steps h, (STEPS,).
        increments: f(x + hu) − f(x), (D, STEPS, *shape).
    """

    values: np.ndarray
    slack: np.ndarray
    steps: np.ndarray
    increments: np.ndarray


def step_sizes() -> np.ndarray:
    """Return the steps h, (STEPS,), relative to the length of the direction."""
    return _FIRST_STEP * 2.0 ** -np.arange(STEPS)


def evaluate_stencil(
    f: Callable[[list[Array]], list[Array]], x: list[Array], u: list[Array], h: Any
) -> tuple[list[Array], list[Array], list[Array]]:
    """Return f(x), and f(x + hu) and f(x − hu) for all steps h; traceable."""

    def at(t: Array) -> list[Array]:
        return f([a + t * b for a, b in zip(x, u, strict=True)])

    return f(x), lax.map(at, h), lax.map(lambda t: at(-t), h)


def extrapolate(
    here: np.ndarray, ahead: np.ndarray, behind: np.ndarray, h: np.ndarray, eps: float
) -> DirectionalDerivatives:
    """Extrapolate central differences to h = 0.

    Args:
        here: f(x), (D, *shape).
        ahead: f(x + hu), (D, STEPS, *shape).
        behind: f(x − hu), the same shape.
        h: The steps, (STEPS,).
        eps: The machine epsilon that f computes with.

    Example:
        >>> h = step_sizes()
        >>> found = extrapolate(np.exp([0.0]), np.exp(h)[None], np.exp(-h)[None], h, 2.2e-16)
        >>> print(abs(found.values[0] - 1) < 1e-12, found.slack[0] < 1e-9)
        True True
    """
    row = h.reshape(-1, *[1] * (here.ndim - 1))
    with np.errstate(all="ignore"):
        column = np.moveaxis((ahead - behind) / (2 * row), 1, 0)
        rounding = eps * np.moveaxis(np.abs(ahead) + np.abs(behind), 1, 0) / row[:, None]
        best = column[-1].copy()
        slack = np.full_like(best, np.inf)
        for order in range(1, _ORDERS):
            power = 4.0**order
            finer = (power * column[1:] - column[:-1]) / (power - 1)
            error = np.maximum(abs(finer - column[1:]), abs(finer - column[:-1]))
            rounding = rounding[1:]
            error = error + rounding
            for value, off in zip(finer, error, strict=True):
                better = off < slack
                best, slack = np.where(better, value, best), np.where(better, off, slack)
            column = finer
        increments = ahead - here[:, None]
        jump = np.abs(increments - (here[:, None] - behind)) / row
        # the one-sided differences of a smooth function approach each other as h: by 16 in 4 steps
        noise = 256 * eps * np.max(np.abs(here[np.isfinite(here)]), initial=0) / h[-1]
        kink = (jump[:, -1] > jump[:, -5] / 4) & (jump[:, -1] > noise)
    return DirectionalDerivatives(best, np.where(kink, np.inf, _SAFETY * slack), h, increments)


def taylor_order(
    increments: np.ndarray, slope: np.ndarray, h: np.ndarray, rounding: float
) -> float | None:
    """Return the power of h with which the remainder |f(x + hu) − f(x) − h J u| decreases.

    Args:
        increments: f(x + hu) − f(x), (STEPS, *shape).
        slope: J u, (*shape).
        h: The steps, (STEPS,).
        rounding: The size of f's own rounding errors.

    Returns:
        The power: 2 if J is correct. None if the remainder does not rise above the rounding errors,
        or only where the steps are so large that they cross a kink.

    Example:
        >>> h = step_sizes()
        >>> print(round(taylor_order(np.exp(h) - 1, np.asarray(1.0), h, 1e-15), 1))
        2.0
        >>> print(round(taylor_order(np.exp(h) - 1, np.asarray(1.0005), h, 1e-15), 1))
        1.0
    """
    remainders = increments - h.reshape(-1, *[1] * np.ndim(slope)) * slope
    sizes = np.sqrt(np.sum(np.reshape(remainders, (len(h), -1)) ** 2, axis=1))
    limit = 100 * rounding
    visible = np.isfinite(sizes) & (sizes > limit)
    smallest = int(np.flatnonzero(visible)[-1]) if np.any(visible) else 0
    # the remainder of a wrong J decreases as h: a jump to nothing is a kink between two steps, of a
    # sort say, and says nothing about J
    if smallest + 1 < len(h) and sizes[smallest] > 2**4 * limit:
        return None
    # the smallest steps with a visible remainder, where the leading term dominates
    pairs = [k for k in range(len(h) - 1) if visible[k] and visible[k + 1]]
    if len(pairs) < 2:
        return None
    return float(np.median([np.log2(sizes[k] / sizes[k + 1]) for k in pairs[-3:]]))
