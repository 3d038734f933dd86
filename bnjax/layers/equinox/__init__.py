"""equinox: `from bnjax.layers.equinox import BatchNorm`, and its statistics and folding."""

from bnjax.layers.equinox.batch_norm import BatchNorm
from bnjax.layers.equinox.inference import fold, measure_statistics

__all__ = ["BatchNorm", "fold", "measure_statistics"]
