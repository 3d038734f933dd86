"""Batch renormalization as a flax.linen layer, with the arguments and variables of sbx's.

(R.1)  y = γ (λ x̂ + τ) + β
(P.3)  y = γ (x − μ) r + β

Source: Ioffe 2017; sbx (Stable Baselines Jax) and CrossQ for names and defaults.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from bnjax.layers.linen.batch_norm import BatchNorm
from bnjax.layers.renormalization import comparison, refuse_complex


class BatchRenorm(BatchNorm):
    """Normalize a batch with its own moments, corrected to the running statistics (R.1).

    In evaluation with the running statistics (P.3), which within the bounds training sees, too.
    Variables are those of sbx's `BatchRenorm`: "mean", "var", "r_max", "d_max" and "steps" in
    `batch_stats`, so that its checkpoints are read. Attributes are those of `BatchNorm`, but for
    the defaults `momentum=0.99` and `epsilon=1e-3`, and in addition:

    Attributes:
        warm_up_steps: How many steps of training are those of batch normalization, λ = 1, τ = 0.
        r_max: The bound λ_max ≥ 1 with which the variable "r_max" starts.
        d_max: The bound τ_max ≥ 0 with which the variable "d_max" starts.
        r_max_steps: The step at which λ_max, which grows linearly after the warm-up, is "r_max";
            None for at once. The paper has warm_up_steps=5_000, r_max_steps=40_000,
            d_max_steps=25_000.
        d_max_steps: The same of τ_max.

    Example:
        >>> import jax
        >>> layer, x = BatchRenorm(False, warm_up_steps=0), jnp.array([[1.0], [3.0]])
        >>> variables = layer.init(jax.random.key(0), x)
        >>> y, updates = layer.apply(variables, x, mutable=["batch_stats"])
        >>> print(y[:, 0].round(3), updates["batch_stats"]["steps"])  # about x: μ_BN = 0, σ_BN = 1
        [1.    2.999] 1
    """

    momentum: float = 0.99
    epsilon: float = 1e-3
    warm_up_steps: int = 100_000
    r_max: float = 3.0
    d_max: float = 5.0
    r_max_steps: int | None = None
    d_max_steps: int | None = None

    def _check(self, x: Array) -> None:
        refuse_complex(x, self.dtype, self.param_dtype)

    def _comparison(self, mean: Array, var: Array) -> dict[str, Any]:
        start = {"r_max": self.r_max, "d_max": self.d_max, "steps": 0}
        dtypes = jnp.float32, jnp.float32, jnp.int32
        state = (
            self.variable("batch_stats", name, jnp.asarray, value, dtype).value
            for (name, value), dtype in zip(start.items(), dtypes, strict=True)
        )
        return comparison(self, mean, var, *state)

    def _count_step(self) -> None:
        steps = self.get_variable("batch_stats", "steps")
        self.put_variable("batch_stats", "steps", steps + 1)
