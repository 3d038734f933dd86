"""One weight's triangle: Δ̂, û and x̂ as points of a sphere, seen from outside.

Each is a direction; θ1 (Δ̂, x̂), θ2 (û, x̂) and θ3 (Δ̂, û) are the sides between them (G.1).

However many samples there are, three directions span three dimensions: nothing is left out.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnjax.app.report.weight import Weight
from bnjax.report.drawing import new_figure, svg
from bnjax.report.words import degrees

_COLOURS = {"Δ̂": "#b5541c", "û": "#2f7d4f", "x̂": "#1c5cb5"}
_MARKERS = {"Δ̂": "^", "û": "s", "x̂": "o"}
_SIDES = (("Δ̂", "x̂"), ("û", "x̂"), ("Δ̂", "û"))  # θ1, θ2, θ3
_ROOM = 0.93  # |cos| of a side from which on its corners lie too close for a label


@dataclass(frozen=True)
class Triangle:
    """The picture of a weight."""

    weight: Weight

    @property
    def caption(self) -> str:
        """Return what it shows."""
        return (
            "The directions of Δ, u and x as points of a sphere, with the angles between them. "
            "Dashed and hollow: behind. The angle at x̂ is the one between error and input once x̂ "
            "is taken off both."
        )

    def draw(self) -> list[str]:
        """Return the picture as SVG."""
        return [svg(_draw(self.weight))]


def _draw(weight: Weight) -> Figure:
    """Draw the triangle, as far as the vectors have directions."""
    points = _view(place(weight))
    sides = [
        (k, one, other) for k, (one, other) in enumerate(_SIDES) if {one, other} <= points.keys()
    ]
    angles = [f"θ{k + 1} = {degrees(weight.cosines[k]):.0f}°" for k, *_ in sides]
    named = zip(("Δ", "u", "x"), weight.defined, strict=True)
    missing = [f"{name} has no direction" for name, known in named if not known]
    figure, axes = new_figure("; ".join([*missing, ", ".join(angles)]), (5.2, 5.0))
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_xlim(-1.25, 1.25)
    axes.set_ylim(-1.2, 1.2)
    _globe(axes)
    middle = np.mean([point[:2] for point in points.values()], 0) if points else np.zeros(2)
    for k, one, other in sides:
        _side(axes, points[one], points[other], f"θ{k + 1}", middle)
    if weight.corner is not None and max(map(abs, weight.cosines[:2])) < _ROOM:
        _corner(axes, points["x̂"], points["Δ̂"], points["û"], f"{weight.corner:.0f}°")
    places = _labels(points)
    for name, point in points.items():
        color = _COLOURS[name]
        face = "white" if point[2] < -1e-9 else color
        axes.plot(
            point[0],
            point[1],
            _MARKERS[name],
            markersize=10,
            markerfacecolor=face,
            markeredgecolor=color,
            markeredgewidth=1.5,
            zorder=5,
        )
        axes.text(
            places[name][0],
            places[name][1],
            name,
            fontsize=15,
            color=color,
            zorder=6,
            ha="center",
            va="center",
        )
    return figure


def place(weight: Weight) -> dict[str, np.ndarray]:
    """Return coordinates of the directions: x̂ points up; what has no direction is left out."""
    cos1, cos2, cos3 = weight.cosines
    delta_varies, u_varies, x_varies = weight.defined
    if not x_varies:
        if not (delta_varies and u_varies):
            names = [n for n, known in (("Δ̂", delta_varies), ("û", u_varies)) if known]
            return {name: np.array([0.0, 0.0, 1.0]) for name in names}
        sine = np.sqrt(1 - cos3**2)
        return {"û": np.array([0.0, 0.0, 1.0]), "Δ̂": np.array([sine, 0.0, cos3])}
    sin1, sin2 = np.sqrt(1 - cos1**2), np.sqrt(1 - cos2**2)
    turn = 1.0 if weight.corner is None else np.cos(np.radians(weight.corner))
    points = {"x̂": np.array([0.0, 0.0, 1.0])}
    if u_varies:
        points["û"] = np.array([sin2, 0.0, cos2])
    if delta_varies:
        points["Δ̂"] = np.array([sin1 * turn, sin1 * np.sqrt(max(0.0, 1 - turn**2)), cos1])
    return points


def _view(points: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turn the sphere so that the triangle faces the reader, x̂ above."""
    middle = sum(points.values(), np.zeros(3))
    if np.linalg.norm(middle) < 0.3:  # opposite one another: from the side
        middle = np.array([0.3, -1.0, 0.2])
    towards = middle / np.linalg.norm(middle)
    up = np.array([0.0, 0.0, 1.0]) - towards[2] * towards
    if np.linalg.norm(up) < 1e-3:
        up = np.array([0.0, 1.0, 0.0])
    up = up / np.linalg.norm(up)
    turned = np.stack([np.cross(up, towards), up, towards])
    return {name: turned @ point for name, point in points.items()}


def _globe(axes: Axes) -> None:
    around = np.linspace(0, 2 * np.pi, 200)
    axes.fill(np.cos(around), np.sin(around), color="0.97", zorder=0)
    axes.plot(np.cos(around), np.sin(around), color="0.6", linewidth=1)
    half = np.linspace(-1, 1, 60)
    for level in (-0.5, 0.0, 0.5):  # seen slightly from above, for roundness
        width = np.sqrt(1 - level**2)
        dip = 0.25 * width * np.sqrt(1 - half**2)
        axes.plot(width * half, level - dip, color="0.85", linewidth=0.8, zorder=0.5)


def _arc(one: np.ndarray, other: np.ndarray, count: int = 60) -> np.ndarray:
    """Return points on the shortest path between two, (count, 3)."""
    beside = other - (one @ other) * one
    length = float(np.linalg.norm(beside))
    if length < 1e-9:  # one point or opposite ones, which no way is the shortest between
        beside = np.cross(one, [0.0, 0.0, 1.0] if abs(one[2]) < 0.9 else [1.0, 0.0, 0.0])
        length = float(np.linalg.norm(beside))
    angle = np.arccos(np.clip(one @ other, -1, 1)) * np.linspace(0, 1, count)
    return np.cos(angle)[:, None] * one + np.sin(angle)[:, None] * (beside / length)


def _labels(points: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return places for the names: x̂'s above, the others' to the left and to the right."""
    places = {"x̂": points["x̂"][:2] + (0, 0.14)} if "x̂" in points else {}
    others = sorted(points.keys() - {"x̂"}, key=lambda name: (points[name][0], name))
    for name, away in zip(others, (-0.13, 0.13)[-len(others) :], strict=True):
        places[name] = points[name][:2] + (away, -0.06)
    return places


def _side(axes: Axes, one: np.ndarray, other: np.ndarray, label: str, middle: np.ndarray) -> None:
    way = _arc(one, other)
    for front, style in ((True, "-"), (False, (0, (4, 3)))):
        seen = (way[:, 2] >= -1e-9) == front
        x, y = (np.where(seen, way[:, k], np.nan) for k in range(2))
        axes.plot(x, y, linestyle=style, color="0.25", linewidth=1.8, zorder=3)
    if abs(one @ other) < _ROOM:
        along = way[len(way) // 2 + 1, :2] - way[len(way) // 2, :2]
        across = np.array([-along[1], along[0]]) / max(float(np.linalg.norm(along)), 1e-9)
        place = way[len(way) // 2, :2]
        inwards = across @ (middle - place)
        # a flat triangle has no inside: its two long sides are named left and right of it
        flat = np.sign(across[0]) * (-1 if label == "θ2" else 1)
        outwards = -np.sign(inwards) if abs(inwards) > 0.02 else flat
        x, y = place + 0.1 * outwards * across
        axes.text(x, y, label, fontsize=12, ha="center", va="center", zorder=4)


def _corner(axes: Axes, at: np.ndarray, one: np.ndarray, other: np.ndarray, label: str) -> None:
    """Mark the angle at a corner."""
    near = []
    for point in (one, other):
        beside = point - (at @ point) * at
        near.append(np.cos(0.22) * at + np.sin(0.22) * beside / np.linalg.norm(beside))
    way = _arc(near[0], near[1])
    axes.plot(way[:, 0], way[:, 1], color=_COLOURS["x̂"], linewidth=1.2, zorder=3)
    x, y, _ = way[len(way) // 2] + 0.55 * (way[len(way) // 2] - at)
    axes.text(x, y, label, fontsize=9, color=_COLOURS["x̂"], ha="center", va="center", zorder=4)
