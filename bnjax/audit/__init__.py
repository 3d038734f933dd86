"""Hold any hand-written derivative rule to a plain reference: every mode, every transform.

`compare` evaluates the value, the whole pull-back, the push-forward, their transposition and both
second orders, plainly and under jit, vmap, scan and remat; in the arguments' dtype and in float64,
against the reference in float64. It knows nothing of batch normalization.
"""

from bnjax.audit import derivatives, programs
from bnjax.audit.comparison import assert_gradients_match, compare, make_compare
from bnjax.audit.report import Report, Row, Saved

MODES = derivatives.ALL
TRANSFORMS = programs.ALL

__all__ = [
    "MODES",
    "TRANSFORMS",
    "Report",
    "Row",
    "Saved",
    "assert_gradients_match",
    "compare",
    "make_compare",
]
