"""Batch renormalization as a flax.nnx layer, with the arguments and variables of sbx's for linen.

(R.1)  y = γ (λ x̂ + τ) + β
(P.3)  y = γ (x − μ) r + β

Source: Ioffe 2017; sbx (Stable Baselines Jax) and CrossQ for names and defaults.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from bnjax.layers.nnx.batch_norm import BatchNorm
from bnjax.layers.renormalization import comparison, refuse_complex


class BatchRenorm(BatchNorm):
    """Normalize a batch with its own moments, corrected to the running statistics (R.1).

    In evaluation with the running statistics (P.3), which within the bounds training sees, too.

    Args:
        *args: Those of `BatchNorm`.
        momentum: The weight on the old statistics.
        epsilon: ε ≥ 0.
        warm_up_steps: How many steps of training are those of batch normalization, λ = 1, τ = 0.
        r_max: The bound λ_max ≥ 1, a `BatchStat` of the layer's, as `d_max` and `steps` are.
        d_max: The bound τ_max ≥ 0.
        r_max_steps: The step at which λ_max, which grows linearly after the warm-up, is `r_max`;
            None for at once. The paper has warm_up_steps=5_000, r_max_steps=40_000,
            d_max_steps=25_000.
        d_max_steps: The same of τ_max.
        **options: Those of `BatchNorm`.

    Example:
        >>> layer = BatchRenorm(1, warm_up_steps=0, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.array([[1.0], [3.0]]))
        >>> print(y[:, 0].round(3), layer.steps[...])  # about x: μ_BN = 0, σ_BN = 1
        [1.    2.999] 1
    """

    def __init__(
        self,
        *args: Any,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        warm_up_steps: int = 100_000,
        r_max: float = 3.0,
        d_max: float = 5.0,
        r_max_steps: int | None = None,
        d_max_steps: int | None = None,
        **options: Any,
    ):
        super().__init__(*args, momentum=momentum, epsilon=epsilon, **options)
        self.warm_up_steps = warm_up_steps
        self.r_max_steps = r_max_steps
        self.d_max_steps = d_max_steps
        self.r_max = nnx.BatchStat(jnp.asarray(r_max, jnp.float32))
        self.d_max = nnx.BatchStat(jnp.asarray(d_max, jnp.float32))
        self.steps = nnx.BatchStat(jnp.asarray(0, jnp.int32))

    def _check(self, x: Array) -> None:
        refuse_complex(x, self.dtype, self.param_dtype)

    def _comparison(self, mean: Array, var: Array) -> dict[str, Any]:
        return comparison(self, mean, var, self.r_max[...], self.d_max[...], self.steps[...])

    def _count_step(self) -> None:
        self.steps[...] += 1
