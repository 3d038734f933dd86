"""Claims about learning with batch normalization, each as a small experiment with a criterion.

`claim` (what a claim is and how it is judged), `training` (compiled grids of small trainings),
`grids` (what a grid came to), `shifts` and `small_sets` (what several claims run); each other
module is one claim.
"""

from bnjax.claims import (
    activations,
    batch_size,
    depth,
    dropout,
    error_alignment,
    fewer_steps,
    gradient_shift,
    initial_values,
    input_shift,
    learning_rates,
    regularization,
    running_statistics,
    saturation,
    stable_inputs,
    stopped_weights,
    synced_inputs,
)
from bnjax.claims.claim import (
    DEPENDS,
    NOT_SEEN,
    SEEN,
    Chart,
    Claim,
    Curve,
    Data,
    Figure,
    Measured,
    Setting,
    Verdict,
    agree,
    judge_sets,
    over_seeds,
    spread,
)

CLAIMS: tuple[Claim, ...] = (
    learning_rates.CLAIM,
    initial_values.CLAIM,
    depth.CLAIM,
    saturation.CLAIM,
    activations.CLAIM,
    fewer_steps.CLAIM,
    batch_size.CLAIM,
    input_shift.CLAIM,
    gradient_shift.CLAIM,
    stable_inputs.CLAIM,
    regularization.CLAIM,
    dropout.CLAIM,
    running_statistics.CLAIM,
    stopped_weights.CLAIM,
    synced_inputs.CLAIM,
    error_alignment.CLAIM,
)

__all__ = [
    "CLAIMS",
    "DEPENDS",
    "NOT_SEEN",
    "SEEN",
    "Chart",
    "Claim",
    "Curve",
    "Data",
    "Figure",
    "Measured",
    "Setting",
    "Verdict",
    "agree",
    "judge_sets",
    "over_seeds",
    "spread",
]
