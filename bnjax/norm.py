"""Batch normalization over the sample axes: the public functions.

(BN.2)  x̂ = (x − μ) r,  r = (σ² + ε)^(−1/2)
(BN.3)  y = γ x̂ + β
(D.17)  x̂ = 0, y = β where w = 0
(P.3)   y = γ (x − μ) r + β

Source: S0/S1 §2, S3; Ioffe & Szegedy 2015.
"""

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from bnjax import _checks, _marks, collectives, kernel
from bnjax._checks import Axis
from bnjax.collectives import Names
from bnjax.layout import accumulator_dtype
from bnjax.moments import Moments, SplitMoments
from bnjax.rules import MASKED, RULES, RuleConfig, normalize_over_vmap, normalize_with
from bnjax.rules.correction import GivenStatistics, compare


def batch_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
    where: ArrayLike | None = None,
    axis_name: Names = None,
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None,
    rule: str = "vjp",
    dtype: DTypeLike | None = None,
    masked: str = "beta",
    allow_single_value: bool = False,
    mean_guess: ArrayLike | None = None,
) -> tuple[Array, Moments]:
    """Normalize a batch with its own moments, then scale and shift: BN.2, BN.3, D.17.

    Args:
        x: The batch: any floating array with at least one feature and one sample axis; integers
            are converted to JAX's default float.
        gamma: γ, the scale: x's feature axes, in x's order. None stands for 1.
        beta: β, the shift: the same shape. None stands for 0.
        axis: The feature axis or axes; all others are averaged over.
        eps: ε ≥ 0, added to the variance; static. Where σ² + ε = 0, y = β and the gradient is 0.
        where: None, a boolean mask or finite weights w ≥ 0, broadcastable to x, whose scale does
            not matter. Values under a zero weight shape no moments, whatever they are; y there is
            as `masked` says. Weights are constants. Where they are traced, a weight that is
            negative, infinite or NaN makes all results of its channel NaN.
        axis_name: Mesh or vmapped axes over which the batch is spread, under `shard_map`, `pmap`
            or `vmap`: one name or a tuple of names. The moments are those of the whole, whatever
            weight each shard has. One all_gather forward, one psum backward. Over an axis of `vmap`
            the moments are not mapped (`out_axes=None`), and "vjp" and "jvp" are one rule, which
            works in every mode.
        axis_index_groups: Groups of devices that normalize among themselves, all of one size;
            under `pmap` and `shard_map(check_vma=False)`.
        rule: How it is differentiated. "vjp": by the hand-derived pull-back, which saves x itself
            and per-channel vectors; in reverse mode only. "jvp": by the hand-derived
            push-forward, in every mode (`jax.jvp` and `jacfwd` too); without `jit` its gradient
            takes twice as long. "autodiff": by JAX, as the plain reference.
        dtype: Of y; None for x's. x itself is read as it is, never copied first.
        masked: What y is where w = 0. "beta": β, and x there influences nothing. "normalize":
            γ (x − μ) r + β with the moments of the others, and derivatives to match; NaN where x
            is not finite, which influences nothing. With no weight in a channel, y is β there.
        allow_single_value: Whether each channel may have but one value, as when a model is
            initialized on one sample. Then y = β, the variance is 0, and so are the gradients of y
            in x and γ.
        mean_guess: None, or about μ, as a running mean is: x's feature axes, a constant. On
            accelerators x is summed around it, or around 0 at first, and in one more pass where
            that lies more than 2 σ from the mean. It influences rounding alone, and nothing on a
            CPU.

    Returns:
        y, of x's shape and of `dtype`, and the `Moments` of the batch (biased variance). All three
        of y, mean and var are differentiable in x, y in γ and β too.

    Raises:
        TypeError: x, gamma, beta, where or mean_guess has a dtype that cannot be normalized, or
            `dtype` is not floating.
        ValueError: A shape, axis, eps, rule, masked or group does not fit; a weight is negative,
            infinite or NaN, where its value is known; or each channel has but one value (unless
            that is allowed, or `where` or `axis_name` hides how many there are).

    Example:
        >>> import jax.numpy as jnp
        >>> y, moments = batch_norm(jnp.array([[1.0, 10.0], [3.0, 30.0]]), eps=0.0)
        >>> print(y)
        [[-1. -1.]
         [ 1.  1.]]
        >>> print(moments.mean, moments.var)
        [ 2. 20.] [  1. 100.]

        The last two samples are normalized with the moments of the first two:

        >>> x, where = jnp.array([[1.0], [3.0], [5.0], [2.0]]), jnp.array([[1], [1], [0], [0]])
        >>> print(batch_norm(x, where=where, eps=0.0)[0][:, 0])
        [-1.  1.  0.  0.]
        >>> print(batch_norm(x, where=where, eps=0.0, masked="normalize")[0][:, 0])
        [-1.  1.  3.  0.]
    """
    return check_and_normalize(
        "batch_norm",
        x,
        gamma,
        beta,
        axis=axis,
        eps=eps,
        where=where,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
        rule=rule,
        dtype=dtype,
        masked=masked,
        allow_single_value=allow_single_value,
        mean_guess=mean_guess,
    )


def check_and_normalize(
    function: str,
    x: ArrayLike,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    given: GivenStatistics | None = None,
    *,
    axis: Axis,
    eps: float,
    where: ArrayLike | None,
    axis_name: Names,
    axis_index_groups: tuple[tuple[int, ...], ...] | None,
    rule: str,
    dtype: DTypeLike | None,
    masked: str,
    allow_single_value: bool,
    mean_guess: ArrayLike | None,
) -> tuple[Array, Moments]:
    """Check the arguments of `batch_norm` and `renorm`, and normalize with the batch's moments."""
    x = _checks.batch(function, x)
    features = _checks.feature_axes(function, x, axis)
    if gamma is not None:
        gamma = _checks.per_channel(function, "gamma", gamma, x, features)
    if beta is not None:
        beta = _checks.per_channel(function, "beta", beta, x, features)
    if mean_guess is not None:
        mean_guess = _checks.per_channel(function, "mean_guess", mean_guess, x, features)
        mean_guess = lax.stop_gradient(mean_guess)
    weights = _checks.sample_weights(function, where, x)
    dtype = check_options(function, eps, rule, masked, dtype)
    if weights is None and axis_name is None:
        if allow_single_value and _checks.single_value(x, features):
            y, found = _normalize_single_value(x, gamma, beta, given, features, float(eps), dtype)
            if _marks.observing.value:
                mark = _marks.new_mark(x, features, float(eps), "each channel has one value", 0)
                y = _marks.put(mark._replace(role="y"), y)
            return y, found
        _checks.several_samples(function, x, features)
    constants = weights, mean_guess, *(given or ())
    x, gamma, beta, axes = collectives.resolve(
        function, x, gamma, beta, constants, axis_name, axis_index_groups
    )
    config = RuleConfig(features, float(eps), axes, masked, dtype)
    over_vmap = rule != "autodiff" and collectives.split_vmapped(axes)[1].names
    rule_applied = normalize_over_vmap if over_vmap else RULES[rule]
    arguments = x, gamma, beta, weights, mean_guess, given
    if _marks.observing.value:
        y, moments = _normalize_marked(rule_applied, config, *arguments)
    else:
        y, moments = rule_applied(config, *arguments)
    shape = [x.shape[a] for a in features]
    return y, Moments(*(part.reshape(shape) for part in moments if part is not None))


def _normalize_marked(rule, config, x, gamma, beta, weights, mean_guess, given):
    """Normalize by a rule, and mark x, γ and y for `geometry.observe_function`."""
    on_mesh, vmapped = collectives.split_vmapped(config.axes)
    obstacles = {
        "it is batch renormalization": given is not None,
        "it has sample weights or a mask": weights is not None,
        "it normalizes over several devices": bool(on_mesh.names),
    }
    obstacle = next((text for text, found in obstacles.items() if found), "")
    mark = _marks.new_mark(x, config.features, config.eps, obstacle, len(vmapped.names))
    x = _marks.put(mark, x)
    if gamma is not None:
        gamma = _marks.put(mark._replace(role="gamma", ndim=gamma.ndim), gamma)
    y, moments = rule(config, x, gamma, beta, weights, mean_guess, given)
    return _marks.put(mark._replace(role="y"), y), moments


def check_options(
    function: str, eps: float, rule: str, masked: str, dtype: DTypeLike | None
) -> jnp.dtype | None:
    """Check the static options of a normalization; return y's dtype, or None for x's."""
    _checks.finite_eps(function, eps)
    if rule not in RULES:
        raise ValueError(_checks.unknown_name(function, "rule", rule, RULES))
    if masked not in MASKED:
        raise ValueError(_checks.unknown_name(function, "masked", masked, MASKED))
    return _checks.result_dtype(function, dtype)


def _normalize_single_value(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    given: GivenStatistics | None,
    features: tuple[int, ...],
    eps: float,
    dtype: DTypeLike | None,
) -> tuple[Array, Moments]:
    """Return y and the moments where each channel has one value: x̂ = 0, to the last bit (BN.3)."""
    mean = x.astype(accumulator_dtype(x.dtype)).reshape([x.shape[a] for a in features])
    zero = lax.stop_gradient(mean - mean)  # NaN where x is not finite
    y = zero if beta is None else zero + beta.reshape(zero.shape)
    if given is not None:  # β + γ τ
        vectors = (v.reshape(-1) for v in (mean, zero, zero + 1, zero, zero + 1, zero + 1))
        inv_std = kernel.inverse_std(zero.reshape(-1), eps)
        offset = compare(SplitMoments(*vectors), inv_std, given, eps).offset
        y += (offset if gamma is None else gamma * offset).reshape(zero.shape)
    return y.astype(dtype or x.dtype).reshape(x.shape), Moments(mean, zero, jnp.ones_like(mean))


def normalize(
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
    dtype: DTypeLike | None = None,
) -> Array:
    """Normalize with given statistics, sample by sample: y = γ (x − μ) r + β (P.3).

    Args:
        x: Any floating array of at least two axes; integers are converted to JAX's default float.
        mean: μ: x's feature axes, in x's order.
        var: σ² ≥ 0, the same shape.
        gamma: γ, the same shape. None stands for 1.
        beta: β, the same shape. None stands for 0.
        axis: The feature axis or axes.
        eps: ε ≥ 0, static. Where σ² + ε = 0, y = β.
        dtype: Of y; None for x's.

    Returns:
        y, of x's shape and of `dtype`. Each sample's y depends on that sample alone, to the last
        bit, whatever its place and company.

    Raises:
        TypeError: An argument, or `dtype`, is not floating.
        ValueError: A shape, axis or eps does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> x, mean, var = jnp.array([[1.0], [5.0]]), jnp.array([3.0]), jnp.array([4.0])
        >>> print(normalize(x, mean, var, eps=0.0))
        [[-1.]
         [ 1.]]
    """
    x = _checks.batch("normalize", x)
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
    config = RuleConfig(features, float(eps), dtype=_checks.result_dtype("normalize", dtype))
    return normalize_with(config, x, mean, var, gamma, beta)
