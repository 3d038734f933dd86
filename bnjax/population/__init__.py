"""Statistics for inference, gathered batch by batch while training or after it.

`running` (an average over batches: P.1, P.2, P.7), `pooled` (the moments of all samples: P.5).
Both keep each number in two floats: the steps of a long average are smaller than the rounding of
one.

Source: S3; Ioffe & Szegedy 2015, algorithm 2; Chan, Golub & LeVeque 1983 for merging.
"""

from bnjax.population.pooled import Pool, add, empty, merge, pool, to_state
from bnjax.population.running import (
    PopulationState,
    average,
    check_seen,
    init,
    statistics,
    update,
)

__all__ = [
    "Pool",
    "PopulationState",
    "add",
    "average",
    "check_seen",
    "empty",
    "init",
    "merge",
    "pool",
    "statistics",
    "to_state",
    "update",
]
