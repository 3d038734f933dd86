"""Training: steps, epochs.

The rooms: `steps` (one update), `epochs` (one pass over the data, one compiled program),
`inference` (statistics for inference, measured after training).
"""

from bnjax.training.epochs import make_epoch, shuffle
from bnjax.training.inference import measure_population
from bnjax.training.steps import GRADIENTS, Step, TrainState, init, make_step

__all__ = [
    "GRADIENTS",
    "Step",
    "TrainState",
    "init",
    "make_epoch",
    "make_step",
    "measure_population",
    "shuffle",
]
