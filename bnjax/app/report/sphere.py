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

_MARKS = {"Δ̂": ("^", "#b5541c"), "û": ("s", "#2f7d4f"), "x̂": ("o", "#1c5cb5")}
_SIDES = (("Δ̂", "x̂"), ("û", "x̂"), ("Δ̂", "û"))  # θ1, θ2, θ3
_ROOM = 0.93  # |cos| of a side from which on its ends lie too close for a name


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
    """Draw the triangle, as far as the vectors have directions; dashed or hollow what is behind."""
    points = _view(place(weight))
    sides = [(k, *ends) for k, ends in enumerate(_SIDES) if {*ends} <= points.keys()]
    named = zip(("Δ", "u", "x"), weight.defined, strict=True)
    title = [f"{name} has no direction" for name, known in named if not known]
    title += [f"θ{k + 1} = {degrees(weight.cosines[k]):.0f}°" for k, *_ in sides]
    title += [] if weight.corner is None else [f"at x̂ {weight.corner:.0f}°"]
    figure, axes = new_figure(", ".join(title), (5.2, 5.0))
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set(xlim=(-1.25, 1.25), ylim=(-1.2, 1.2))
    around = np.linspace(0, 2 * np.pi, 200)
    axes.fill(np.cos(around), np.sin(around), facecolor="0.97", edgecolor="0.6", zorder=0)
    middle = np.mean([*points.values()], 0) if points else np.zeros(3)
    for k, one, other in sides:
        way = _arc(points[one], points[other])
        for front, style in ((True, "-"), (False, (0, (4, 3)))):
            x, y = (np.where((way[:, 2] >= -1e-9) == front, way[:, i], np.nan) for i in range(2))
            axes.plot(x, y, linestyle=style, color="0.25", linewidth=1.8, zorder=3)
        if abs(points[one] @ points[other]) < _ROOM:
            half = way[len(way) // 2]
            across = np.cross(half, way[-1] - way[0])[:2]  # flat triangles: left and right
            side = (half - middle)[:2] @ across
            away = across * (np.sign(side) if abs(side) > 0.02 else 1 - k % 2 * 2)
            _write(axes, f"θ{k + 1}", half, away, size=12)
    for name, point in points.items():
        marker, color = _MARKS[name]
        face = "white" if point[2] < -1e-9 else color
        more = {"markersize": 10, "markerfacecolor": face, "markeredgecolor": color, "zorder": 5}
        axes.plot(point[0], point[1], marker, **more)
        _write(axes, name, point, point - middle, size=15, color=color)
    return figure


def _write(
    axes: Axes, name: str, at: np.ndarray, away: np.ndarray, *, size: int, color: str = "black"
) -> None:
    """Write a name beside a point, in the direction `away`."""
    length = float(np.linalg.norm(away[:2]))
    x, y = at[:2] + 0.13 * (away[:2] / length if length > 1e-3 else np.array([0.0, 1.0]))
    axes.text(x, y, name, fontsize=size, color=color, ha="center", va="center", zorder=6)


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


def _arc(one: np.ndarray, other: np.ndarray, count: int = 60) -> np.ndarray:
    """Return points on the shortest path between two, (count, 3)."""
    beside = other - (one @ other) * one
    length = float(np.linalg.norm(beside))
    if length < 1e-9:  # one point or opposite ones, which no way is the shortest between
        beside = np.cross(one, [0.0, 0.0, 1.0] if abs(one[2]) < 0.9 else [1.0, 0.0, 0.0])
        length = float(np.linalg.norm(beside))
    angle = np.arccos(np.clip(one @ other, -1, 1)) * np.linspace(0, 1, count)
    return np.cos(angle)[:, None] * one + np.sin(angle)[:, None] * (beside / length)
