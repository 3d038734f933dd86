"""What normalization does to errors, gradients and steps (G.4 to G.6, D.13, BN.5, G.2)."""

import math
from collections.abc import Sequence

import numpy as np

from bnjax import geometry
from bnjax.report.drawing import Chart, Charts, over_layers, over_time
from bnjax.report.finding import Finding, register
from bnjax.report.subject import Peak, Subject, logarithm, peak, ratio_of
from bnjax.report.words import chance, number, share, times


def _normalized(subjects: Sequence[Subject]) -> list[Subject]:
    return [one for one in subjects if one.norm.any()]


def _of_normalized(one: Subject, figures: np.ndarray) -> np.ndarray:
    """Leave the layers without normalization out, (K, L)."""
    return np.where(one.norm, figures, np.nan)


@register()
def angles(subjects: Sequence[Subject]) -> Finding | None:
    """Return how much of the error lies along x̂ (G.1, G.4, G.5)."""
    parts, figures, strengths = [], {}, []
    for one in _normalized(subjects):
        cosines = _of_normalized(one, one.cosines(1))
        if not np.isfinite(cosines[-1]).any():
            continue
        courses = cosines[:, np.isfinite(cosines[-1])]
        last, first = float(np.nanmean(courses[-1])), float(np.nanmean(courses[0]))
        samples = min(n for n, norm in zip(one.recording.samples, one.norm, strict=True) if norm)
        random = chance(samples)
        figures[one.name] = {"chance": random, "mean_cos1_first": first, "mean_cos1_last": last}
        strengths.append(max(0.0, math.log10(max(last, 1e-6) / random)))
        before = f" ({one.when(0)}: {share(first)})" if len(cosines) > 1 else ""
        parts.append(
            f"On average over the normalized layers{one.inside} {share(last)} of the error's "
            f"length is of use to γ alone{before}; of {samples:,} independent random numbers it "
            f"would be {share(random)}. "
            + (
                "It is less than chance: γ has used it up, and the error passes on nearly whole."
                if last < 0.9 * random
                else "That is more than chance: no weight and no layer before gets it."
                if last > 1.1 * random
                else "That is chance: hardly anything is kept back."
            )
        )
    if not parts:
        return None
    known = [one for one in subjects if one.name in figures]
    return Finding(
        "angles",
        "What of the error only γ can use",
        "x is the sum that a neuron makes of its inputs u, weighted by W; x̂ is x normalized to "
        "mean 0 and variance 1; the output is γ x̂ + β. Each is a vector with a number for each "
        "sample. What of the error Δ is parallel to x̂ would make the output larger or smaller as "
        "a whole, which normalization undoes: it changes γ, and no weight. θ1 is the angle between "
        "Δ and x̂, θ2 that between u and x̂, θ3 that between Δ and u; a cosine of 0 is a right "
        "angle, of ±1 the same direction.",
        " ".join(parts),
        "The length along x̂ is |cos θ1|, the mean over neurons; what passes is |sin θ1|. In a "
        "convolution neighbouring positions resemble one another: there chance makes more.",
        tags=("G.1", "G.4", "G.5"),
        figures=figures,
        strength=max(strengths) if max(strengths) > 0.6 else 0.0,
        pictures=tuple(
            Charts(
                f"How cos θ{kind} of all {things} is spread in each layer at the last look: darker "
                "where more are.",
                tuple(
                    Chart(one.title, one.color, shares=one.figures(f"cos{kind}")[-1].T)
                    for one in known
                ),
                "layer, from input to output",
                f"cos θ{kind}",
            )
            for kind, things in ((1, "neurons"), (2, "weights"), (3, "weights"))
        ),
    )


@register()
def stopped(subjects: Sequence[Subject]) -> Finding | None:
    """Return what stopped: handed to γ, or its inputs in step with x̂ (G.6)."""
    parts, details, figures, most = [], [], {}, 0.0
    for one in _normalized(subjects):
        found = {
            "neurons handed their learning to γ": (1, peak(one.figures("handed_to_gamma"))),
            "weights have an input in step with x̂": (2, peak(one.figures("stopped"))),
        }
        none = []
        for what, (kind, top) in found.items():
            near = peak(_of_normalized(one, one.largest_cosine(kind)))
            if top is None:
                continue
            field = what.split()[0]
            figures.setdefault(one.name, {})[field] = {
                "largest_share": top.value,
                "largest_share_at_end": float(np.nanmax(one.figures(_FIELDS[kind])[-1])),
                "largest_cosine": near.value if near else None,
            }
            most = max(most, top.value)
            if top.value > 0:
                parts.append(f"{share(top.value)} of the {what} in {_where(one, top)}.")
            elif near is not None:
                none.append(field[:-1])
                details.append(
                    f"The nearest has |cos θ{kind}| of {near.value:.2f} to {near.value + 0.05:.2f} "
                    f"in {_where(one, near)}."
                )
        if none:
            things = " and no ".join(none)
            parts.append(f"At no look had a layer{one.inside} stopped in this way: no {things}.")
        groups = peak(one.figures("largest_group"))
        if groups is not None and groups.value > 0:
            details.append(
                f"The largest group of inputs in step with one neuron has {groups.value:.0f} "
                f"members ({_where(one, groups)})."
            )
    if not parts:
        return None
    known = [one for one in subjects if one.name in figures]
    need = math.sqrt(1 - geometry.ALIGNED**2)
    level = need, "stopped"
    return Finding(
        "stopped",
        "Where learning stopped",
        "Normalization takes what is parallel to x̂ off the gradient. A neuron whose error is "
        "parallel to x̂ (θ1 within 5.7° of 0° or 180°) has no gradient left for any of its weights: "
        "γ learns instead. A weight whose input is parallel to x̂ (θ2) has none either; that "
        "happens where inputs rise and fall together.",
        " ".join(dict.fromkeys(parts)),
        " ".join([*details, f"A halt needs |cos θ| of {need:.3f}."]),
        tags=("G.6", "G.4"),
        figures=figures,
        strength=math.log10(1 + 20 * most),
        pictures=tuple(
            chart
            for kind in (1, 2)
            for chart in over_layers(
                known,
                lambda one, kind=kind: _of_normalized(one, one.largest_cosine(kind)),
                f"The largest |cos θ{kind}| of each normalized layer, rounded down to 0.05.",
                f"largest |cos θ{kind}|",
                limits=(0.0, 1.05),
                level=level,
            )
        )
        if most == 0
        else tuple(
            chart
            for kind, things in ((1, "neurons"), (2, "weights"))
            for chart in over_layers(
                known,
                lambda one, kind=kind: 100 * one.figures(_FIELDS[kind]),
                f"Share of the {things} of each normalized layer that stopped because of θ{kind}.",
                f"{things}, %",
            )
        ),
    )


_FIELDS = {1: "handed_to_gamma", 2: "stopped"}


def _where(one: Subject, top: Peak) -> str:
    return f"{one.place(top.layer)} {one.when(top.look)}"


@register()
def removed(subjects: Sequence[Subject]) -> Finding | None:
    """Return what the gradient would be with constant statistics (D.13)."""
    parts, figures = [], {}
    for one in _normalized(subjects):
        course = one.figures("removed")
        last = peak(course[-1:])
        if last is None:
            continue
        figures[one.name] = {"layer": last.layer, "last": course[-1].tolist()}
        parts.append(
            f"At the last look such code would be wrong by {share(last.value)} of its gradient in "
            f"{one.place(last.layer)}, the most, and by {share(float(np.nanmin(course[-1])))} in "
            "the least."
        )
    if not parts:
        return None
    return Finding(
        "removed",
        "What constant statistics would get wrong",
        "The mean and the variance that a layer is normalized by depend on its weights, and the "
        "gradient here accounts for that. Code that takes them for constants gets another one. "
        "The figure is the length of the difference over that of such a gradient, a mean over "
        "neurons.",
        " ".join(parts),
        tags=("D.13", "D.9"),
        figures=figures,
        pictures=over_layers(
            [one for one in subjects if one.name in figures],
            lambda one: one.figures("removed"),
            "What normalization takes off the gradient with constant statistics.",
            "|D.9 − D.13| / |D.13|",
        ),
    )


@register()
def rate(subjects: Sequence[Subject]) -> Finding | None:
    """Return how the weights grew, and the learning rate fell (BN.5)."""
    parts, details, figures, most = [], [], {}, 0.0
    for one in _normalized(subjects):
        fall = _of_normalized(one, _relative_rate(one))[-1:]
        found = peak(fall, logarithm(fall))
        if found is None or len(one.recording.steps) < 2:
            continue
        at, rates = found.layer, one.figures("W")[[0, -1], found.layer]
        cosine = float(np.nanmax(_of_normalized(one, one.figures("cosine"))[-1]))
        figures[one.name] = {
            "layer": at,
            "W_first": float(rates[0]),
            "W_last": float(rates[1]),
            "rate_last_over_first": found.value,
            "largest_cosine_of_W_and_gradient": cosine,
        }
        most = max(most, abs(math.log10(found.value)))
        parts.append(
            f"In {one.place(at)} the length of the weights went from {number(rates[0])} to "
            f"{number(rates[1])}: a step turns them {times(found.value)} as far as at the first "
            "look."
        )
        if cosine > 0.01:
            details.append(
                f"Where ε is small the gradient is at right angles to the weights;{one.inside} the "
                f"cosine is up to {number(cosine)}: ε is too large for it."
            )
    if not parts:
        return None
    return Finding(
        "rate",
        "The learning rate sets itself",
        "Of a normalized neuron's weights only the direction matters, not the length |W|. A step "
        "of plain gradient descent turns the direction at the rate η/|W|², where η is the learning "
        "rate: as |W| grows, learning slows down by itself.",
        " ".join(parts),
        " ".join(details),
        tags=("BN.5",),
        figures=figures,
        strength=most if most > 0.5 else 0.0,
        pictures=over_time(
            [one for one in subjects if one.name in figures],
            lambda one: _of_normalized(one, _relative_rate(one)),
            "1/|W|², a mean over neurons, relative to the first look.",
            "1/|W|² over its first",
        ),
    )


def _relative_rate(one: Subject) -> np.ndarray:
    turning = one.figures("turning")
    return ratio_of(turning, turning[:1])


@register()
def epsilon(subjects: Sequence[Subject]) -> Finding | None:
    """Return how far ε matters: 1 − ρ² (G.2)."""
    parts, figures, most = [], {}, 0.0
    for one in _normalized(subjects):
        found = peak(one.figures("eps_share"))
        if found is None:
            continue
        most = max(most, found.value)
        figures[one.name] = {"largest_share": found.value, "layer": found.layer}
        parts.append(
            f"In {one.place(found.layer)} ε was {share(found.value)} of σ² + ε "
            f"{one.when(found.look)}, the most: it "
            f"{'matters' if found.value > 0.01 else 'does not matter'}."
        )
    if not parts:
        return None
    return Finding(
        "epsilon",
        "How far ε matters",
        "A layer is divided by √(σ² + ε), where σ² is the variance of a neuron's sum x and ε a "
        "small constant that keeps it from zero. ε/(σ² + ε), the mean over a layer's neurons, is "
        "the share of ε.",
        " ".join(parts),
        "Along x̂ that share of the error comes through." if most > 0.01 else "",
        tags=("G.2", "D.3"),
        figures=figures,
        strength=math.log10(1 + 10 * most) if most > 0.01 else 0.0,
        pictures=over_layers(
            [one for one in subjects if one.name in figures],
            lambda one: 100 * one.figures("eps_share"),
            "The share of ε in σ² + ε in each layer.",
            "ε/(σ² + ε), %",
            log=True,
        )
        if most > 0.01
        else (),
    )
