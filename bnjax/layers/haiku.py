"""haiku's batch normalization over bnjax: `from bnjax.layers.haiku import BatchNorm`."""

from collections.abc import Sequence
from typing import cast

import haiku as hk
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from bnjax.layers import common


class BatchNorm(hk.BatchNorm):
    """Normalize a batch as `haiku.BatchNorm` does, exactly (BN.2, BN.3, P.3, P.7).

    Arguments are those of `haiku.BatchNorm`, with the same defaults; parameters and states have the
    same names, shapes and dtypes, so that checkpoints of either are read by the other. In addition:

    Args:
        rule: How the layer is differentiated, as in `bnjax.batch_norm`: "jvp" in every mode, "vjp"
            in reverse mode only, which keeps less memory.

    Example:
        >>> @hk.transform_with_state
        ... def f(x):
        ...     return BatchNorm(True, True, decay_rate=0.9)(x, is_training=True)
        >>> x = jnp.array([[1.0], [3.0]])
        >>> y, state = f.apply(*f.init(None, x), None, x)
        >>> print(y[:, 0].round(3), state["batch_norm/~/mean_ema"]["average"].round(3))
        [-1.  1.] [[2.]]
    """

    def __init__(
        self,
        create_scale: bool,
        create_offset: bool,
        decay_rate: float,
        eps: float = 1e-5,
        scale_init: hk.initializers.Initializer | None = None,
        offset_init: hk.initializers.Initializer | None = None,
        axis: Sequence[int] | None = None,
        cross_replica_axis: str | Sequence[str] | None = None,
        cross_replica_axis_index_groups: Sequence[Sequence[int]] | None = None,
        data_format: str = "channels_last",
        name: str | None = None,
        *,
        rule: str = "jvp",
    ):
        super().__init__(
            create_scale,
            create_offset,
            decay_rate,
            eps,
            scale_init,
            offset_init,
            axis,
            cross_replica_axis,
            cross_replica_axis_index_groups,
            data_format,
            name,
        )
        self.rule = rule
        # in their place, not beside them: these have the names of the states
        self.mean_ema.__class__ = self.var_ema.__class__ = _RunningAverage

    def __call__(
        self,
        inputs: Array,
        is_training: bool,
        test_local_stats: bool = False,
        scale: Array | None = None,
        offset: Array | None = None,
        *,
        where: ArrayLike | None = None,
    ) -> Array:
        """Normalize x with its own moments, or with the running statistics.

        Args:
            inputs: The batch x. Complex numbers are normalized by haiku's own code.
            is_training: Whether to normalize with the batch's moments and update the states.
            test_local_stats: Whether to normalize with the batch's moments otherwise, too.
            scale: γ of any shape that is broadcastable to x, where the layer has none of its own.
            offset: β, alike.
            where: None, a mask of the places that shape the moments, or floating weights ≥ 0 of
                them; broadcastable to x.

        Returns:
            y, of x's shape, in the dtype that x, scale and offset promote to. Statistics of a
            channel in which the batch has no sample, or a moment that is not finite, stay as they
            are.

        Raises:
            ValueError: `scale` or `offset` is passed to a layer that has one of its own.
        """
        x = jnp.asarray(inputs)
        for name, passed in (("scale", scale), ("offset", offset)):
            if passed is not None and getattr(self, f"create_{name}"):
                raise ValueError(f"Cannot pass `{name}` at call time if `create_{name}=True`.")
        if common.is_complex(x, scale, offset):
            return super().__call__(x, is_training, test_local_stats, scale, offset)
        axis, shape, own = self._shapes(x)
        gamma = beta = None
        if self.create_scale:
            gamma = hk.get_parameter("scale", own, x.dtype, self.scale_init)
        if self.create_offset:
            beta = hk.get_parameter("offset", own, x.dtype, self.offset_init)
        floating = common.mean_dtype(x)
        factors = [a for a in (gamma, beta, scale, offset) if a is not None]
        options = {"axis": axis, "eps": self.eps, "dtype": jnp.result_type(floating, *factors)}
        if gamma is not None and own != shape:
            gamma, scale = None, gamma
        if beta is not None and (own != shape or scale is not None):
            beta, offset = None, beta
        gamma, beta = _floating(gamma), _floating(beta)
        if is_training or test_local_stats:
            y, moments = common.normalize_batch(
                x,
                gamma,
                beta,
                where=common.weights(where),
                axis_name=self.cross_replica_axis or None,
                axis_index_groups=self.cross_replica_axis_index_groups,
                rule=self.rule,
                **options,
            )
            if is_training:
                taken = common.has_statistics(moments).reshape(shape)
                averages = (self.mean_ema, moments.mean, 0), (self.var_ema, moments.var, 1)
                for ema, value, start in averages:
                    ema = cast(_RunningAverage, ema)
                    ema.update(value.reshape(shape), taken, start, floating)
        else:
            mean, var = self.mean_ema.average, self.var_ema.average
            y = common.normalize_given(x, mean, var, gamma, beta, **options)
        y = y if scale is None else y * scale
        return y if offset is None else y + offset

    def _shapes(self, x: Array) -> tuple[tuple[int, ...], list[int], list[int]]:
        """Return the feature axes, and the shapes of the statistics and of the parameters."""
        samples = self.axis
        if samples is None:
            channel = self.channel_index, self.channel_index + x.ndim  # counted from the end, too
            samples = [a for a in range(x.ndim) if a not in channel]
        axis = tuple(sorted({*range(x.ndim)} - {*common.feature_axes(samples, x.ndim)}))
        statistics = [size if a in axis else 1 for a, size in enumerate(x.shape)]
        # haiku's parameters vary along a sample axis that is counted from the end
        parameters = [1 if a in samples else size for a, size in enumerate(x.shape)]
        return axis, statistics, parameters


class _RunningAverage(hk.ExponentialMovingAverage):
    """haiku's zero-debiased average (P.7), which a batch without statistics leaves alone."""

    def update(self, value: Array, taken: Array, start: float, dtype: DTypeLike) -> None:
        """Average `value` where it is taken; elsewhere the average stays, or is `start` at first.

        States are created in `dtype`, and never kept in less.
        """
        counter = hk.get_state("counter", (), jnp.int32, init=jnp.zeros)
        hidden = hk.get_state("hidden", value.shape, dtype, init=jnp.zeros)
        first = jnp.where(taken, value, start)
        average = hk.get_state("average", value.shape, dtype, init=lambda *_: first.astype(dtype))
        hidden, average = common.sharded_like((hidden, average), first)
        # all channels share the counter: one that is left out repeats its average
        value = jnp.where(counter == 0, first, jnp.where(taken, value, average))
        decay = jnp.asarray(self.decay, value.dtype)
        new_hidden = hidden * decay + value * (1 - decay)
        new_average = new_hidden / (1 - decay ** (counter + 1))
        some = jnp.any(taken)
        hk.set_state("counter", jnp.where(some, counter + 1, counter))
        for name, old, new in (("hidden", hidden, new_hidden), ("average", average, new_average)):
            kept = jnp.promote_types(old.dtype, dtype)
            hk.set_state(name, jnp.where(some, new.astype(kept), old.astype(kept)))


def _floating(parameter: Array | None) -> Array | None:
    """Return a parameter as `bnjax.batch_norm` wants it: that of an integer x is an integer."""
    if parameter is None or jnp.issubdtype(parameter.dtype, jnp.floating):
        return parameter
    return parameter.astype(jnp.float32)
