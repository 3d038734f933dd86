"""How large the gradients are (G.2, G.3), of what, and how the error gets there (BL.4, G.5)."""

import math
from collections.abc import Sequence

import numpy as np

from bnjax.report.drawing import over_layers, over_time
from bnjax.report.finding import Finding, register
from bnjax.report.subject import Subject, logarithm, peak, ratio_of
from bnjax.report.words import number, sentence, share, times


@register()
def errors(subjects: Sequence[Subject]) -> Finding | None:
    """Return how much of the error reaches the first layer (BL.4, G.5)."""
    parts, figures, moments, logs, ends = [], {}, {}, [], []
    for one in subjects:
        length = one.figures("error")
        ratio = ratio_of(length[:, :1], length[:, -1:])
        found = peak(ratio, logarithm(ratio))
        if found is None or one.count < 2:
            continue
        logs.append(math.log10(found.value))
        ends.append(found.last)
        moments[one.name] = found.look
        figures[one.name] = {
            "step": int(one.recording.steps[found.look]),
            "first_over_last": found.value,
            "first_over_last_at_end": found.last,
        }
        text = (
            f"the error that reaches {one.place(0)} was {_compared(found.value)} than that of "
            f"{one.layer(one.count - 1)} {one.when(found.look)}"
        )
        if found.look + 1 < len(ratio):
            end = "none arrives" if math.isnan(found.last) else f"it is {_compared(found.last)}"
            text += f", and at the last look {end}"
        parts.append(sentence(text))
    if not parts:
        return None
    small = [end for end in ends if not 0.01 < end < 100]
    return Finding(
        "errors",
        "How much error arrives",
        "The error Δ of a neuron says of each sample how the cost changes with the neuron's "
        "output: it is a derivative, carried back from the last layer to the first. Its length is "
        "the root of the sum of squares over a layer's neurons and all samples. A layer that "
        "little error reaches learns slowly.",
        " ".join(parts),
        advice=(
            "Where the first layers learn too slowly, or not stably: normalize the layers between, "
            "or add connections around them.",
        )
        * bool(small),
        tags=("BL.4", "G.5"),
        figures=figures,
        strength=max(logs) - min(logs) if len(logs) > 1 else abs(logs[0]) / 2,
        pictures=over_layers(
            [one for one in subjects if one.name in figures],
            lambda one: one.figures("error"),
            "Length of the error in each layer.",
            "length of the error Δ",
            between=moments,
            log=True,
        ),
    )


def _compared(ratio: float) -> str:
    return f"{times(max(ratio, 1 / ratio))} {'shorter' if ratio < 1 else 'longer'}"


@register()
def amplitudes(subjects: Sequence[Subject]) -> Finding | None:
    """Return how large the gradients of the weights are, in which layer and in whom (G.2, G.3)."""
    known = [one for one in subjects if np.isfinite(one.figures("W_bar")).any()]
    if not known:
        return None
    compared = _both(known) if len(known) > 1 and known[0].count == known[1].count else None
    says, detail, figures, strength = compared or _alone(known)
    moments = {one.name: figures["looks"][one.name] for one in known[:2]} if compared else {}
    return Finding(
        "amplitudes",
        "How far the weights move",
        "The gradient ∂C/∂W of a weight says how the cost C changes with it. A step of gradient "
        "descent moves the weight by the gradient times the learning rate. The figures are root "
        "mean squares over a layer's weights: a typical size.",
        says,
        detail,
        tags=("G.2", "G.3"),
        figures=figures,
        strength=strength,
        pictures=over_layers(
            known,
            lambda one: one.figures("W_bar"),
            "Typical size of a weight's gradient in each layer.",
            "∂C/∂W, root mean square",
            between=moments,
            log=True,
        ),
    )


def _alone(known: Sequence[Subject]) -> tuple[str, str, dict, float]:
    """Compare the layers of each with one another, at the last look."""
    parts, figures, ratios = [], {}, []
    for one in known:
        last = np.where((sizes := one.figures("W_bar")[-1]) > 0, sizes, np.nan)
        if np.isfinite(last).sum() < 2:
            continue
        most, least = int(np.nanargmax(last)), int(np.nanargmin(last))
        ratios.append(float(last[most] / last[least]))
        figures[one.name] = {"largest": most, "smallest": least, "ratio": ratios[-1]}
        parts.append(
            f"At the last look{one.inside} the gradients are largest in {one.layer(most)} "
            f"({number(last[most])}) and smallest in {one.layer(least)} ({number(last[least])}): "
            f"{times(ratios[-1])} as large."
        )
    if not parts:
        return "No weight has a gradient at the last look.", "", figures, 1.0
    return " ".join(parts), "", figures, max(0.0, math.log10(max(ratios)) - 1)


def _both(known: Sequence[Subject]) -> tuple[str, str, dict, float] | None:
    """Compare two networks of as many layers where they differ most."""
    a, b = known[:2]
    steps, in_a, in_b = np.intersect1d(a.recording.steps, b.recording.steps, return_indices=True)
    sizes = a.figures("W_bar")[in_a], b.figures("W_bar")[in_b]
    ratio = ratio_of(sizes[1], sizes[0])
    found = peak(ratio, logarithm(ratio)) if len(steps) else None
    if found is None:
        return None
    k, at = found.look, found.layer
    angles = ratio_of(b.cosines(3)[in_b], a.cosines(3)[in_a])[k, at]
    figures = {
        "layer": at,
        "step": int(steps[k]),
        "looks": {a.name: int(in_a[k]), b.name: int(in_b[k])},
        a.name: float(sizes[0][k, at]),
        b.name: float(sizes[1][k, at]),
        "ratio": found.value,
        "ratio_at_end": found.last,
        "cosine_ratio": float(angles),
    }
    where = b.layer(at)
    if max(found.value, 1 / found.value) < 2:
        says = (
            f"{sentence(a.title)[:-1]} and {b.title} have gradients of about the same size: they "
            "differ by less than a factor of 2 in every layer at every look."
        )
        return says, "", figures, 0.0
    large, small = (b, a) if found.value > 1 else (a, b)
    says = (
        f"{sentence(b.when(in_b[k]))[:-1]} the weights of {where} had gradients "
        f"{times(max(found.value, 1 / found.value))} as large in {large.title} as in {small.title}."
    )
    if k + 1 < len(steps):
        says += f" At the last look {_at_end(found.last, a, b)}."
    aside = abs(math.log10(angles)) if angles > 0 else 0.0
    of_angles = aside >= 0.5 * abs(math.log10(found.value))
    detail = (
        f"The root mean squares are {number(sizes[large is b][k, at])} and "
        f"{number(sizes[small is b][k, at])}. "
    ) + (
        f"The angles between errors and inputs make a factor of {number(float(angles))} of it."
        if of_angles
        else "The angles between errors and inputs are not the reason, but the lengths of the two "
        "are, and the factor γ/√(σ² + ε) of a normalized neuron."
    )
    return says, detail, figures, abs(math.log10(found.value))


def _at_end(ratio: float, a: Subject, b: Subject) -> str:
    if math.isnan(ratio):
        return "one of the two is zero"
    large, small = (b, a) if ratio >= 1 else (a, b)
    return f"they are {times(max(ratio, 1 / ratio))} as large in {large.title} as in {small.title}"


@register()
def averages(subjects: Sequence[Subject]) -> Finding | None:
    """Return how much of the gradients without normalization is of averages alone (G.3)."""
    parts, figures, medians = [], {}, []
    for one in subjects:
        ratio = _means_over_differences(one)
        found = peak(ratio)
        if found is None:
            continue
        known = ratio[np.isfinite(ratio)]
        figures[one.name] = {
            "layer": found.layer,
            "step": int(one.recording.steps[found.look]),
            "largest_ratio": found.value,
            "median_ratio": float(np.median(known)),
            "share_of_looks_above_1": float(np.mean(known > 1)),
        }
        medians.append(figures[one.name]["median_ratio"])
        parts.append(
            f"In the layers without normalization{one.title and f' of {one.title}'} the averages' "
            f"part is the larger one in {share(float(np.mean(known > 1)))} of all looks at a layer;"
            f" at most it was {times(found.value)} the other, in {one.layer(found.layer)} "
            f"{one.when(found.look)}. Its median is {times(medians[-1])} the other."
        )
    if not parts:
        return None
    return Finding(
        "averages",
        "What the gradients consist of",
        "Without normalization a weight's gradient has two parts. One comes of differences: how "
        "the error Δ and the input u vary together from sample to sample. The other is the "
        "product of their averages, ⟨Δ⟩⟨u⟩ times the number of samples: it is blind to what tells "
        "samples apart. Normalization removes it.",
        " ".join(parts),
        tags=("G.3", "G.2"),
        figures=figures,
        strength=max(0.0, math.log10(max(medians))),
        pictures=over_time(
            [one for one in subjects if one.name in figures],
            _means_over_differences,
            "The averages' part over the other, in layers without normalization.",
            "ratio of the two parts",
            log=True,
            level=(1.0, "as large"),
        ),
    )


def _means_over_differences(one: Subject) -> np.ndarray:
    """Return the ratio of the two parts in layers without normalization, (K, L), elsewhere NaN.

    Beside normalized layers an output layer without is usual: it is left out.
    """
    plain = ~one.norm
    plain[-1] &= not one.norm.any()
    ratio = ratio_of(one.figures("means"), one.figures("covariance"))
    return np.where(plain, ratio, np.nan)
