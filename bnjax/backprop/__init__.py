"""Gradients by hand: of a whole network (`layers`), and of one normalization in stages (`stages`).

There is no automatic differentiation in here.
"""

from bnjax.backprop.layers import (
    STATISTICS,
    Layer,
    intermediates,
    value_and_grad,
    value_moments_and_grad,
)
from bnjax.backprop.stages import Chain, staged_chain

__all__ = [
    "STATISTICS",
    "Chain",
    "Layer",
    "intermediates",
    "staged_chain",
    "value_and_grad",
    "value_moments_and_grad",
]
