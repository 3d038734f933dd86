"""flax.nnx: `from bnjax.layers.nnx import BatchNorm`, and its statistics and folding."""

from bnjax.layers.nnx.batch_norm import BatchNorm
from bnjax.layers.nnx.batch_renorm import BatchRenorm
from bnjax.layers.nnx.inference import fold, measure_statistics

__all__ = ["BatchNorm", "BatchRenorm", "fold", "measure_statistics"]
