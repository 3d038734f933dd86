"""flax.nnx's batch normalization over bnjax.

A layer has one variable more while `measure_statistics` measures, `pool`, and after `fold`,
`offset`.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import canonicalize_dtype, promote_dtype
from jax import Array, lax
from jax.typing import ArrayLike

from bnjax.layers import common


class BatchNorm(nnx.BatchNorm):
    """Normalize a batch as `flax.nnx.BatchNorm` does, exactly (BN.2, BN.3, P.3).

    Args:
        *args: Those of `flax.nnx.BatchNorm`, with the same defaults. `use_fast_variance` changes
            nothing; flax's own `promote_dtype` does not round the running statistics.
        rule: How the layer is differentiated, as in `bnjax.batch_norm`: "jvp" in every mode, "vjp"
            in reverse mode only, which keeps less memory.
        **options: As `args`. The state has the same names, shapes and dtypes, so that checkpoints
            of either are read by the other.

    Example:
        >>> layer = BatchNorm(1, rngs=nnx.Rngs(0))
        >>> print(layer(jnp.array([[1.0], [3.0]]))[:, 0].round(3), layer.mean[...].round(3))
        [-1.  1.] [0.02]
    """

    pool: nnx.BatchStat[Any] | None = None
    offset: nnx.BatchStat[Any] | None = None

    def __init__(self, *args: Any, rule: str = "jvp", **options: Any):
        super().__init__(*args, **options)
        self.rule = rule

    def __call__(
        self,
        x: ArrayLike,
        use_running_average: bool | None = None,
        *,
        mask: Array | None = None,
    ) -> Array:
        """Normalize x with its own moments, or with the running statistics.

        Args:
            x: The batch. Complex numbers are normalized by flax's own code.
            use_running_average: Whether to normalize with the running statistics (P.3).
            mask: None, a mask of the places that shape the moments, or floating weights ≥ 0 of
                them; broadcastable to x.

        Returns:
            y, of x's shape, in `dtype`, or in the dtype that x, scale, bias and the statistics
            promote to. Running statistics of a channel in which the batch has no sample, or a
            moment that is not finite, stay as they are.
        """
        x = jnp.asarray(x)
        self._check(x)
        given = self.use_running_average if use_running_average is None else use_running_average
        mean, var = self.mean[...], self.var[...]
        scale, bias = (None if v is None else v[...] for v in (self.scale, self.bias))
        if given is None or common.is_complex(x, self.dtype, mean, scale, bias):
            return super().__call__(x, use_running_average, mask=mask)  # None: an error of its own
        arrays = x, mean, var, scale, bias
        cast, given_mean, given_var, scale, bias = self.promote_dtype(arrays, dtype=self.dtype)
        dtype = canonicalize_dtype(cast, scale, bias, dtype=self.dtype)
        if self.promote_dtype is promote_dtype:  # flax's: leave what it would round, or only widen
            given_mean, given_var = mean, var
            cast = x if jnp.promote_types(x.dtype, dtype) == dtype else cast
        options = {"axis": common.feature_axes(self.axis, x.ndim), "eps": self.epsilon}
        if self.offset is not None:
            b, axis = self.offset[...], options["axis"]
            return common.add_offset(cast, b, axis=axis, dtype=dtype, evaluating=given)
        if given and self.pool is None:
            return common.normalize_given(
                cast, given_mean, given_var, scale, bias, dtype=dtype, **options
            )
        y, moments = common.normalize_batch(
            cast,
            scale,
            bias,
            where=common.weights(mask),
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            rule=self.rule,
            dtype=dtype,
            mean_guess=mean,
            **({} if self.pool is not None else self._comparison(mean, var)),
            **options,
        )
        if self.pool is not None:
            self.pool.set_value(common.add_to_pool(self.pool.get_value(), moments))
            return y
        updated = common.update_statistics(mean, var, moments, self.momentum)
        self.mean[...], self.var[...] = lax.stop_gradient(updated)  # as flax's
        self._count_step()
        return y

    def _check(self, x: Array) -> None:
        """Refuse what the layer cannot normalize: nothing."""

    def _comparison(self, mean: Array, var: Array) -> dict[str, Any]:
        """Return what training compares a batch with: nothing. `BatchRenorm` does."""
        return {}

    def _count_step(self) -> None:
        """Count a step of training, where that matters."""
