"""bnjax's own derivative rules, each beside a plain reference: what `bnjax audit` compares.

The modules: `case` (what a case is), `ordinary` and `extreme` (the cases), `plain` (references).
"""

import numpy as np

from bnjax.own_rules.case import DTYPES, Case
from bnjax.own_rules.extreme import extreme_cases, range_case
from bnjax.own_rules.ordinary import ordinary_cases

__all__ = ["DTYPES", "Case", "own_cases", "range_case"]


def own_cases(seed: int) -> list[Case]:
    """List bnjax's rules, with arguments drawn from `seed`."""
    rng = np.random.default_rng(seed)
    return [*ordinary_cases(rng), *extreme_cases(rng)]
