"""What a value and a derivative must satisfy: in which epsilon errors are measured, and how many.

What a function computes with inside excuses a derivative only as far as it excuses the value, or as
the dtype of the arguments does.
"""

from typing import Any, NamedTuple

from bnjax.audit.precision import Precision


class Criterion(NamedTuple):
    """What a result must satisfy.

    Attributes:
        eps: The unit of errors.
        tolerance: How many of them are accepted.
        coarse: The coarsest epsilon that the function computes with, where that is no excuse.
        dtype: The dtype that the result must have; None for any.
    """

    eps: float
    tolerance: float
    coarse: float = 0.0
    dtype: Any = None

    def is_coarse(self, scaled: float) -> bool:
        """Return whether an error, in units of eps, is a rounding error of the coarsest epsilon."""
        return scaled * self.eps <= self.tolerance * self.coarse


class Criteria(NamedTuple):
    """The criteria of one function in one dtype, for its value and for its derivatives."""

    value: Criterion
    derivative: Criterion


def choose_criteria(precision: Precision, eps: float, excused: float, tolerance: float) -> Criteria:
    """Return the criteria of a function.

    Args:
        precision: The precision that it computes with.
        eps: The epsilon of its dtype, or of the reference if that is coarser.
        excused: The coarsest epsilon inside that is an excuse for a derivative.
        tolerance: How many epsilons are accepted.

    Example:
        >>> bfloat16 = Precision(inside=2.0**-7, of_value=2.0**-23)
        >>> choose_criteria(bfloat16, 2.0**-23, excused=2.0**-23, tolerance=16.0).derivative.eps
        1.1920928955078125e-07
    """
    inside, of_value = precision.no_finer_than(eps)
    derivative = Criterion(max(eps, min(inside, excused)), tolerance, inside)
    return Criteria(Criterion(of_value, tolerance), derivative)


def describe_coarse(mode: str, criterion: Criterion) -> str:
    """Return what is wrong with a derivative that is coarser than the value."""
    what = {
        "jvp": "the tangent is computed more coarsely than the value",
        "transposition": "the vjp or the jvp is computed more coarsely than the value",
    }.get(mode, "the backward pass is computed more coarsely than the forward pass")
    return (
        f"{what}: the value agrees with an epsilon of {criterion.eps:.2g}, this only with "
        f"{criterion.coarse:.2g}; if that is meant, set allow_coarse_derivatives"
    )


def describe_epsilon(criterion: Criterion) -> str:
    """Return in which epsilon derivatives are measured, where f computes with a coarse one."""
    if criterion.eps == criterion.coarse:
        return f"errors are measured in the coarsest epsilon found inside f: {criterion.eps:.2g}"
    return (
        f"f computes with an epsilon of {criterion.coarse:.2g} inside, but its value agrees with "
        f"{criterion.eps:.2g}, in which derivatives are measured"
    )
