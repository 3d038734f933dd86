"""flax.linen: `from bnjax.layers.linen import BatchNorm`, and its statistics and folding."""

from bnjax.layers.linen.batch_norm import BatchNorm
from bnjax.layers.linen.batch_renorm import BatchRenorm
from bnjax.layers.linen.inference import fold, measure_statistics

__all__ = ["BatchNorm", "BatchRenorm", "fold", "measure_statistics"]
