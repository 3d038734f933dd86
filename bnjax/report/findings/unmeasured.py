"""What was not measured, by name."""

from collections.abc import Sequence

from bnjax.report.finding import Finding, register
from bnjax.report.subject import Subject


@register
def unmeasured(subjects: Sequence[Subject]) -> Finding | None:
    """Name the layers of which nothing, or not all, is known, with the reason."""
    items = {}
    for one in subjects:
        of = f" of {one.title}" if one.title else ""
        items |= {
            f"{name}{of}": f"{reason}: not measured." for name, reason in one.recording.skipped
        }
        items |= {
            one.place(at): f"{reason}: its inputs are not known."
            for at, reason in enumerate(one.recording.unfollowed)
            if reason
        }
    if not items:
        return None
    return Finding(
        "unmeasured",
        "What was not measured",
        "",
        f"Of {len(items)} layer{'s' * (len(items) > 1)} nothing is known, or not all: nothing is "
        "said of it above.",
        items=items,
        figures={"names": [*items]},
    )
