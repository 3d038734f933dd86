"""flax.linen's batch normalization over bnjax.

Two more entries may stand for the running statistics in `batch_stats`: "pool" beside them while
`measure_statistics` measures, "offset" in their place after `fold`.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen
from flax.linen.dtypes import canonicalize_dtype
from jax import Array
from jax.typing import ArrayLike

from bnjax.layers import common


class BatchNorm(linen.BatchNorm):
    """Normalize a batch as `flax.linen.BatchNorm` does, exactly (BN.2, BN.3, P.3).

    Attributes are those of `flax.linen.BatchNorm`, with the same defaults; variables have the same
    names, shapes and dtypes, so that checkpoints of either are read by the other.
    `use_fast_variance` changes nothing, `force_float32_reductions` the dtype of the statistics
    alone: sums are always formed in float32 or float64. In addition:

    Attributes:
        rule: How the layer is differentiated, as in `bnjax.batch_norm`: "jvp" in every mode, "vjp"
            in reverse mode only, which keeps less memory.

    Example:
        >>> import jax
        >>> layer, x = BatchNorm(use_running_average=False), jnp.array([[1.0], [3.0]])
        >>> variables = layer.init(jax.random.key(0), x)
        >>> y, updates = layer.apply(variables, x, mutable=["batch_stats"])
        >>> print(y[:, 0].round(3), updates["batch_stats"]["mean"].round(3))
        [-1.  1.] [0.02]
    """

    rule: str = "jvp"

    @linen.compact
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
            y, of x's shape, in `dtype`, or in the dtype that x, scale and bias promote to.
            Running statistics of a channel in which the batch has no sample, or a moment that is
            not finite, stay as they are.
        """
        x = jnp.asarray(x)
        self._check(x)
        if common.is_complex(x, self.dtype, self.param_dtype):
            return super().__call__(x, use_running_average, mask=mask)
        given = linen.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        axis = common.feature_axes(self.axis, x.ndim)
        shape = [x.shape[a] for a in axis]
        if self.has_variable("batch_stats", "offset"):
            offset = self.get_variable("batch_stats", "offset")
            dtype = canonicalize_dtype(x, *_scale_and_bias(self, shape), dtype=self.dtype)
            return common.add_offset(x, offset, axis=axis, dtype=dtype, evaluating=given)
        kept = jnp.float32 if self.force_float32_reductions else self.param_dtype
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, kept)
        var = self.variable("batch_stats", "var", jnp.ones, shape, kept)
        comparison = self._comparison(mean.value, var.value)
        scale, bias = _scale_and_bias(self, shape)
        dtype = canonicalize_dtype(x, scale, bias, dtype=self.dtype)
        measuring = self.has_variable("batch_stats", "pool")
        options = {"axis": axis, "eps": self.epsilon, "dtype": dtype}
        if given and not measuring:
            return common.normalize_given(x, mean.value, var.value, scale, bias, **options)
        starting = self.is_initializing()
        y, moments = common.normalize_batch(
            x,
            scale,
            bias,
            where=common.weights(mask),
            axis_name=None if starting else self.axis_name,
            axis_index_groups=None if starting else self.axis_index_groups,
            rule=self.rule,
            mean_guess=mean.value,
            **({} if starting or measuring else comparison),
            **options,
        )
        if measuring:
            pool = common.add_to_pool(self.get_variable("batch_stats", "pool"), moments)
            self.put_variable("batch_stats", "pool", pool)
        elif not starting:
            # flax's promote to the dtype in which it would have summed
            summed = jnp.promote_types(x.dtype if self.dtype is None else self.dtype, kept)
            old = [v.value.astype(jnp.promote_types(v.value.dtype, summed)) for v in (mean, var)]
            new = common.update_statistics(old[0], old[1], moments, self.momentum)
            mean.value, var.value = new
            self._count_step()
        return y

    def _check(self, x: Array) -> None:
        """Refuse what the layer cannot normalize: nothing."""

    def _comparison(self, mean: Array, var: Array) -> dict[str, Any]:
        """Return what training compares a batch with: nothing. `BatchRenorm` does."""
        return {}

    def _count_step(self) -> None:
        """Count a step of training, where that matters."""


def _scale_and_bias(layer: BatchNorm, shape: list[int]) -> tuple[Array | None, Array | None]:
    """Return γ and β, created where they are not yet; None where the layer has none."""
    scale = bias = None
    if layer.use_scale:
        scale = layer.param("scale", layer.scale_init, shape, layer.param_dtype)
    if layer.use_bias:
        bias = layer.param("bias", layer.bias_init, shape, layer.param_dtype)
    return scale, bias
