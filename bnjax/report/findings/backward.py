"""How much error arrives (BL.4, G.5), and the gradients: how large, of what (G.2, G.3)."""

import numpy as np

from bnjax.report.drawing import over_time
from bnjax.report.finding import register
from bnjax.report.quantity import Quantity, apart, farthest
from bnjax.report.subject import Subject, ratio_of
from bnjax.report.words import times


def _of_the_last(one: Subject) -> np.ndarray:
    return ratio_of(length := one.figures("error"), length[:, -1:])


register(
    Quantity(
        "errors",
        "How much error arrives",
        "The error Δ of a neuron says of each sample how the cost changes with the neuron's "
        "output. It is a derivative, carried back from the last layer to the first; its length is "
        "the root of the sum of squares over a layer's neurons and all samples. A layer that "
        "little error reaches learns slowly; normalized layers, and connections around layers, let "
        "more of it pass.",
        ("BL.4", "G.5"),
        _of_the_last,
        "the error at {place} was {value} the length of that at the last layer {when}{last}",
        "|Δ|, over the last layer's",
        order=farthest,
        write=times,
        strength=apart,
        axes={"log": True},
    )
)

register(
    Quantity(
        "amplitudes",
        "How far the weights move",
        "The gradient ∂C/∂W of a weight says how the cost C changes with it. A step of gradient "
        "descent moves the weight by the gradient times the learning rate. The figures are root "
        "mean squares over a layer's weights: a typical size.",
        ("G.2", "G.3"),
        lambda one: np.where((size := one.figures("W_bar")) > 0, size, np.nan),
        "the largest were those of {place} {when}, {value}{last}",
        "∂C/∂W, root mean square",
        compared="the gradients",
        axes={"log": True},
    )
)


def _means_over_differences(one: Subject) -> np.ndarray:
    """Beside normalized layers an output layer without is usual: it is left out."""
    plain = ~one.norm
    plain[-1] &= not one.norm.any()
    return np.where(plain, ratio_of(one.figures("means"), one.figures("covariance")), np.nan)


register(
    Quantity(
        "averages",
        "What the gradients consist of",
        "Without normalization a weight's gradient has two parts. One comes of differences: how "
        "the error Δ and the input u vary together from sample to sample. The other is the "
        "product of their averages, ⟨Δ⟩⟨u⟩ times the number of samples: it is blind to what tells "
        "samples apart. Normalization removes it. The figure is the second part over the first.",
        ("G.3", "G.2"),
        _means_over_differences,
        "in {place} the part of the averages was {value} the other {when}{last}",
        "averages over differences",
        write=times,
        strength=lambda peaks: float(np.nanmax([0.0, *(np.log10(p.last) for p in peaks)])),
        chart=over_time,
        axes={"log": True, "level": (1.0, "as large")},
    )
)
