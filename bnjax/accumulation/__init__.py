"""The gradient of a large batch from its micro-batches, exactly (D.18).

The modules: `gradient` (the public function), `sweeps` (forward for moments, back for sums and
gradients), `chain` (one micro-batch within a large batch).
"""

from bnjax.accumulation.gradient import Segment, accumulate_gradient

__all__ = ["Segment", "accumulate_gradient"]
