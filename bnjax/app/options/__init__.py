"""The options of each command, checked before anything is read or written.

The rooms: `training` (train), `sweeping` (sweep), `reading` (predict, explain), `checking` (verify,
audit, claims), `values` (what a single value must be).
"""

from bnjax.app.options.checking import Audit, Claims, Verify
from bnjax.app.options.reading import Explain, Predict
from bnjax.app.options.sweeping import Sweep
from bnjax.app.options.training import KINDS, Task, Train

__all__ = ["KINDS", "Audit", "Claims", "Explain", "Predict", "Sweep", "Task", "Train", "Verify"]
