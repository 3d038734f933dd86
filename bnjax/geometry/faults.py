"""What may be wrong with the layers of a recording: every fault with its measure and its remedy.

What a look sees is one batch, on which a few neurons may be idle by chance: shares of neurons or
inputs count from 5 % on, and a figure is the median over the last five looks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bnjax.geometry.recording import Recording

FEW = 16  # samples: vectors of fewer are often aligned by chance
_LOOKS = 5
_SOME = 0.05  # share of a layer's neurons, or of its inputs
_MOST = 0.5  # share of the values behind a layer
_NEARLY_ALL = 0.95  # the same where one half is flat in a healthy layer, as with ReLU
_DOMINATES = 3.0  # ratio of two terms of a gradient


@dataclass(frozen=True)
class Fault:
    """Something that may be wrong with a layer.

    Attributes:
        name: A few words, such as "dead neurons".
        measure: From looks, (K,), to figures, (K, L); NaN where a layer cannot have the fault.
        limit: The figure from which a layer has it.
        text: A sentence with {} in the place of the figure.
        meaning: What that means, as sentences.
        advice: What to do about it, as sentences.
    """

    name: str
    measure: Callable[[np.ndarray], np.ndarray]
    limit: float
    text: str
    meaning: str
    advice: str


class Found(NamedTuple):
    """A fault of a layer; as a string, all that is to be said.

    Attributes:
        layer: Its name.
        fault: The fault.
        figure: Its measure.
    """

    layer: str
    fault: Fault
    figure: float

    def __str__(self) -> str:
        """Return the layer, what is wrong, what it means and what to do."""
        return f"{self.layer}: {self.sentence} {self.fault.meaning} {self.fault.advice}"

    @property
    def sentence(self) -> str:
        """What is wrong, with the figure."""
        ratio = self.fault.limit > 1
        figure = f"{self.figure:.3g} times" if ratio else f"{100 * self.figure:.0f} %"
        return self.fault.text.format(figure)


def _share(field: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda looks: looks[field]


def _of_means(looks: np.ndarray) -> np.ndarray:
    means, covariance = looks["means"], looks["covariance"]
    return np.divide(means, covariance, out=np.full_like(means, np.nan), where=covariance > 0)


def _flat(bounded: bool) -> Callable[[np.ndarray], np.ndarray]:
    return lambda looks: np.where(looks["bounded"] == bounded, looks["saturated"], np.nan)


FAULTS = (
    Fault(
        "dead neurons",
        _share("dead"),
        _SOME,
        "No error reaches {} of the neurons.",
        "None of their parameters changes: for every sample of the batch their output has no "
        "effect on the cost. After ReLU this happens where the input of the ReLU is always "
        "negative.",
        "Lower the learning rate or start it low, limit how far β may fall, or use an activation "
        "that is flat nowhere, such as leaky ReLU.",
    ),
    Fault(
        "constant error",
        _share("constant_error"),
        _SOME,
        "The error is the same for every sample in {} of the neurons.",
        "Normalization removes the mean of the error: weights and γ of these neurons get no "
        "gradient, only β does.",
        "Check that the cost depends on how the samples differ, and not on their mean alone.",
    ),
    Fault(
        "constant neurons",
        _share("constant_x"),
        _SOME,
        "The weighted sum is the same for every sample in {} of the neurons.",
        "The weights are zero, or all inputs are constant. Normalized, the output is β.",
        "Check how the weights are initialized, weight decay, and the layer before.",
    ),
    Fault(
        "constant inputs",
        _share("constant_inputs"),
        _SOME,
        "{} of the inputs are the same for every sample.",
        "Their weights learn nothing that tells samples apart. Behind another layer these are its "
        "dead neurons, or those whose γ is zero.",
        "In the data, remove such columns; pixels at the border of images do no harm. Otherwise "
        "mend the layer before.",
    ),
    Fault(
        "γ is zero",
        _share("zero_gamma"),
        _SOME,
        "γ is zero, or under 1/1000 of the largest, in {} of the neurons.",
        "Their output is β for every sample, and their weights get next to no gradient, as that "
        "is proportional to γ.",
        "Exempt γ from weight decay, lower the learning rate of γ, or remove these neurons. Where "
        "γ starts at zero on purpose it should leave zero within the first steps.",
    ),
    Fault(
        "ε exceeds the variance",
        _share("swallowed"),
        _SOME,
        "The variance is smaller than ε in {} of the neurons.",
        "They are not scaled to unit variance: their outputs are too small, and small changes of "
        "the inputs are lost.",
        "Choose a smaller ε, or larger weights or inputs.",
    ),
    Fault(
        "copies of neurons",
        _share("copies"),
        _SOME,
        "{} of the neurons compute what another neuron of the layer computes.",
        "But for shift and factor, their weighted sums are equal for every sample. With equal "
        "weights on both, they also learn the same.",
        "Initialize the weights at random, each neuron by itself; use fewer neurons if that does "
        "not help.",
    ),
    Fault(
        "copies of inputs",
        _share("copied_inputs"),
        _SOME,
        "{} of the inputs are copies of another input.",
        "But for shift and factor they are equal for every sample, as the three channels of a "
        "gray image. The layer cannot tell them apart.",
        "In the data, keep one of each group. Otherwise mend the copies in the layer before.",
    ),
    Fault(
        "synced inputs",
        _share("synced"),
        _SOME,
        "{} of the neurons have two or more inputs that go up and down with their sum.",
        "An input that is aligned with the normalized sum gets no gradient: together these "
        "weights have stopped.",
        "Look for copies among the inputs. If they do not come from the data, initialize the "
        "layer before anew, or use dropout on these inputs.",
    ),
    Fault(
        "only γ learns",
        _share("handed_to_gamma"),
        _SOME,
        "The error is aligned with the output in {} of the neurons.",
        "The gradient of their weights is next to zero: what is left to learn is γ.",
        "Nothing, if the cost is low. Otherwise raise the learning rate of γ, or check that "
        "the batch is not too small.",
    ),
    Fault(
        "saturated activation",
        _flat(bounded=True),
        _MOST,
        "The activation is saturated for {} of its inputs.",
        "There its derivative is under 0.01: next to no error passes.",
        "Reduce γ or the weights, move β towards zero, or use an activation that is not bounded.",
    ),
    Fault(
        "inactive activation",
        _flat(bounded=False),
        _NEARLY_ALL,
        "The activation has no derivative at {} of its inputs.",
        "Next to nothing passes forward, and next to no error backward. After a normalization "
        "about half is usual.",
        "Move β up, lower the learning rate, or use an activation that is flat nowhere.",
    ),
    Fault(
        "the means dominate",
        _of_means,
        _DOMINATES,
        "The mean error times the mean input is {} as large in the weights' gradient as all that "
        "distinguishes the samples.",
        "Without normalization the steps are spent on the means, which a bias could learn.",
        "Normalize this layer, which removes that part, or subtract the mean from its inputs.",
    ),
)


def faults(recording: Recording) -> tuple[Found, ...]:
    """Find what is wrong with the layers of a recording.

    Args:
        recording: From a `Recorder`. Before the first step some faults are none yet: a last layer
            that begins at zero lets no error pass.

    Returns:
        The faults found, in the order of `FAULTS`, and of each the layers in theirs; empty where
        nothing is wrong, and where there is no look. Layers of fewer than 16 samples are not
        judged, nor is what a layer does not have: where its inputs are not known nothing is said of
        these, and where no activation is known, nothing of that.

    Example:
        >>> from bnjax.geometry.recording import empty_look, with_looks, without_looks
        >>> before = without_looks(["a", "b"], [True, True], ["", ""], [], [32, 32])
        >>> look = empty_look(2)
        >>> look["dead"] = [0.0, 0.25]
        >>> for found in faults(with_looks(before, [0], [look])):
        ...     print(found.layer, "-", found.fault.name, "-", found.sentence)
        b - dead neurons - No error reaches 25 % of the neurons.
    """
    found = []
    judged = [at for at, samples in enumerate(recording.samples) if samples >= FEW]
    last = recording.looks[-_LOOKS:]
    for fault in FAULTS:
        figures = fault.measure(last)
        for at in judged:
            known = figures[:, at][~np.isnan(figures[:, at])]
            if known.size and (figure := float(np.median(known))) >= fault.limit:
                found.append(Found(recording.names[at], fault, figure))
    return tuple(found)
