"""Batch normalization for JAX: exact, explicit, and every equation executable.

A room is imported, and JAX with it, when one of its names is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnjax import (
        accumulation,
        activations,
        audit,
        backprop,
        conversion,
        costs,
        folding,
        geometry,
        ghost,
        identities,
        jacobian,
        kernel,
        moments,
        network,
        norm,
        population,
        renormalization,
        training,
    )
    from bnjax.activations import Activation
    from bnjax.folding import fold, fold_affine
    from bnjax.ghost import ghost_batch_norm
    from bnjax.moments import Moments
    from bnjax.network import Dense, Network, NormDense, apply, bn_apply, cost, init
    from bnjax.norm import batch_norm, normalize
    from bnjax.renormalization import renorm

__version__ = "0.2.0"

__all__ = [
    "Activation",
    "Dense",
    "Moments",
    "Network",
    "NormDense",
    "accumulation",
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
    "ghost",
    "ghost_batch_norm",
    "identities",
    "init",
    "jacobian",
    "kernel",
    "moments",
    "network",
    "norm",
    "normalize",
    "population",
    "renorm",
    "renormalization",
    "training",
]

_ROOM_OF = {
    "Activation": "activations",
    "Moments": "moments",
    "batch_norm": "norm",
    "normalize": "norm",
    "fold": "folding",
    "fold_affine": "folding",
    "renorm": "renormalization",
    "ghost_batch_norm": "ghost",
    **dict.fromkeys(
        ("Dense", "Network", "NormDense", "apply", "bn_apply", "cost", "init"), "network"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = import_module(f"{__name__}.{_ROOM_OF.get(name, name)}")
    found = getattr(room, name) if name in _ROOM_OF else room
    globals()[name] = found  # asked for once
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
