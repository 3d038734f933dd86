"""The sources of the equations, and the papers that bnjax cites."""

from typing import NamedTuple


class Source(NamedTuple):
    """One source.

    Attributes:
        key: The name by which code, documentation and notebooks cite it.
        reference: Title, authors and date, as far as they are known.
        content: What it holds, or what bnjax uses of it.
    """

    key: str
    reference: str
    content: str


NOTES = (
    Source(
        "S0",
        "A note on back-propagation in three sections, “Baseline”, “Batch Normalization” and "
        "“Insights”; without title, author or date.",
        "§1: the baseline network, its cost, its error recursion and its gradients. §2: the "
        "normalized network; eq. 1, its gradients; eq. 2, its error recursion; eq. 3, the kernel. "
        "§3: the gradients as geometry in sample space; eq. 4 and 5, the weights; eq. 6, γ.",
    ),
    Source(
        "S1",
        "Another transcription of the same note, with the same sections and equation numbers; "
        "without title, author or date.",
        "The same. The two differ in a few slips of the pen (E.6, E.7).",
    ),
    Source(
        "S2",
        "An excerpt of the same note, “Normalization” and “Back-Propagation”; without title, "
        "author or date.",
        "The equations of the normalized network, without derivations.",
    ),
    Source(
        "S3",
        "Handwritten lecture notes, “L7 - SGD, Overfitting, regularisation (BN part)” and "
        "“Batch Normalisation (part of HW1)”; without author or date, later than 2015.",
        "The regimes of gradient descent; the backward pass by influence diagrams; the statistics "
        "for inference; an excerpt of Ioffe & Szegedy 2015 with its claims.",
    ),
    Source(
        "S4",
        "An exercise, “Weekly Participation 9”; without author or date.",
        "The Jacobians of a batch-normalization layer in four parts, (1) to (4).",
    ),
)

PAPERS = (
    Source(
        "Ioffe & Szegedy 2015",
        "Sergey Ioffe and Christian Szegedy: Batch Normalization: Accelerating Deep Network "
        "Training by Reducing Internal Covariate Shift. International Conference on Machine "
        "Learning, 2015, arXiv:1502.03167.",
        "The transform, its backward pass by the chain rule, the statistics for inference "
        "(algorithm 2), the claim that the scale of the weights does not matter.",
    ),
    Source(
        "Ioffe 2017",
        "Sergey Ioffe: Batch Renormalization: Towards Reducing Minibatch Dependence in "
        "Batch-Normalized Models. Advances in Neural Information Processing Systems, 2017, "
        "arXiv:1702.03275.",
        "Batch renormalization (algorithm 1), and how its bounds are relaxed while training.",
    ),
    Source(
        "Chan, Golub & LeVeque 1983",
        "Tony F. Chan, Gene H. Golub and Randall J. LeVeque: Algorithms for Computing the Sample "
        "Variance: Analysis and Recommendations. The American Statistician 37 (3), 242–247.",
        "How the means and variances of two sets of samples merge into those of their union.",
    ),
    Source(
        "Wu & Johnson 2021",
        "Yuxin Wu and Justin Johnson: Rethinking “Batch” in BatchNorm. arXiv:2105.07576.",
        "Statistics for inference that are measured after training (“precise” statistics).",
    ),
    Source(
        "Hoffer, Hubara & Soudry 2017",
        "Elad Hoffer, Itay Hubara and Daniel Soudry: Train Longer, Generalize Better: Closing the "
        "Generalization Gap in Large Batch Training of Neural Networks. Advances in Neural "
        "Information Processing Systems, 2017, arXiv:1705.08741.",
        "Ghost batches: groups of a large batch, each normalized with its own moments.",
    ),
    Source(
        "Santurkar, Tsipras, Ilyas & Madry 2018",
        "Shibani Santurkar, Dimitris Tsipras, Andrew Ilyas and Aleksander Mądry: How Does Batch "
        "Normalization Help Optimization? Advances in Neural Information Processing Systems, 2018, "
        "arXiv:1805.11604.",
        "Internal covariate shift as a change of gradients, and noise added after normalization.",
    ),
    Source(
        "Glorot & Bengio 2010",
        "Xavier Glorot and Yoshua Bengio: Understanding the Difficulty of Training Deep "
        "Feedforward Neural Networks. International Conference on Artificial Intelligence and "
        "Statistics, 2010.",
        "The uniform initialization of weights, eq. 16.",
    ),
    Source(
        "Ridders 1982",
        "C. J. F. Ridders: Accurate Computation of F′(x) and F′(x) F″(x). Advances in Engineering "
        "Software 4 (2), 75–76.",
        "Finite differences extrapolated to a step of zero, with an estimate of their error.",
    ),
    Source(
        "Knuth, TAOCP 2",
        "Donald E. Knuth: The Art of Computer Programming, volume 2: Seminumerical Algorithms. "
        "Addison-Wesley, section 4.2.2.",
        "The sum of two floating-point numbers and its rounding error, exactly.",
    ),
)

SOURCES = NOTES + PAPERS
OWN = "own derivation"  # what an identity names as its source where no source has it
