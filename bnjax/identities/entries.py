"""What an identity is, and how the rooms of this package write theirs down."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from bnjax.identities.cases import Case

Holds = Literal["every eps", "eps = 0"]


class Sides(NamedTuple):
    """The two sides of an identity on one case, leaf by leaf.

    Attributes:
        lhs: What is claimed to equal `rhs`: a tuple of arrays.
        rhs: The other side; the same shapes.
        scale: The size of the terms that cancel in each pair: a tuple of positive numbers.
    """

    lhs: tuple[Any, ...]
    rhs: tuple[Any, ...]
    scale: tuple[float, ...]


class Identity(NamedTuple):
    """One equation of the sources, ready to be checked.

    Attributes:
        tag: BL.1 ... E.9.
        claim: One line of English.
        formula: The equation in Unicode.
        source: Where it comes from.
        sides: Case -> `Sides`, whose two sides must agree.
        holds: "every eps", or "eps = 0" where only exact normalization has the property.
        scale: In words, the size of the terms that cancel: what an error is measured on.
        batch: The least B that shows it.
        refuted: Case -> `Sides` that must differ, in every pair: a claim that is false, and what
            is true. All errata have one. None elsewhere, but where the claim denies something.
        margin: By how much of the scale the refuted sides must differ.
        correction: Errata: in plain words, what is wrong and what is right.
    """

    tag: str
    claim: str
    formula: str
    source: str
    sides: Callable[[Case], Sides]
    holds: Holds
    scale: str
    batch: int
    refuted: Callable[[Case], Sides] | None
    margin: float
    correction: str

    def applies(self, eps: float, batch: int) -> bool:
        """Tell whether the identity has something to say at this ε and B."""
        return (eps == 0 or self.holds == "every eps") and batch >= self.batch


def recorder(entries: list[Identity]) -> Callable[..., Callable[[Callable[[Case], Sides]], Any]]:
    """Make the decorator that turns a function Case -> Sides into an entry of `entries`."""

    def identity(
        tag: str,
        claim: str,
        formula: str,
        source: str,
        *,
        scale: str,
        holds: Holds = "every eps",
        batch: int = 2,
        refuted: Callable[[Case], Sides] | None = None,
        margin: float = 1e-4,
        correction: str = "",
    ) -> Callable[[Callable[[Case], Sides]], Callable[[Case], Sides]]:
        def record(function: Callable[[Case], Sides]) -> Callable[[Case], Sides]:
            text = tag, claim, formula, source
            more = holds, scale, batch, refuted, margin, correction
            entries.append(Identity(*text, function, *more))
            return function

        return record

    return identity


def sides(*pairs: tuple[Any, ...]) -> Sides:
    """Collect (lhs, rhs) or (lhs, rhs, terms): the largest |term| is the pair's scale.

    Without terms it is the largest |rhs|: nothing cancels there.
    """
    return Sides(
        tuple(pair[0] for pair in pairs),
        tuple(pair[1] for pair in pairs),
        tuple(largest(pair[-1]) for pair in pairs),
    )


def paired(
    lhs: Iterable[Any], rhs: Iterable[Any], terms: Iterable[Any]
) -> tuple[tuple[Any, Any, Any], ...]:
    """Line up two lists of leaves, and the terms of each, for `sides`."""
    return tuple(zip(lhs, rhs, terms, strict=True))


def largest(terms: Any) -> float:
    """Find the largest magnitude; NaN where there is one."""
    return float(np.max(np.abs(np.asarray(terms, np.float64))))


def gap(found: Sides) -> tuple[float, float]:
    """Measure how far two sides are apart, in units of the scale.

    Returns:
        The largest and the smallest of the pairs' errors, each the maximum over the pair's
        entries. Infinite where something is not finite or the shapes differ.
    """
    errors = []
    for lhs, rhs, scale in zip(*found, strict=True):
        a, b = np.asarray(lhs, np.float64), np.asarray(rhs, np.float64)
        alike = a.shape == b.shape  # a broadcast would compare what does not correspond
        if not alike or not np.all(np.isfinite([a, b])) or not 0 <= scale < np.inf:
            errors.append(np.inf)
            continue
        difference = float(np.max(np.abs(a - b)))
        errors.append(difference and (difference / scale if scale else np.inf))
    return max(errors), min(errors)
