"""How pictures are drawn: one size, one colour for each network, line styles for layers."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from bnjax.app.report.pictures import COLOURS, LABELS

SIZE = (4.0, 3.1)
STYLES = ("-", "--", "-.", ":")
_MOST_LAYERS = 6  # of more, some are drawn


@dataclass(frozen=True)
class Panel:
    """One picture: which finding it belongs to, its SVG, and what it shows."""

    section: str
    svg: str
    caption: str

    def uri(self) -> str:
        """Return it as an address that needs no file."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode()).decode()


def svg(figure: Figure) -> str:
    """Write a figure as SVG, the same bytes each time."""
    written = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "bnjax"}):
        figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()


def by_layer(axes: Axes, epochs: np.ndarray, values: np.ndarray, name: str = "bn") -> None:
    """Draw one line for each layer, darker the later."""
    count = values.shape[1]
    for number, at in enumerate(chosen_layers(count)):
        colour = shade(COLOURS[name], (at + 1) / count)
        style = STYLES[number % len(STYLES)]
        axes.plot(epochs, values[:, at], style, color=colour, linewidth=2, label=f"layer {at}")


def chosen_layers(count: int) -> list[int]:
    """Choose the layers to draw: all, or of many the first, the last and some between."""
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, _MOST_LAYERS))})


def new_figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """Make a figure of one panel."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes


def style_of(name: str) -> dict[str, Any]:
    """Return the colour and the name of a network's line."""
    return {"color": COLOURS[name], "label": LABELS[name], "linewidth": 2}


def shade(colour: str, share: float) -> tuple[float, ...]:
    """Mix a colour with white: the smaller the share, the lighter."""
    mixed = 0.35 + 0.65 * share
    return tuple(mixed * part + 1 - mixed for part in to_rgb(colour))


def positive(values: np.ndarray) -> np.ndarray:
    """Leave out what a logarithmic axis has no place for."""
    return np.where(values > 0, values, np.nan)
