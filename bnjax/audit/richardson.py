"""Derivatives of a function that has no reference: high-order finite differences in float64.

Central differences at steps that halve, h = 2⁻², 2⁻³, … of the arguments' size, are extrapolated
to h = 0 (Richardson); of the whole triangle each number is taken where two neighbours agree best
(Ridders 1982), so that no step has to be chosen. How well they agree is how far the number may
be off; where the slopes from left and right differ however small the step, there is no derivative.

The Taylor test needs no derivative at all: |f(x + hu) − f(x) − h J u| falls with h² if J is right,
with h if it is wrong.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import Array, lax

STEPS = 16
_ORDERS = 6
_FIRST = 2.0**-2
_SAFETY = 32.0  # two neighbours may agree by chance


class Slopes(NamedTuple):
    """dy/dt along each direction: the number, how far it may be off, and Taylor's remainders.

    Attributes:
        values: (D, *shape).
        slack: (D, *shape), infinite where the slopes from both sides differ.
        steps: h, (STEPS,).
        rises: f(x + hu) − f(x), (D, STEPS, *shape).
    """

    values: np.ndarray
    slack: np.ndarray
    steps: np.ndarray
    rises: np.ndarray


def steps() -> np.ndarray:
    """Return the steps, relative to the directions' length."""
    return _FIRST * 2.0 ** -np.arange(STEPS)


def walk(
    f: Callable[[list[Array]], list[Array]], x: list[Array], u: list[Array], h: Any
) -> tuple[list[Array], list[Array], list[Array]]:
    """Evaluate f at x, x + hu and x − hu for all steps; traceable."""

    def at(t: Array) -> list[Array]:
        return f([a + t * b for a, b in zip(x, u, strict=True)])

    return f(x), lax.map(at, h), lax.map(lambda t: at(-t), h)


def slopes(
    here: np.ndarray, ahead: np.ndarray, behind: np.ndarray, h: np.ndarray, eps: float
) -> Slopes:
    """Extrapolate central differences to h = 0.

    Args:
        here: f(x), (D, *shape).
        ahead: f(x + hu), (D, STEPS, *shape).
        behind: f(x − hu), the same.
        h: The steps, (STEPS,).
        eps: The epsilon f computes with.

    Example:
        >>> h = steps()
        >>> found = slopes(np.exp([0.0]), np.exp(h)[None], np.exp(-h)[None], h, 2.2e-16)
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
            off = np.maximum(abs(finer - column[1:]), abs(finer - column[:-1]))
            rounding = rounding[1:]
            off = off + rounding
            for value, error in zip(finer, off, strict=True):
                better = error < slack
                best, slack = np.where(better, value, best), np.where(better, error, slack)
            column = finer
        rises = ahead - here[:, None]
        jump = np.abs(rises - (here[:, None] - behind)) / row
        # of a smooth function the jump goes with h: a sixteenth over four steps
        noise = 256 * eps * np.max(np.abs(here[np.isfinite(here)]), initial=0) / h[-1]
        kink = (jump[:, -1] > jump[:, -5] / 4) & (jump[:, -1] > noise)
    return Slopes(best, np.where(kink, np.inf, _SAFETY * slack), h, rises)


def taylor_order(
    rises: np.ndarray, slope: np.ndarray, h: np.ndarray, rounding: float
) -> float | None:
    """Find the power of h with which |f(x + hu) − f(x) − h J u| falls; None if it is all rounding.

    Args:
        rises: f(x + hu) − f(x), (STEPS, *shape).
        slope: J u, (*shape).
        h: The steps, (STEPS,).
        rounding: How large f's own roundings are.

    Example:
        >>> h = steps()
        >>> print(round(taylor_order(np.exp(h) - 1, np.asarray(1.0), h, 1e-15), 1))
        2.0
        >>> print(round(taylor_order(np.exp(h) - 1, np.asarray(1.0005), h, 1e-15), 1))
        1.0
    """
    left = rises - h.reshape(-1, *[1] * np.ndim(slope)) * slope
    sizes = np.sqrt(np.sum(np.reshape(left, (len(h), -1)) ** 2, axis=1))
    seen = np.isfinite(sizes) & (sizes > 100 * rounding)
    # the smallest steps that are seen: there the leading term rules
    pairs = [k for k in range(len(h) - 1) if seen[k] and seen[k + 1]]
    if len(pairs) < 2:
        return None
    return float(np.median([np.log2(sizes[k] / sizes[k + 1]) for k in pairs[-3:]]))
