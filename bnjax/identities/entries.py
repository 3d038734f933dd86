"""What an identity is, and how the modules of this package record theirs."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from bnjax.identities.cases import Case
from bnjax.identities.notation import glyphs, statements

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
    """One equation of the sources, with everything that is known of it, ready to be checked.

    Attributes:
        tag: BL.1 ... E.14.
        claim: One line of English; of an erratum, the claim that is false.
        formula: The statements in Unicode, set apart by "," and two spaces.
        source: Where it comes from: keys of `sources.SOURCES`, or "own derivation".
        sides: Case -> `Sides`, whose two sides must agree.
        holds: "every eps", or "eps = 0" where only exact normalization has the property.
        scale: In words, the size of the terms that cancel, by which an error is divided.
        batch: The least B for which it says anything.
        refuted: Case -> `Sides` that must differ in every pair: a false claim and the truth. Every
            erratum has one; another identity only where its claim denies something.
        margin: By how much of the scale the refuted sides must differ.
        correction: Of an erratum: what is wrong, and what is right.
        derivation: The formula derived from other tags, one step a line; "" where there is none.
        implementation: Dotted names of the functions that compute it; () where none does.
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
    derivation: str
    implementation: tuple[str, ...]

    @property
    def statements(self) -> tuple[str, ...]:
        """The statements of the formula, one by one."""
        return statements(self.formula)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols of `notation.SYMBOLS` that the formula uses, without indices."""
        return glyphs(self.formula)

    def applies(self, eps: float, batch: int) -> bool:
        """Return whether the identity holds at this ε and says anything at this B."""
        return (eps == 0 or self.holds == "every eps") and batch >= self.batch


def recorder(entries: list[Identity]) -> Callable[..., Callable[[Callable[[Case], Sides]], Any]]:
    """Make the decorator that records a function Case -> Sides as an entry of `entries`."""

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
        derivation: str = "",
        implementation: tuple[str, ...] = (),
    ) -> Callable[[Callable[[Case], Sides]], Callable[[Case], Sides]]:
        def record(function: Callable[[Case], Sides]) -> Callable[[Case], Sides]:
            text = tag, claim, formula, source
            check = function, holds, scale, batch, refuted, margin
            more = correction, inspect.cleandoc(derivation), implementation
            entries.append(Identity(*text, *check, *more))
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
    """Zip two lists of leaves and the terms of each, for `sides`."""
    return tuple(zip(lhs, rhs, terms, strict=True))


def largest(terms: Any) -> float:
    """Return the largest magnitude, or NaN if there is one."""
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
        alike = a.shape == b.shape  # broadcasting would compare entries that do not correspond
        if not alike or not np.all(np.isfinite([a, b])) or not 0 <= scale < np.inf:
            errors.append(np.inf)
            continue
        difference = float(np.max(np.abs(a - b)))
        errors.append(difference and (difference / scale if scale else np.inf))
    return max(errors), min(errors)
