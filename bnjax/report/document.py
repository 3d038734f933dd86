"""The report: what recordings show, as text, as a page, as a cell of a notebook."""

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bnjax.geometry import Recording
from bnjax.report import page
from bnjax.report.finding import Finding, find_all, outstanding
from bnjax.report.subject import Subject
from bnjax.report.words import capital


@dataclass(frozen=True, eq=False)
class Report:
    """What recordings show.

    Attributes:
        subjects: The recordings, and what each is called.
        title: The heading.
        trained: A sentence on what was trained.
        missing: Sentences: what cannot be shown, and why.
        more: Findings of the caller's, which follow the others.
    """

    subjects: tuple[Subject, ...]
    title: str = "How it learnt"
    trained: str = ""
    missing: tuple[str, ...] = ()
    more: tuple[Finding, ...] = ()

    @property
    def about(self) -> str:
        """Say what was trained, and what was looked at."""
        parts = [self.trained] if self.trained else []
        for one in filter(lambda one: one.seen, self.subjects):
            normalized, looks = sum(one.recording.norm), len(one.recording.steps)
            low, high = min(one.recording.samples), max(one.recording.samples)
            of = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            title = f"{capital(one.title)}: " if one.title else ""
            parts.append(
                f"{title}{one.count} layer{'s' * (one.count != 1)}, {normalized} of them "
                f"normalized; {looks} look{'s' * (looks != 1)} at {of} samples."
            )
        return " ".join(parts)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Return all that the recordings show, in the order of the page."""
        return tuple(find_all(self.subjects))

    @cached_property
    def short(self) -> tuple[Finding, ...]:
        """Return the findings that the summary names."""
        return tuple(outstanding(self.findings))

    def html(self) -> str:
        """Return a page that needs no other file and no network.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        return page.write(self)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page.

        Args:
            path: The file; what stood there is replaced.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
            OSError: It cannot be written; what stood there before still does.
        """
        content = self.html().encode("utf-8", "backslashreplace")
        beside = Path(path).with_name(f".{Path(path).name}.tmp")
        try:
            beside.write_bytes(content)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)

    def _repr_html_(self) -> str:
        """Show the page in a notebook, in a frame: its styles do not touch the notebook's."""
        return (
            f'<iframe srcdoc="{html.escape(self.html())}" sandbox title="{html.escape(self.title)}"'
            ' style="width: 100%; height: 48rem; border: 1px solid #9db4d3"></iframe>'
        )

    def __str__(self) -> str:
        """Return it as text."""
        parts = [part for part in (self.title, self.about, *self.missing) if part]
        for one in (*self.findings, *self.more):
            title = f"{one.title} [{', '.join(one.tags)}]" if one.tags else one.title
            parts.append(f"{title}\n{one.lines}")
        return "\n\n".join(parts)


def make_report(recordings: Sequence[Recording], titles: Sequence[str] = ()) -> Report:
    """Make the report of `geometry.report`, whose arguments are these.

    Raises:
        TypeError: Something else than a recording.
        ValueError: There is none, none holds a look, or there are fewer or more titles.
    """
    for one in recordings:
        if not isinstance(one, Recording):
            raise TypeError(
                "geometry.report: each argument must be a geometry.Recording; got "
                f"{type(one).__name__}. Recording.read(path) reads what a Recorder wrote."
            )
    if not any(len(one.steps) and one.names for one in recordings):
        raise ValueError(
            "geometry.report: a recording must hold a look at a layer; got "
            f"{len(recordings)} recordings without any. Look at least once before."
        )
    if titles and len(titles) != len(recordings):
        raise ValueError(
            "geometry.report: `titles` must have one entry per recording; got "
            f"{len(titles)} for {len(recordings)}."
        )
    several = len(recordings) > 1
    titles = titles or [f"recording {k + 1}" if several else "" for k in range(len(recordings))]
    subjects = tuple(
        Subject(title or "recording", title if several else "", recording, color=k)
        for k, (recording, title) in enumerate(zip(recordings, titles, strict=True))
    )
    heading = "How it learnt" if several or not titles[0] else f"How {titles[0]} learnt"
    return Report(subjects, heading)
