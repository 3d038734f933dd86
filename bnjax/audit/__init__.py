"""Comparison of any hand-written derivative rule with a plain reference.

`compare` evaluates the value, the vjp, the jvp, whether one is the transpose of the other, and both
second orders, as the functions stand and under jit, vmap, scan and remat. The function is evaluated
in the arguments' dtype and in float64, the reference in float64. Nothing here is specific to batch
normalization.

The files, in the order of the computation: `arguments` and `trials` (what goes in), `derivatives`
(the modes), `transforms` and `programs` (how they are run), `rounding` and `reference` (what they
are compared with), `richardson` and `differences` (the same without a reference), `precision` and
`criteria` (what a function computes with, and how exact it must be), `judge`, `diagnosis` and
`verdicts` (what an error means), `report`, `evaluation` and `cache` (everything compiled and run
together), `comparison` (the public functions).
"""

from bnjax.audit.comparison import assert_gradients_match, compare, make_compare
from bnjax.audit.derivatives import MODES
from bnjax.audit.report import Report, Row, Saved
from bnjax.audit.transforms import TRANSFORMS

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
