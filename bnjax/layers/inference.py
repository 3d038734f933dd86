"""What statistics for inference and folding share, whatever the framework.

(P.4)  W' = W diag(γ r_BN),  b' = β − γ μ_BN r_BN
(P.5)  Var[x] = Σ_k n_k [σ_k² + (μ_k − E[x])²] / N

`inference` of each framework measures the statistics of a whole model, and folds it.

Source: S3; Wu & Johnson 2021 (arXiv:2105.07576).
"""

from typing import Any

import jax
import numpy as np
from jax import Array

from bnjax import population
from bnjax.population import Pool


def empty_pool(mean: Array) -> Pool:
    """Return an empty pool for the channels of a running mean."""
    return population.empty(mean.shape, mean.dtype)


def pooled_statistics(pool: Pool, mean: Array, var: Array, name: str) -> tuple[Array, Array]:
    """Return the mean and variance of all that was pooled (P.5), in the dtypes of the old ones.

    Args:
        pool: What a layer has seen.
        mean: Its running mean.
        var: Its running variance.
        name: Where it stands in the model.

    Raises:
        ValueError: The pool of some channel is empty.
    """
    if not np.all(pool.batches):
        raise ValueError(
            f"measure_statistics: the normalization at {name!r} must see a batch with finite "
            "moments in every channel; got none. `batches` may be empty, or the layer not bnjax's."
        )
    measured = population.statistics(population.to_state(pool))
    return measured[0].astype(mean.dtype), measured[1].astype(var.dtype)


def agree(got: Any, wanted: Any) -> bool:
    """Return whether two models' outputs are equal but for the digits that folding may cost."""
    return all(
        np.allclose(a, b, rtol=0, atol=1e-3 * np.max(np.abs(b), initial=0))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    )
