"""What normalization does to errors, gradients and steps (G.4 to G.6, D.13, BN.5, G.2)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bnjax import geometry
from bnjax.report.drawing import Chart, Charts, over_time
from bnjax.report.finding import register
from bnjax.report.quantity import Quantity, Values, farthest
from bnjax.report.subject import Subject, peak, ratio_of
from bnjax.report.words import chance, number, share, times


def _normalized(values: Values) -> Values:
    """Leave the layers without normalization out."""
    return lambda one: np.where(one.norm, values(one), np.nan)


def _field(name: str) -> Values:
    return lambda one: one.figures(name)


def _of_chance(subjects: Sequence[Subject]) -> str:
    samples = min(
        n
        for one in subjects
        for n, norm in zip(one.recording.samples, one.norm, strict=True)
        if norm
    )
    return (
        f"That is |cos θ1|, a mean over the layer's neurons. Of {samples:,} independent random "
        f"numbers it would be {share(chance(samples))}; in a convolution more, as neighbouring "
        "positions resemble one another. Where it is less, γ has used it up."
    )


def _maps(subjects: Sequence[Subject], *others: Any, **more: Any) -> tuple[Charts, ...]:
    """Draw how the cosines are spread at the last look."""
    return tuple(
        Charts(
            f"How cos θ{kind} is spread in each layer at the last look: darker where more are.",
            tuple(
                Chart(one.title, one.color, shares=one.figures(f"cos{kind}")[-1].T)
                for one in subjects
            ),
            "layer, from input to output",
            f"cos θ{kind}",
        )
        for kind in (1, 2, 3)
    )


register(
    Quantity(
        "angles",
        "What of the error only γ can use",
        "x is the sum that a neuron makes of its inputs u, weighted by W; x̂ is x normalized to "
        "mean 0 and variance 1; the output is γ x̂ + β. Each is a vector with a number for each "
        "sample. What of the error Δ is parallel to x̂ would make the output larger or smaller as "
        "a whole, which normalization undoes: it changes γ, and no weight. θ1 is the angle between "
        "Δ and x̂, θ2 that between u and x̂, θ3 that between Δ and u; a cosine of 0 is a right "
        "angle, of ±1 the same or the opposite direction.",
        ("G.1", "G.4", "G.5"),
        _normalized(lambda one: one.cosines(1)),
        "at the last look {value} of the error's length at {place} is of use to γ alone, the most",
        "cosine",
        at_end=True,
        write=share,
        detail=_of_chance,
        strength=lambda peaks: max(found.value for found in peaks) - 0.3,
        chart=_maps,
    )
)


def _nearest(kind: int) -> Callable[[Sequence[Subject]], str]:
    """Say how near the layers came to a halt."""

    def say(subjects: Sequence[Subject]) -> str:
        need, parts = math.sqrt(1 - geometry.ALIGNED**2), []
        for one in subjects:
            if found := peak(_normalized(lambda one: one.largest_cosine(kind))(one)):
                parts.append(
                    f"The largest |cos θ{kind}| was between {found.value:.2f} and "
                    f"{found.value + 0.05:.2f}, in {one.place(found.layer)} {one.when(found.look)};"
                    f" a halt needs {need:.3f}."
                )
        return " ".join(parts)

    return say


for _kind, _name, _field_name, _title, _measure, _says, _none in (
    (
        1,
        "handed",
        "handed_to_gamma",
        "Where γ learns instead of the weights",
        "Normalization takes what is parallel to x̂ off the gradient. A neuron whose error Δ is "
        "parallel to x̂, with θ1 within 5.7° of 0° or 180°, has no gradient left for any of its "
        "weights: γ learns instead.",
        "{value} of the neurons of {place} handed their learning to γ {when}{last}",
        "No neuron{inside} handed its learning to γ at any look.",
    ),
    (
        2,
        "synced",
        "stopped",
        "Where inputs are in step with their neuron",
        "A weight whose input u is parallel to the neuron's normalized sum x̂, with θ2 within 5.7° "
        "of 0° or 180°, has no gradient: whatever it could teach, normalization takes off. That "
        "happens where inputs rise and fall together.",
        "{value} of the weights of {place} had stopped so {when}{last}",
        "No weight{inside} had stopped so at any look.",
    ),
):
    register(
        Quantity(
            _name,
            _title,
            _measure,
            ("G.6", "G.4"),
            _normalized(_field(_field_name)),
            _says,
            f"largest |cos θ{_kind}|",
            none=_none,
            write=share,
            detail=_nearest(_kind),
            strength=lambda peaks: math.log10(1 + 20 * max(0.0, *(p.value for p in peaks))),
            drawn=_normalized(lambda one, kind=_kind: one.largest_cosine(kind)),
            caption=f"The largest |cos θ{_kind}| of each normalized layer, rounded down to 0.05.",
            axes={"limits": (0.0, 1.05), "level": (math.sqrt(1 - geometry.ALIGNED**2), "stopped")},
        )
    )

register(
    Quantity(
        "removed",
        "What constant statistics would get wrong",
        "The mean and the variance that a layer is normalized by depend on its weights, and the "
        "gradient here accounts for that. Code that takes them for constants gets another one. "
        "The figure is the length of the difference over that of such a gradient, a mean over "
        "neurons.",
        ("D.13", "D.9"),
        _normalized(_field("removed")),
        "at the last look such code would be wrong by {value} of its gradient in {place}, the most",
        "|D.9 − D.13| / |D.13|",
        at_end=True,
        write=share,
    )
)

register(
    Quantity(
        "rate",
        "The learning rate sets itself",
        "Of a normalized neuron's weights only the direction matters, not the length |W|. A step "
        "of plain gradient descent turns the direction at the rate η/|W|², where η is the learning "
        "rate: as |W| grows, learning slows down by itself. The figure is 1/|W|², a mean over "
        "neurons, over that of the first look.",
        ("BN.5",),
        _normalized(lambda one: ratio_of(one.figures("turning"), one.figures("turning")[:1])),
        "at the last look a step turns the weights of {place} {value} as far as at the first",
        "1/|W|², over its first",
        order=farthest,
        at_end=True,
        write=times,
        strength=lambda peaks: max(float(farthest(np.array(p.value))) for p in peaks) - 0.2,
        detail=lambda subjects: _upright(subjects),
        chart=over_time,
    )
)


def _upright(subjects: Sequence[Subject]) -> str:
    cosines = [_normalized(_field("cosine"))(one)[-1] for one in subjects]
    most = float(np.nanmax(cosines)) if np.isfinite(cosines).any() else 0.0
    crooked = " That is not small: ε is too large for it." if most > 0.01 else ""
    return (
        "At ε = 0 the gradient is at right angles to the weights of a neuron, so that a step "
        f"lengthens them; the |cos| of the angle is up to {number(most)}.{crooked}"
    )


register(
    Quantity(
        "epsilon",
        "How far ε matters",
        "A neuron's sum x is divided by √(σ² + ε), where σ² is its variance and ε a small constant "
        "that keeps the root from zero. The figure is ε/(σ² + ε), a mean over a layer's "
        "neurons: that share of the error along x̂ comes through.",
        ("G.2", "D.3"),
        _normalized(_field("eps_share")),
        "in {place} ε was {value} of σ² + ε {when}, the most{last}",
        "ε/(σ² + ε)",
        write=share,
        strength=lambda peaks: math.log10(1 + 10 * max(0.0, *(p.value for p in peaks))),
        axes={"log": True},
    )
)
