"""Batch renormalization: a batch normalized by its own moments, corrected to given statistics.

(R.1)  y = γ (λ x̂ + τ) + β
(R.1)  λ = clip(r_BN/r, 1/λ_max, λ_max),  τ = clip((μ − μ_BN) r_BN, −τ_max, τ_max)

λ and τ, r and d in the paper, are constants to differentiation. Source: Ioffe 2017.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from bnjax import _checks, collectives
from bnjax._checks import Axis
from bnjax.collectives import Names
from bnjax.layout import accumulator_dtype
from bnjax.moments import Moments
from bnjax.norm import check_and_normalize
from bnjax.population import PopulationState
from bnjax.rules.correction import GivenStatistics


def renorm(
    x: ArrayLike,
    statistics: PopulationState | tuple[ArrayLike, ArrayLike],
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    r_max: ArrayLike = 3.0,
    d_max: ArrayLike = 5.0,
    r_min: ArrayLike | None = None,
    axis: Axis = -1,
    eps: float = 1e-5,
    where: ArrayLike | None = None,
    axis_name: Names = None,
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None,
    rule: str = "vjp",
    dtype: DTypeLike | None = None,
    masked: str = "beta",
    allow_single_value: bool = False,
) -> tuple[Array, Moments]:
    """Normalize a batch with its own moments, corrected to running statistics: R.1.

    Training then sees about the y of evaluation, y = γ (x − μ_BN) r_BN + β (P.3), which within the
    bounds it equals; the gradient is that of batch normalization with γ λ for γ. At r_max = 1 and
    d_max = 0 y is that of `batch_norm`.

    Args:
        x: The batch, as in `batch_norm`.
        statistics: μ_BN and σ²_BN ≥ 0, constants: x's feature axes, in x's order, each. Or a
            `PopulationState`, whose mean is then read in two floats; a channel of it that has seen
            no batch is normalized as by `batch_norm`.
        gamma: γ, the scale: x's feature axes, in x's order. None stands for 1.
        beta: β, the shift: the same shape. None stands for 0.
        r_max: λ_max ≥ 1, the bound of the ratio λ of the standard deviations, and of 1/λ: one
            number, or one for each channel. May be traced, as in a schedule; inf for none.
        d_max: τ_max ≥ 0, the bound of |τ|, the difference of the means in running standard
            deviations: as `r_max`.
        r_min: Where λ has a lower bound of its own, between 0 and r_max; None for 1/r_max.
        axis: The feature axis or axes; all others are averaged over.
        eps: ε ≥ 0, added to both variances; static. Where σ² + ε = 0, x̂ = 0; where σ²_BN + ε = 0,
            r_BN counts as 0.
        where: Mask or weights, as in `batch_norm`.
        axis_name: Mesh or vmapped axes over which the batch is spread, as in `batch_norm`.
        axis_index_groups: Groups of devices that normalize among themselves, as in `batch_norm`.
        rule: How it is differentiated: "vjp", "jvp" or "autodiff", as in `batch_norm`.
        dtype: Of y; None for x's.
        masked: What y is where w = 0. "beta": β. "normalize": what it is elsewhere, with the same
            moments, λ and τ. With no weight in a channel, y is β there.
        allow_single_value: Whether each channel may have but one value. Then y = γ τ + β.

    Returns:
        y, of x's shape and of `dtype`, and the `Moments` of the batch (biased variance), with which
        the statistics are to be updated after the call. y is differentiable in x, γ and β, the
        moments in x; λ and τ are constants to differentiation, and so are the statistics and both
        bounds.

    Raises:
        TypeError: An argument has a dtype that cannot be normalized, or statistics are missing.
        ValueError: A shape or option does not fit; a bound is out of its range, where known; and
            whatever `batch_norm` refuses.

    Example:
        >>> import jax.numpy as jnp
        >>> x, statistics = jnp.array([[1.0], [3.0]]), (jnp.array([1.0]), jnp.array([4.0]))
        >>> y, moments = renorm(x, statistics, eps=0.0)
        >>> print(y[:, 0], moments.mean, moments.var)  # λ = 1/2, τ = 1/2: (x − 1)/2
        [0. 1.] [2.] [1.]
        >>> print(renorm(x, statistics, r_max=1.0, d_max=0.25, eps=0.0)[0][:, 0])
        [-0.75  1.25]
    """
    x = _checks.batch("renorm", x)
    features = _checks.feature_axes("renorm", x, axis)
    given = _given_statistics(x, features, statistics, (r_min, r_max, d_max))
    # devices that compare with statistics of their own have γ̄ and β̄ of their own, which add up
    vary = collectives.varying(*given)
    gamma, beta = (
        v if v is None else collectives.to_varying(jnp.asarray(v), vary) for v in (gamma, beta)
    )
    return check_and_normalize(
        "renorm",
        x,
        gamma,
        beta,
        given,
        axis=features,
        eps=eps,
        where=where,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
        rule=rule,
        dtype=dtype,
        masked=masked,
        allow_single_value=allow_single_value,
        mean_guess=given.mean.reshape([x.shape[a] for a in features]),
    )


def _given_statistics(
    x: Array,
    features: tuple[int, ...],
    statistics: PopulationState | tuple[ArrayLike, ArrayLike],
    bounds: tuple[ArrayLike | None, ArrayLike, ArrayLike],
) -> GivenStatistics:
    """Check statistics and bounds, and return them as constant vectors in the sums' dtype."""
    state = statistics if isinstance(statistics, PopulationState) else None
    pair = statistics if state is None else (state.mean, state.var)
    if not isinstance(pair, tuple) or len(pair) != 2 or any(part is None for part in pair):
        raise TypeError(
            f"renorm: `statistics` must be (mean, var) or a PopulationState; got {statistics!r}."
        )

    def vector(name: str, value: ArrayLike) -> Array:
        return _checks.per_channel("renorm", name, value, x, features)

    mean, var = map(vector, ("mean", "var"), pair)
    limits = [vector(name, bound) for name, bound in _bounds(*bounds, x, features).items()]
    remainder = jnp.zeros_like(mean)
    if state is not None:
        remainder = vector("remainder", state.remainder)
        # nothing to compare with yet: λ = 1, τ = 0
        seen = vector("batches", state.batches.astype(mean.dtype)) > 0
        limits = [jnp.where(seen, a, none) for a, none in zip(limits, (1, 1, 0), strict=True)]
    return lax.stop_gradient(GivenStatistics(mean, remainder, var, *limits))


def _bounds(
    r_min: ArrayLike | None,
    r_max: ArrayLike,
    d_max: ArrayLike,
    x: Array,
    features: tuple[int, ...],
) -> dict[str, Array]:
    """Return each channel's bounds; refuse what is known to be out of range."""
    shape = tuple(x.shape[a] for a in features)

    def bound(name: str, value: ArrayLike, least: int) -> Array:
        with jax.ensure_compile_time_eval():  # under jit, too, what is not traced is known
            array = jnp.asarray(value)
            valid = not _checks.known(array) or bool(jnp.all(array >= least))
        if array.shape not in ((), shape):
            raise ValueError(
                f"renorm: `{name}` must be one number, or one for each channel with shape "
                f"{shape}; got {array.shape}."
            )
        if not valid:
            raise ValueError(f"renorm: `{name}` must be >= {least}; got {value}.")
        return jnp.broadcast_to(array.astype(accumulator_dtype(x.dtype)), shape)

    upper = bound("r_max", r_max, 1 if r_min is None else 0)
    lower = 1 / upper if r_min is None else bound("r_min", r_min, 0)
    return {"r_min": lower, "r_max": upper, "d_max": bound("d_max", d_max, 0)}


def relaxed_bounds(
    steps: ArrayLike,
    r_max: ArrayLike = 3.0,
    d_max: ArrayLike = 5.0,
    *,
    warm_up_steps: int = 5000,
    r_max_steps: int | None = 40_000,
    d_max_steps: int | None = 25_000,
) -> tuple[Array, Array]:
    """Return the bounds for a step of training: those of batch normalization, then relaxed.

    λ_max is 1 and τ_max 0 while `steps` < `warm_up_steps`; from there on both grow linearly.

    Args:
        steps: The steps of training before this one; may be traced.
        r_max: λ_max at the end; finite where it grows over several steps.
        d_max: τ_max at the end; the same.
        warm_up_steps: How many steps are those of batch normalization.
        r_max_steps: The step at which λ_max is `r_max`; None for at once, after the warm-up.
        d_max_steps: The step at which τ_max is `d_max`; None for at once.

    Returns:
        λ_max and τ_max, float32: `r_max` and `d_max` of `renorm`. The defaults are those of the
        paper's experiments.

    Example:
        >>> for steps in (4_999, 22_500, 40_000):
        ...     r_max, d_max = relaxed_bounds(steps)
        ...     print(r_max, d_max)
        1.0 0.0
        2.0 4.375
        3.0 5.0
    """

    def part(end: int | None) -> Array:
        after = jnp.asarray(steps, jnp.float32) - warm_up_steps
        whole = 0 if end is None else end - warm_up_steps
        return jnp.where(after < 0, 0, 1 if whole <= 0 else jnp.minimum(after / whole, 1))

    def relaxed(start: int, end: ArrayLike, part: Array) -> Array:
        growth = jnp.asarray(end, jnp.float32) - start
        return start + jnp.where(part > 0, part * growth, 0)  # without bound too, in the end

    return relaxed(1, r_max, part(r_max_steps)), relaxed(0, d_max, part(d_max_steps))
