"""All that the figures of a run say."""

from collections.abc import Callable

from bnjax.app.report import flow, normalized
from bnjax.app.report.evidence import Evidence
from bnjax.app.report.finding import Finding

_ALL: tuple[Callable[[Evidence], Finding | None], ...] = (
    flow.learned,
    flow.amplitudes,
    flow.averages,
    flow.errors,
    normalized.angles,
    normalized.handed,
    normalized.synced,
    normalized.removed,
    flow.inputs,
    flow.directions,
    normalized.rate,
    normalized.epsilon,
    flow.dead,
)


def find(evidence: Evidence) -> list[Finding]:
    """Say all that there is to say, in the order of the report."""
    found = (finding(evidence) for finding in _ALL)
    return [one for one in found if one is not None]


def outstanding(findings: list[Finding], most: int = 3) -> list[Finding]:
    """Choose the strongest findings, of those that are strong at all."""
    ranked = sorted(findings, key=lambda one: -one.strength)
    return [one for one in ranked[:most] if one.strength > 0.3]
