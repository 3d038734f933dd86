"""equinox's batch normalization over bnjax."""

import math
import sys
from collections.abc import Hashable, Sequence
from typing import Literal, cast

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from bnjax import Moments, kernel
from bnjax.layers import common
from bnjax.layout import accumulator_dtype


class BatchNorm(eqx.nn.BatchNorm):
    """Normalize a batch as `equinox.nn.BatchNorm` does, exactly (BN.2, BN.3, P.3, P.7).

    Arguments are those of `equinox.nn.BatchNorm`, with the same defaults; parameters and states are
    the same leaves in the same order, so that checkpoints of either are read by the other. In
    addition:

    Args:
        rule: How the layer is differentiated, as in `bnjax.batch_norm`. "jvp" and "vjp" are one
            rule where `axis_name` is that of a `vmap`.

    Example:
        >>> import jax
        >>> layer, state = eqx.nn.make_with_state(BatchNorm)(1, "batch", mode="batch")
        >>> batched = jax.vmap(layer, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
        >>> y, state = batched(jnp.array([[1.0], [3.0]]), state)
        >>> print(y[:, 0].round(3), state.get(layer.batch_state_index)[0].round(3))
        [-1.  1.] [0.02]
    """

    rule: str = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        axis_name: Hashable | Sequence[Hashable],
        eps: float = 1e-5,
        channelwise_affine: bool = True,
        momentum: float = 0.99,
        inference: bool = False,
        dtype: DTypeLike | None = None,
        mode: Literal["ema", "batch", "legacy"] = "legacy",
        *,
        rule: str = "jvp",
    ):
        super().__init__(
            input_size, axis_name, eps, channelwise_affine, momentum, inference, dtype, mode
        )
        self.rule = rule

    def __call__(
        self,
        x: Array,
        state: eqx.nn.State,
        *,
        key: Array | None = None,
        inference: bool | None = None,
        where: ArrayLike | None = None,
    ) -> tuple[Array, eqx.nn.State]:
        """Normalize one sample of a batch with the statistics of the whole.

        Args:
            x: One sample, of shape (input_size, ...). Complex numbers are normalized by equinox's
                own code.
            state: Holds the running statistics.
            key: Nothing is drawn.
            inference: Whether to normalize with the running statistics (P.3). None: as the layer
                says.
            where: None, or whether this sample shapes the moments: a mask or floating weights ≥ 0,
                broadcastable to x.

        Returns:
            y, of x's shape, in the dtype that x and weight promote to (and the statistics, where
            they normalize); and the new state. Statistics of a channel in which the batch has no
            sample, or a moment that is not finite, stay as they are.
        """
        x = jnp.asarray(x)
        _, index = self.indices()
        mean, var = state.get(index)
        if common.is_complex(x, mean):
            return super().__call__(x, state, key=key, inference=inference)
        inference = self.inference if inference is None else inference
        dtypes = [common.mean_dtype(x)]
        dtypes += [] if self.weight is None else [self.weight.dtype]
        dtype = jnp.result_type(*dtypes, mean)
        options = {"axis": (0,), "eps": self.eps}
        if inference:
            mean, var = self.running_statistics(state)
            y = common.normalize_given(x, mean, var, self.weight, self.bias, dtype=dtype, **options)
            return y, state
        options |= {"where": common.weights(where), "axis_name": self.axis_name, "rule": self.rule}
        if self.mode == "batch":
            y, moments = common.normalize_batch(
                x, self.weight, self.bias, dtype=jnp.result_type(*dtypes), **options
            )
            return y, self._update_debiased(state, moments)
        wide = accumulator_dtype(x.dtype, dtype)
        standardized, moments = common.normalize_batch(x, None, None, dtype=wide, **options)
        state = self._update(state, moments)
        mean, var = state.get(index)
        return self._to_running(standardized, moments, mean, var).astype(dtype), state

    def running_statistics(self, state: eqx.nn.State) -> tuple[Array, Array]:
        """Return the mean and the variance that evaluation normalizes with (P.3)."""
        progress_index, index = self.indices()
        mean, var = state.get(index)
        if self.mode == "ema":
            return mean, var
        return self._debiased(mean, var, state.get(progress_index))

    def indices(self) -> tuple[eqx.nn.StateIndex, eqx.nn.StateIndex]:
        """Return where the state holds how far it has come, and what it averages.

        The first is whether no batch has come yet in mode "ema", else the number of batches.
        """
        if self.mode == "ema":
            indices = self.ema_first_time_index, self.ema_state_index
        else:
            indices = self.batch_counter, self.batch_state_index
        return cast(tuple[eqx.nn.StateIndex, eqx.nn.StateIndex], indices)

    def _to_running(self, standardized: Array, moments: Moments, mean: Array, var: Array) -> Array:
        """Return γ (x − m) (v + ε)^(−1/2) + β for running m and v, from x̂.

            x − m = x̂ (σ² + ε)^(1/2) + (μ − m)                                             (BN.2)

        With the first batch m = μ, and no digit is lost to a large mean.
        """
        inv_std = kernel.inverse_std(var, self.eps)
        total = moments.var + self.eps
        scale = inv_std * jnp.sqrt(jnp.where(total == 0, 1, total))  # where it is 0, so is x̂
        shift = inv_std * (moments.mean - mean)
        if self.weight is not None and self.bias is not None:
            scale, shift = self.weight * scale, self.weight * shift + self.bias
        rows = (-1,) + (1,) * (standardized.ndim - 1)
        return standardized * scale.reshape(rows) + shift.reshape(rows)

    def _update(self, state: eqx.nn.State, moments: Moments) -> eqx.nn.State:
        """Return the state after a batch in mode "ema": the first one replaces what there is."""
        first_index, index = self.indices()
        first, (mean, var) = state.get(first_index), state.get(index)
        # before the first batch there may be anything
        old = jnp.where(first, 0, mean), jnp.where(first, 1, var)
        new = common.update_statistics(*old, moments, jnp.where(first, 0.0, self.momentum))
        seen = jnp.any(common.has_statistics(moments))
        return state.set(first_index, first & ~seen).set(index, new)

    def _update_debiased(self, state: eqx.nn.State, moments: Moments) -> eqx.nn.State:
        """Return the state after a batch in mode "batch": m_k = d m_(k−1) + (1 − d) μ_k (P.7)."""
        counter_index, index = self.indices()
        counter, (mean, var) = state.get(counter_index), state.get(index)
        averages = self._debiased(mean, var, counter)
        moments = common.sharded_like(moments, mean)
        taken = common.has_statistics(moments)
        seen = jnp.any(taken)
        # all channels share the counter: one that is left out repeats its average
        pair = (jnp.where(taken, a, b) for a, b in zip(moments[:2], averages, strict=True))
        repeated = Moments(*pair, count=jnp.broadcast_to(seen, mean.shape))
        new = common.update_statistics(mean, var, repeated, self.momentum)
        return state.set(counter_index, jnp.where(seen, counter + 1, counter)).set(index, new)

    def _debiased(self, mean: Array, var: Array, counter: Array) -> tuple[Array, Array]:
        """Return m_k/(1 − d^k) and (v_k − d^k)/(1 − d^k): v starts at 1, of which d^k is left."""
        log = math.log(max(self.momentum, sys.float_info.min))
        left = jnp.where(counter == 0, 0, jnp.exp(counter * log)).astype(var.dtype)
        share = jnp.where(counter == 0, 1, -jnp.expm1(counter * log)).astype(var.dtype)
        return mean / share, jnp.maximum((var - left) / share, 0)
