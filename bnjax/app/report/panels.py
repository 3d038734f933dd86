"""The pictures of the report: small panels, told apart in grey, that stand side by side or below.

The distributions of cos θ1, cos θ2 and cos θ3 (G.1), the sizes of the gradients (G.2, G.3), the
length of the error in each layer (G.5), and how close the layers are to where learning stops (G.6).
"""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgb
from matplotlib.figure import Figure

from bnjax import geometry
from bnjax.app.report.drawing import (
    SIZE,
    STYLES,
    Panel,
    by_layer,
    chosen_layers,
    new_figure,
    positive,
    shade,
    style_of,
    svg,
)
from bnjax.app.report.evidence import Evidence
from bnjax.app.report.finding import BIN, largest_cosine, ratio_of
from bnjax.app.report.pictures import COLOURS, LABELS
from bnjax.app.report.words import when


def draw(evidence: Evidence) -> list[Panel]:
    """Draw all that there is to draw."""
    panels = list(_curves(evidence))
    if any(len(rows) > 1 for rows in evidence.history.values()):
        for several in (_amplitudes, _averages, _stopping, _inputs, _courses):
            panels += several(evidence)
    return [*panels, *_errors(evidence), *_cosines(evidence)]


def _curves(evidence: Evidence) -> Iterator[Panel]:
    if not evidence.metrics:
        return
    classes = next(iter(evidence.metrics.values()))[0]["test_accuracy"] is not None
    unit = ", nats" if evidence.options["cost"].endswith("cross_entropy") else ""
    kinds: list[tuple[str, str, str, float]] = [
        ("cost", "training cost", f"cost per sample{unit}", 1.0)
    ]
    if classes:
        kinds.append(("test_accuracy", "test accuracy", "correct, %", 100.0))
    else:
        kinds.append(("test_cost", "test cost", f"cost per sample{unit}", 1.0))
    for key, title, unit, factor in kinds:
        figure, axes = new_figure(title, "step (mini-batches)", unit)
        for name, lines in evidence.metrics.items():
            values = [np.nan if line[key] is None else factor * line[key] for line in lines]
            axes.plot([line["step"] for line in lines], values, **style_of(name))
        if key == "test_accuracy":
            axes.set_ylim(0, 101)
        else:
            axes.set_yscale("log")
        axes.legend()
        yield Panel("curves", svg(figure), f"{title.capitalize()} of each network, epoch by epoch.")


def _amplitudes(evidence: Evidence) -> Iterator[Panel]:
    count = max(rows["W"].shape[1] for rows in evidence.history.values())
    for at in chosen_layers(count):
        figure, axes = new_figure(f"layer {at}", "epoch", "|∂C/∂W|, root mean square")
        for name, rows in evidence.history.items():
            axes.plot(rows["epoch"], positive(rows["W_bar"][:, at]), **style_of(name))
            if name == "baseline":
                axes.plot(
                    rows["epoch"],
                    positive(rows["covariance"][:, at]),
                    ":",
                    color=COLOURS[name],
                    label="… what tells samples apart",
                )
        axes.set_yscale("log")
        axes.legend(fontsize=8)
        yield Panel(
            "amplitudes",
            svg(figure),
            f"How much one step of η = 1 would change a weight of layer {at}; dotted the "
            "baseline's part from deviations alone (G.3).",
        )


def _averages(evidence: Evidence) -> Iterator[Panel]:
    rows = evidence.history.get("baseline")
    if rows is None:
        return
    figure, axes = new_figure("averages against deviations", "epoch", "ratio of the two parts")
    by_layer(axes, rows["epoch"], ratio_of(rows["means"], rows["covariance"]), "baseline")
    axes.axhline(1, color="0.3", linewidth=1)
    axes.set_yscale("log")
    axes.legend(fontsize=8)
    caption = "The baseline's B ⟨Δ⟩⟨u⟩ over what tells samples apart; above 1 it is larger (G.3)."
    yield Panel("averages", svg(figure), caption)


def _errors(evidence: Evidence) -> Iterator[Panel]:
    lengths = [rows["error"] for rows in evidence.history.values()]
    if not lengths or lengths[0].shape[1] < 2:
        return
    low = min(float(positive(each).min()) for each in map(_finite, lengths))
    high = max(float(each.max()) for each in lengths)
    for name, rows in evidence.history.items():
        figure, axes = new_figure(
            LABELS[name], "layer, from the input to the output", "length of Δ"
        )
        moments = sorted({round(k) for k in np.geomspace(1, len(rows), 4)})
        for order, (k, style) in enumerate(zip(moments, STYLES, strict=False), 1):
            row = rows[k - 1]
            colour = shade(COLOURS[name], order / len(moments))
            label = when(int(row["epoch"]))
            axes.plot(positive(row["error"]), style, marker="o", color=colour, label=label)
        axes.set_yscale("log")
        axes.set_ylim(low / 1.5, high * 1.5)
        axes.set_xticks(range(rows["error"].shape[1]))
        axes.legend(fontsize=8)
        yield Panel(
            "errors", svg(figure), f"Length of the error in each layer of {LABELS[name]} (G.5)."
        )


def _cosines(evidence: Evidence) -> Iterator[Panel]:
    for name, rows in evidence.history.items():
        count = rows["W"].shape[1]
        for kind, of in ((1, "Δ and x"), (2, "u and x"), (3, "Δ and u")):
            chosen = chosen_layers(count)
            figure = Figure(figsize=SIZE, layout="constrained")
            columns = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
            for axes, at in zip(columns, chosen, strict=True):
                shares = rows[f"cos{kind}"][:, at]
                if len(rows) > 1:
                    _spread_over_time(axes, rows["epoch"], shares, COLOURS[name])
                else:
                    edges = np.linspace(-1, 1, geometry.COSINE_BINS + 1)
                    axes.stairs(
                        100 * shares[0],
                        edges,
                        orientation="horizontal",
                        fill=True,
                        color=COLOURS[name],
                    )
                axes.set_title(f"layer {at}", fontsize=9)
                axes.set_ylim(-1, 1)
                axes.tick_params(labelsize=8)
            columns[0].set_ylabel(f"cos θ{kind}, of {of}")
            figure.supxlabel("epoch" if len(rows) > 1 else "share, %", fontsize=10)
            figure.suptitle(LABELS[name], fontsize=11)
            of_what = "neurons" if kind == 1 else "weights"
            yield Panel(
                "angles",
                svg(figure),
                f"How cos θ{kind} of the {of_what} of {LABELS[name]} is distributed"
                + (" over time, darker where more are" if len(rows) > 1 else "")
                + " (G.1).",
            )


def _spread_over_time(axes: Axes, epochs: np.ndarray, shares: np.ndarray, colour: str) -> None:
    dark = tuple(0.55 * part for part in to_rgb(colour))
    colours = LinearSegmentedColormap.from_list("shares", ["white", colour, dark])
    axes.imshow(
        shares.T,
        origin="lower",
        aspect="auto",
        extent=(float(epochs[0]), float(epochs[-1]), -1, 1),
        cmap=colours,
        norm=PowerNorm(0.5, 0, max(float(shares.max()), 1e-3)),
        interpolation="nearest",
    )
    axes.axhline(0, color="0.4", linewidth=0.6)


def _stopping(evidence: Evidence) -> Iterator[Panel]:
    rows = evidence.history.get("bn")
    if rows is None or not rows["removed"].shape[1]:
        return
    count = rows["removed"].shape[1]
    for section, kind, field, things in (
        ("handed", 1, "handed_to_gamma", "neurons"),
        ("synced", 2, "stopped", "weights"),
    ):
        nearest = largest_cosine(rows[f"cos{kind}"])[:, :count] - BIN
        title = f"how near to a halt: largest |cos θ{kind}|"
        figure, axes = new_figure(title, "epoch", f"|cos θ{kind}|, rounded down to 0.05")
        by_layer(axes, rows["epoch"], nearest)
        halt = np.sqrt(1 - geometry.ALIGNED**2)
        axes.axhline(halt, color="0.3", linewidth=1, linestyle=(0, (1, 1)), label="halt")
        axes.set_ylim(0, 1.05)
        axes.legend(fontsize=8, loc="best")
        yield Panel(section, svg(figure), f"The {things} nearest to a halt in each layer (G.6).")
        if rows[field].any():
            figure, axes = new_figure(f"{things} at a halt", "epoch", f"share of the {things}, %")
            by_layer(axes, rows["epoch"], 100 * rows[field])
            axes.legend(fontsize=8)
            yield Panel(
                section, svg(figure), f"Share of {things} with |sin θ{kind}| below 0.1 (G.6)."
            )
    if rows["largest_group"].any():
        figure, axes = new_figure("largest group of synced inputs", "epoch", "inputs")
        by_layer(axes, rows["epoch"], rows["largest_group"])
        axes.legend(fontsize=8)
        yield Panel("synced", svg(figure), "Inputs that are in step with one neuron's x̂ (G.6).")


def _inputs(evidence: Evidence) -> Iterator[Panel]:
    spreads = [rows["percentiles"] for rows in evidence.history.values()]
    if not spreads[0].shape[1]:
        return
    low = min(float(each[..., 0].min()) for each in spreads)
    high = max(float(each[..., -1].max()) for each in spreads)
    for name, rows in evidence.history.items():
        chosen = chosen_layers(rows["percentiles"].shape[1])
        figure = Figure(figsize=SIZE, layout="constrained")
        columns = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
        for axes, at in zip(columns, chosen, strict=True):
            p5, p25, p50, p75, p95 = rows["percentiles"][:, at].T
            axes.fill_between(rows["epoch"], p5, p95, color=COLOURS[name], alpha=0.2, linewidth=0)
            axes.fill_between(rows["epoch"], p25, p75, color=COLOURS[name], alpha=0.35, linewidth=0)
            axes.plot(rows["epoch"], p50, color=COLOURS[name], linewidth=2)
            axes.set_title(f"layer {at}", fontsize=9)
            axes.set_ylim(low, high)
            axes.tick_params(labelsize=8)
            axes.grid(alpha=0.3)
        columns[0].set_ylabel(f"input of the {evidence.options['activation']}")
        figure.supxlabel("epoch", fontsize=10)
        figure.suptitle(LABELS[name], fontsize=11)
        yield Panel(
            "inputs",
            svg(figure),
            f"What the hidden layers of {LABELS[name]} are fed with: the median, the middle half "
            "and 90 % of all neurons and samples (BN.3).",
        )


def _courses(evidence: Evidence) -> Iterator[Panel]:
    bn = evidence.history.get("bn")
    if bn is not None and bn["removed"].shape[1]:
        count = bn["removed"].shape[1]
        figure, axes = new_figure("taken off by normalization", "epoch", "|D.9 − D.13| / |D.13|")
        by_layer(axes, bn["epoch"], bn["removed"])
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)
        yield Panel(
            "removed",
            svg(figure),
            "What normalization takes off the gradient with constant statistics (D.13).",
        )
        figure, axes = new_figure("effective learning rate", "epoch", "1/|W|², mean over neurons")
        by_layer(axes, bn["epoch"], bn["turning"][:, :count])
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)
        yield Panel("rate", svg(figure), "Times η: how fast a neuron's direction turns (BN.5).")
    for field, section, title, unit, caption in (
        ("saturated", "inputs", "nearly flat", "share of all activations, %", "with |g'| < 0.01"),
        ("directions", "directions", "directions", "independent directions", "that differ (G.1)"),
    ):
        for name, rows in evidence.history.items():
            if not rows[field].shape[1]:
                continue
            figure, axes = new_figure(f"{title}: {LABELS[name]}", "epoch", unit)
            by_layer(axes, rows["epoch"], rows[field] * (100 if field == "saturated" else 1), name)
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=8)
            yield Panel(
                section, svg(figure), f"{title.capitalize()} in {LABELS[name]}: outputs {caption}."
            )


def _finite(values: np.ndarray) -> np.ndarray:
    kept = values[values > 0]
    return kept if kept.size else np.ones(1)
