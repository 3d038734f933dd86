"""Training: steps, epochs, whole runs, sweeps, on one device or many.

The modules: `steps` (one update), `accumulation` (one update from several micro-batches), `epochs`
(one pass over the data, one compiled program), `runs` (many epochs, k of them per call), `streams`
(data that do not fit on the device), `sweeps` (many networks at once), `grids` (how many side by
side), `devices` (data spread over a mesh), `host` (data of other libraries), `inference`
(statistics for inference, measured after training).
"""

from bnjax.training.accumulation import make_accumulating_step
from bnjax.training.devices import copy_everywhere, data_mesh, local_rows, spread
from bnjax.training.epochs import make_epoch, shuffle
from bnjax.training.inference import measure_population
from bnjax.training.runs import Progress, fit
from bnjax.training.steps import GRADIENTS, Step, TrainState, decay_mask, init, make_step
from bnjax.training.streams import fit_batches, prefetch
from bnjax.training.sweeps import Sweep, sweep

__all__ = [
    "GRADIENTS",
    "Progress",
    "Step",
    "Sweep",
    "TrainState",
    "copy_everywhere",
    "data_mesh",
    "decay_mask",
    "fit",
    "fit_batches",
    "init",
    "local_rows",
    "make_accumulating_step",
    "make_epoch",
    "make_step",
    "measure_population",
    "prefetch",
    "shuffle",
    "spread",
    "sweep",
]
