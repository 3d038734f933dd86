"""What a report looks for: importing a file registers its findings, in the order of the page.

The files: `outcome` (what was learnt, what is wrong), `gradients` (how large they are, what they
consist of, how much error arrives), `normalized` (what normalization does), `neurons` (what the
layers compute), `unmeasured` (what was not looked at).
"""

from bnjax.report.findings import (  # noqa: I001 (the order of the page)
    outcome,
    gradients,
    normalized,
    neurons,
    unmeasured,
)

__all__ = ["gradients", "neurons", "normalized", "outcome", "unmeasured"]
