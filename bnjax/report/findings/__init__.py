"""What a report looks for: importing a file registers its findings, in the order of the page.

The files: `outcome` (what was learnt, what is wrong), `backward` (errors and gradients),
`normalized` (what normalization does), `neurons` (what the layers compute), `unmeasured`.
"""

from bnjax.report.findings import outcome, backward, normalized, neurons, unmeasured  # noqa: I001

__all__ = ["backward", "neurons", "normalized", "outcome", "unmeasured"]
