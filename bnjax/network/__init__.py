"""The two networks of the sources: the baseline (BL) and the batch-normalized one (BN).

`definition` (configuration, parameters, statistics), `initializers` (how weights are drawn),
`forward` (the layers), `objective` (the cost), `checks` (what fits).
"""

from bnjax.network.checks import check_batch_arguments, check_params
from bnjax.network.definition import Dense, Network, NormDense, Params, State, init
from bnjax.network.forward import (
    LayerPass,
    apply,
    bn_apply,
    inference_statistics,
    merge_statistics,
    run_layers,
    split_statistics,
    update_statistics,
)
from bnjax.network.initializers import INITIALIZERS, Initializer
from bnjax.network.objective import cost, local_cost, mean_cost, weight_fraction

__all__ = [
    "INITIALIZERS",
    "Dense",
    "Initializer",
    "LayerPass",
    "Network",
    "NormDense",
    "Params",
    "State",
    "apply",
    "bn_apply",
    "check_batch_arguments",
    "check_params",
    "cost",
    "inference_statistics",
    "init",
    "local_cost",
    "mean_cost",
    "merge_statistics",
    "run_layers",
    "split_statistics",
    "update_statistics",
    "weight_fraction",
]
