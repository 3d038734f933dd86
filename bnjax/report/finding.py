"""What a finding is. A new one is one function in one file of `findings`, marked by `register`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from bnjax.report.subject import Subject


class Picture(Protocol):
    """Pictures side by side that belong to one caption."""

    @property
    def caption(self) -> str:
        """What they show."""
        ...

    def draw(self) -> list[str]:
        """Return each as SVG."""
        ...


@dataclass(frozen=True)
class Finding:
    """Something that the figures say, in the order in which a section says it.

    Attributes:
        name: Its key, and that of its section.
        title: A few words.
        measure: What is measured, for a reader who has never met it: each symbol is defined here.
        says: What was seen, in plain words: it stands in the summary, too.
        detail: More, with symbols.
        items: Of a list, each with its words.
        advice: What to do about it.
        tags: Of the equations that it rests on.
        figures: The numbers in the text, and those behind it.
        strength: How far it is from nothing special, in orders of magnitude.
        pictures: What shows it.
    """

    name: str
    title: str
    measure: str
    says: str
    detail: str = ""
    items: Mapping[str, str] = field(default_factory=dict)
    advice: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)
    strength: float = 0.0
    pictures: tuple[Picture, ...] = ()

    @property
    def text(self) -> str:
        """Return all that it says of these recordings, but for items and what to do."""
        return f"{self.says} {self.detail}".strip()

    @property
    def lines(self) -> str:
        """Return all that it says, in lines."""
        items = [f"{key}: {words}" for key, words in self.items.items()]
        return "\n".join([self.text, *items, *(f"What to do: {words}" for words in self.advice)])


Find = Callable[[Sequence[Subject]], Finding | None]
_REGISTERED: list[tuple[Find, str]] = []


def register(find: Find) -> Find:
    """Make a function one of those that are asked about all looks, in the order of the page."""
    _REGISTERED.append((find, "looks"))
    return find


def register_of_curves(find: Find) -> Find:
    """Make a function one of those that are asked about curves."""
    _REGISTERED.append((find, "curves"))
    return find


def find_all(subjects: Sequence[Subject]) -> list[Finding]:
    """Return all that there is to say, in the order of the page."""
    import bnjax.report.findings  # noqa: F401 (its files register what they hold)

    of = {
        "looks": [one for one in subjects if one.seen],
        "curves": [one for one in subjects if one.curves],
    }
    with np.errstate(all="ignore"):  # figures from a file may be anything
        found = [find(of[kind]) for find, kind in _REGISTERED if of[kind]]
    return [one for one in found if one is not None]


def outstanding(findings: Sequence[Finding], most: int = 3) -> list[Finding]:
    """Choose the strongest findings, of those that are strong at all, in the order of the page."""
    strongest = sorted((one for one in findings if one.strength > 0.3), key=lambda f: -f.strength)
    return [one for one in findings if one in strongest[:most]]
