"""`keras.layers.BatchNormalization` on the JAX backend: the same arguments, variables and files.

(BN.2)  x̂ = (x − μ) r,  r = (σ² + ε)^(−1/2)
(BN.3)  y = γ x̂ + β
(P.3)   y = γ (x − μ) r + β
(R.1)   y = γ (λ x̂ + τ) + β

With `renorm=True` the layer trains on R.1, with statistics of its own; λ and τ are Keras' r and d.

Source: Keras 3.15, `keras.layers.BatchNormalization`.
"""

from typing import Any

import jax.numpy as jnp
import keras
from jax import Array, lax
from jax.typing import ArrayLike

from bnjax import Moments, _checks
from bnjax.layers import common
from bnjax.layout import accumulator_dtype
from bnjax.rules import RULES

if keras.backend.backend() != "jax":
    raise ImportError(
        "bnjax.layers.keras requires Keras on its JAX backend; Keras runs on "
        f"{keras.backend.backend()!r}. Set the environment variable KERAS_BACKEND=jax before Keras "
        "is imported."
    )

_KerasLayer = keras.layers.BatchNormalization


@keras.saving.register_keras_serializable("bnjax")
class BatchNormalization(_KerasLayer):
    """Normalize each channel over all other axes, then scale and shift: BN.2, BN.3, P.3.

    In training (`training=True`, and `trainable` is not False) with the moments of the batch, else
    with the moving statistics. A batch moves the statistics of a channel only if it has a sample
    there and all of them are finite.

    Args:
        *args: Those of `keras.layers.BatchNormalization`, by position or by name, `renorm` and
            `dtype` among them: axis=-1, momentum=0.99 (the weight on the old statistics),
            epsilon=1e-3 and so on.
        rule: How training is differentiated: "jvp", in every mode; "vjp", in reverse mode only;
            "autodiff". See `bnjax.batch_norm`.
        **kwargs: As `args`.

    Raises:
        ValueError: `rule` is unknown, or the value of another argument is refused by Keras.

    Example:
        >>> layer = BatchNormalization(epsilon=0.0, momentum=0.0)
        >>> print(layer(jnp.array([[1.0, 5.0], [3.0, 7.0]], jnp.float32), training=True))
        [[-1. -1.]
         [ 1.  1.]]
        >>> print(layer.moving_mean.value, layer.moving_variance.value)
        [2. 6.] [1. 1.]
    """

    # `build` creates them; as Keras declares them they are None
    gamma: Any
    beta: Any
    moving_mean: Any
    moving_variance: Any
    renorm_clipping: Any

    def __init__(self, *args: Any, rule: str = "jvp", **kwargs: Any):
        super().__init__(*args, **kwargs)
        if rule not in RULES:
            raise ValueError(_checks.unknown_name("BatchNormalization", "rule", rule, RULES))
        self.rule = rule

    def call(
        self, inputs: ArrayLike, training: bool | None = None, mask: ArrayLike | None = None
    ) -> Array:
        """Return y, of the shape of x and the layer's compute dtype.

        Args:
            inputs: x, of any rank and real dtype. Complex x is left to Keras' own code.
            training: Whether to normalize with the moments of the batch and to update statistics.
            mask: None, or of x's rank without its last axis and broadcastable to it: the places
                that shape the moments, as booleans or as real weights ≥ 0. All places are
                normalized.

        Raises:
            ValueError: The mask's rank does not fit, or a weight is negative, infinite or NaN.
        """
        x = jnp.asarray(inputs)
        if common.is_complex(x):
            return jnp.asarray(super().call(inputs, training=training, mask=mask))
        where = common.weights(mask)
        if where is not None:
            if where.ndim != x.ndim - 1:
                raise ValueError(
                    "The mask provided should be one dimension less than the inputs. Received: "
                    f"mask.shape={where.shape}, inputs.shape={x.shape}"
                )
            where = where[..., None]
        gamma = self.gamma.value if self.scale else None
        beta = self.beta.value if self.center else None
        options = {
            "axis": common.feature_axes(self.axis, x.ndim),
            "eps": self.epsilon,
            "dtype": self.compute_dtype,
        }
        if not (training and self.trainable):
            mean, var = self.moving_mean.value, self.moving_variance.value
            return common.normalize_given(x, mean, var, gamma, beta, **options)
        guess = self.moving_mean.value
        options |= {"where": where, "rule": self.rule, "mean_guess": guess}
        if getattr(self, "renorm", False):  # older releases of Keras have none
            return self._renormalize(x, gamma, beta, options)
        y, moments = common.normalize_batch(x, gamma, beta, **options)
        self._average(self.moving_mean, self.moving_variance, moments, self.momentum)
        return y

    def _average(self, mean: Any, var: Any, moments: Moments, momentum: float) -> Array:
        """Update two of the layer's variables; return the second before it is cast to its dtype."""
        wide = moments.mean.dtype
        old = mean.value.astype(wide), var.value.astype(wide)
        new_mean, new_var = common.update_statistics(*old, moments, momentum)
        mean.assign(new_mean)
        var.assign(new_var)
        return new_var

    def _renormalize(
        self, x: Array, gamma: Array | None, beta: Array | None, options: dict[str, Any]
    ) -> Array:
        """Return y (R.1), and update the statistics that λ and τ come from, and the moving ones."""
        std = self.renorm_stddev.value.astype(accumulator_dtype(self.renorm_stddev.dtype))
        # as in Keras: not below √ε, as it is early in training
        var = jnp.maximum(std**2 - self.epsilon, 0)
        clip = {key: self.renorm_clipping.get(key) for key in ("rmax", "dmax", "rmin")}
        bounds = {
            "r_max": jnp.inf if clip["rmax"] is None else clip["rmax"],
            "d_max": jnp.inf if clip["dmax"] is None else clip["dmax"],
            "r_min": max(clip["rmin"] or 0, 0),
        }
        given = self.renorm_mean.value, var
        y, moments = common.normalize_batch(x, gamma, beta, given=given, bounds=bounds, **options)
        moments = lax.stop_gradient(moments)
        stds = moments._replace(var=jnp.sqrt(moments.var + self.epsilon))
        self._average(self.renorm_mean, self.renorm_stddev, stds, self.renorm_momentum)
        moving_std = self._average(self.moving_mean, self.moving_stddev, stds, self.momentum)
        var = jnp.maximum(moving_std**2 - self.epsilon, 0)
        old = self.moving_variance.value.astype(var.dtype)
        self.moving_variance.assign(jnp.where(common.has_statistics(moments), var, old))
        return y

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by name; `rule`, which Keras' own class refuses, if not "jvp"."""
        config = super().get_config()
        return config if self.rule == "jvp" else {**config, "rule": self.rule}


def convert(model: keras.Model, *, rule: str = "jvp") -> keras.Model:
    """Return a copy of a built model whose `keras.layers.BatchNormalization` are this module's.

    Layers at any depth are replaced, in wrappers and in layers of layers too; those of classes
    that are derived from Keras' stay as they are.

    Args:
        model: Sequential, Functional, or of a class of its own that `keras.models.clone_model` can
            copy.
        rule: That of the new layers.

    Returns:
        The copy, with the same weights, names and dtype policies; not compiled.

    Raises:
        ValueError: The model is not built, Keras cannot copy it, or `rule` is unknown.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
        >>> type(convert(model).layers[0]).__module__
        'bnjax.layers.keras'
    """
    if rule not in RULES:
        raise ValueError(_checks.unknown_name("convert", "rule", rule, RULES))
    if not model.built:
        raise ValueError(
            "convert: `model` must be built, so that it has weights to keep. Call it on a batch, "
            "or model.build(shape), first."
        )
    try:
        copy = keras.models.clone_model(model)
    except (NotImplementedError, TypeError, ValueError) as error:  # as from_config may raise
        raise ValueError(
            f"convert: Keras cannot copy `model`, of class {type(model).__name__}. In the code of "
            "that class import BatchNormalization from bnjax.layers.keras instead, build such a "
            "model, and call its set_weights(model.get_weights())."
        ) from error
    for own, theirs in zip(copy.weights, model.weights, strict=True):
        own.assign(theirs.value)
    for layer in copy._flatten_layers():  # as Keras' own trainers find layers of layers
        if type(layer) is _KerasLayer:
            # a layer's connections, weights and options are attributes: they stay
            layer.__class__ = BatchNormalization
            layer.rule = rule
    return copy
