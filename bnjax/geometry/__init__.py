"""The geometry of learning in sample space: why a weight learns, and why it stopped.

The modules: `vectors` (standardized columns), `angles` (G.1, one layer), `parts` (G.2–G.5:
gradients and propagated errors), `stopping` (G.6: what no longer learns), `layers` (weights,
activations and outputs), `record` (the angles of all layers of a network), `summary` (a network in
few numbers), with `layer_summary` and `histograms`. `functions` (the layers of any JAX function),
with `programs` (its traced program), `feeds` (what linear operation feeds a normalization) and
`convolutions` (G.8), with `equations`, `saturations` (activations) and `copies`. `recorder` (looks
at any training), with `recording` (what was seen, as a file), `layer_figures` and `faults`.
"""

from bnjax.geometry.angles import Angles, layer_angles
from bnjax.geometry.faults import FAULTS, Fault, Found, faults
from bnjax.geometry.functions import observe_function
from bnjax.geometry.histograms import COSINE_BINS, PERCENTILES
from bnjax.geometry.layers import (
    SATURATED,
    Spread,
    WeightNorms,
    effective_rate,
    percentiles,
    rank,
    saturation,
    spread,
    weight_norms,
)
from bnjax.geometry.observed import Observed, ObservedLayer
from bnjax.geometry.parts import Parts, Propagated, gradients, propagated, weight_parts
from bnjax.geometry.record import observe
from bnjax.geometry.recorder import Recorder
from bnjax.geometry.recording import Recording, empty_look, look_dtype
from bnjax.geometry.report import report
from bnjax.geometry.stopping import (
    ALIGNED,
    REASONS,
    Removed,
    Synced,
    dead,
    handed_to_gamma,
    reasons,
    removed,
    stopped,
    synced,
)
from bnjax.geometry.summary import Summary, summarize

__all__ = [
    "ALIGNED",
    "COSINE_BINS",
    "FAULTS",
    "PERCENTILES",
    "REASONS",
    "SATURATED",
    "Angles",
    "Fault",
    "Found",
    "Observed",
    "ObservedLayer",
    "Parts",
    "Propagated",
    "Recorder",
    "Recording",
    "Removed",
    "Spread",
    "Summary",
    "Synced",
    "WeightNorms",
    "dead",
    "effective_rate",
    "empty_look",
    "faults",
    "gradients",
    "handed_to_gamma",
    "layer_angles",
    "look_dtype",
    "observe",
    "observe_function",
    "percentiles",
    "propagated",
    "rank",
    "reasons",
    "removed",
    "report",
    "saturation",
    "spread",
    "stopped",
    "summarize",
    "synced",
    "weight_norms",
    "weight_parts",
]
