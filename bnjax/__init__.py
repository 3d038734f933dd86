"""Batch normalization for JAX: exact, explicit, and every equation executable."""

from bnjax import (
    activations,
    audit,
    backprop,
    conversion,
    costs,
    folding,
    geometry,
    identities,
    jacobian,
    kernel,
    moments,
    network,
    norm,
    population,
    training,
)
from bnjax.activations import Activation
from bnjax.folding import fold, fold_affine
from bnjax.moments import Moments
from bnjax.network import Dense, Network, NormDense, apply, bn_apply, cost, init
from bnjax.norm import batch_norm, normalize

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "Dense",
    "Moments",
    "Network",
    "NormDense",
    "activations",
    "apply",
    "audit",
    "backprop",
    "batch_norm",
    "bn_apply",
    "conversion",
    "cost",
    "costs",
    "fold",
    "fold_affine",
    "folding",
    "geometry",
    "identities",
    "init",
    "jacobian",
    "kernel",
    "moments",
    "network",
    "norm",
    "normalize",
    "population",
    "training",
]
