"""Batch normalization over the sample axes: the public functions.

(BN.2)  x̂ = (x − μ) r,  r = (σ² + ε)^(−1/2)
(BN.3)  y = γ x̂ + β
(D.17)  x̂ = 0, y = β where w = 0
(P.3)   y = γ (x − μ) r + β

Source: S0/S1 §2, S3; Ioffe & Szegedy 2015.
"""

from jax import Array
from jax.typing import ArrayLike

from bnjax import _checks, collectives
from bnjax._checks import Axis
from bnjax.moments import Moments
from bnjax.rules import RULES, RuleConfig, normalize_over_vmap, normalize_with


def batch_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
    where: ArrayLike | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None,
    rule: str = "vjp",
) -> tuple[Array, Moments]:
    """Normalize a batch with its own moments, then scale and shift: BN.2, BN.3, D.17.

    Args:
        x: The batch: any floating array with at least one feature and one sample axis.
        gamma: γ, the scale: x's feature axes, in x's order. None stands for 1.
        beta: β, the shift: the same shape. None stands for 0.
        axis: The feature axis or axes; all others are averaged over.
        eps: ε ≥ 0, added to the variance; static. Where σ² + ε = 0, y = β and the gradient is 0.
        where: None, a boolean mask or finite weights w ≥ 0, broadcastable to x, whose scale does
            not matter. Values under a zero weight influence nothing, whatever they are; y is β
            there. Weights are constants. Where they are traced, a weight that is negative,
            infinite or NaN makes all results of its channel NaN.
        axis_name: Mesh or vmapped axes over which the batch is spread, under `shard_map`, `pmap`
            or `vmap`: the moments are those of the whole, whatever weight each shard has. One
            all_gather forward, one psum backward. Over an axis of `vmap` the moments are not
            mapped (`out_axes=None`), and "vjp" and "jvp" are one rule, which works in every mode.
        axis_index_groups: Groups of devices that normalize among themselves, all of one size;
            under `pmap` and `shard_map(check_vma=False)`.
        rule: How it is differentiated. "vjp": by the hand-derived pull-back, which saves x itself
            and per-channel vectors; in reverse mode only. "jvp": by the hand-derived
            push-forward, in every mode (`jax.jvp`, `jacfwd`, `hessian`, `linearize`); it takes
            somewhat longer. "autodiff": by JAX, as the plain reference.

    Returns:
        y, of x's shape and dtype, and the `Moments` of the batch (biased variance). All three of
        y, mean and var are differentiable in x, y in γ and β too.

    Raises:
        TypeError: x, gamma, beta or where has a dtype that cannot be normalized.
        ValueError: A shape, axis, eps, rule or group does not fit; a weight is negative, infinite
            or NaN, where its value is known; or each channel has but one value (unless `where` or
            `axis_name` hides how many there are).

    Example:
        >>> import jax.numpy as jnp
        >>> y, moments = batch_norm(jnp.array([[1.0, 10.0], [3.0, 30.0]]), eps=0.0)
        >>> print(y)
        [[-1. -1.]
         [ 1.  1.]]
        >>> print(moments.mean, moments.var)
        [ 2. 20.] [  1. 100.]
    """
    x = _checks.floating("batch_norm", "x", x)
    features = _checks.feature_axes("batch_norm", x, axis)
    if gamma is not None:
        gamma = _checks.per_channel("batch_norm", "gamma", gamma, x, features)
    if beta is not None:
        beta = _checks.per_channel("batch_norm", "beta", beta, x, features)
    weights = _checks.sample_weights("batch_norm", where, x)
    _checks.finite_eps("batch_norm", eps)
    if rule not in RULES:
        raise ValueError(_checks.unknown_name("batch_norm", "rule", rule, RULES))
    if weights is None and axis_name is None:
        _checks.several_samples("batch_norm", x, features)
    x, gamma, beta, axes = collectives.resolve(
        "batch_norm", x, weights, gamma, beta, axis_name, axis_index_groups
    )
    config = RuleConfig(features, float(eps), axes)
    over_vmap = rule != "autodiff" and collectives.split_vmapped(axes)[1].names
    normalize_batch = normalize_over_vmap if over_vmap else RULES[rule]
    y, moments = normalize_batch(config, x, gamma, beta, weights)
    shape = [x.shape[a] for a in features]
    return y, Moments(*(part.reshape(shape) for part in moments))


def normalize(
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
) -> Array:
    """Normalize with given statistics, sample by sample: y = γ (x − μ) r + β (P.3).

    Args:
        x: Any floating array.
        mean: μ: x's feature axes, in x's order.
        var: σ² ≥ 0, the same shape.
        gamma: γ, the same shape. None stands for 1.
        beta: β, the same shape. None stands for 0.
        axis: The feature axis or axes.
        eps: ε ≥ 0, static. Where σ² + ε = 0, y = β.

    Returns:
        y, of x's shape and dtype. Each sample's y depends on that sample alone, to the last bit,
        whatever its place and company.

    Raises:
        TypeError: An argument is not floating.
        ValueError: A shape, axis or eps does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> x, mean, var = jnp.array([[1.0], [5.0]]), jnp.array([3.0]), jnp.array([4.0])
        >>> print(normalize(x, mean, var, eps=0.0))
        [[-1.]
         [ 1.]]
    """
    x = _checks.floating("normalize", "x", x)
    features = _checks.feature_axes("normalize", x, axis)
    _checks.finite_eps("normalize", eps)
    if mean is None or var is None:
        raise TypeError("normalize: `mean` and `var` are required; got None.")
    mean = _checks.per_channel("normalize", "mean", mean, x, features)
    var = _checks.per_channel("normalize", "var", var, x, features)
    if gamma is not None:
        gamma = _checks.per_channel("normalize", "gamma", gamma, x, features)
    if beta is not None:
        beta = _checks.per_channel("normalize", "beta", beta, x, features)
    config = RuleConfig(features, float(eps))
    return normalize_with(config, x, mean, var, gamma, beta)
