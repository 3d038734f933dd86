"""The points and directions at which an audit compares derivatives.

A trial is a point x with a cotangent v of the outputs and a tangent u of the arguments. The first
trials have random v and u, each at a point of its own: the given one, and small relative
variations of it, which keep zeros and signs. The other trials are at the given point: along every
axis where there are few, else along random directions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bnjax.audit.arguments import OutputLayout

POINTS = 3


class Trials(NamedTuple):
    """The points and directions of all T trials, stacked leaf by leaf.

    Attributes:
        points: For each differentiated leaf (POINTS, *shape), the given values first.
        at: The index of each trial's point, (T,).
        v: The cotangents: for each floating output (T, *shape).
        u: The tangents: for each differentiated leaf (T, *shape).
    """

    points: list[Any]
    at: np.ndarray
    v: list[Any]
    u: list[Any]


def draw_trials(
    leaves: Sequence[np.ndarray],
    outputs: OutputLayout,
    *,
    few: int,
    random: int,
    points: int,
    rng: np.random.Generator,
) -> Trials:
    """Draw the trials, in the dtypes of the arguments and outputs.

    Args:
        leaves: The differentiated leaves.
        outputs: The layout of the function's outputs.
        few: Up to this many elements, every axis is tried.
        random: With more elements, the number of random directions.
        points: The number of points.
        rng: NumPy's generator.
    """
    shapes = outputs.shapes[: outputs.floating]
    sizes = [sum(leaf.size for leaf in leaves), sum(int(np.prod(shape)) for shape in shapes)]
    # a single axis adds nothing to the random directions
    axes = max((size for size in sizes if size <= few), default=0) if max(sizes) > 1 else 0
    count = points + max(axes, random if max(sizes) > few else 0)

    def directions(size: int) -> np.ndarray:
        drawn = rng.standard_normal((count, size))
        if size <= few and count > points:
            drawn[points : points + size] = np.eye(size)
        return drawn

    def vary(leaf: np.ndarray) -> np.ndarray:
        wide = np.asarray(leaf, np.float64)
        factors = 1 + rng.uniform(-1, 1, (points, *leaf.shape)) / 8
        factors[0] = 1
        return (wide * factors).astype(leaf.dtype)

    return Trials(
        [vary(leaf) for leaf in leaves],
        np.array([*range(points), *[0] * (count - points)], np.int32),
        _split_leaves(directions(sizes[1]), shapes, outputs.dtypes[: outputs.floating]),
        _split_leaves(directions(sizes[0]), [a.shape for a in leaves], [a.dtype for a in leaves]),
    )


def _split_leaves(
    flat: np.ndarray, shapes: Sequence[Any], dtypes: Sequence[Any]
) -> list[np.ndarray]:
    """Split (T, total size) into one array (T, *shape) per leaf."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    parts = np.split(flat, ends, axis=1)
    return [
        part.reshape(len(flat), *shape).astype(dtype)
        for part, shape, dtype in zip(parts, shapes, dtypes, strict=True)
    ]
