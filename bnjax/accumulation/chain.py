"""A micro-batch within its large batch: segments, and normalizations with the moments of the whole.

(BN.3)  y = γ x̂ + β
(D.18)  x̄ = γ r ȳ⁺ + (w/n) [μ̄ + 2 σ̄² (x − μ)]

c₁ and c₂ of `kernel`, formed from sums over the large batch, are μ̄ and 2 σ̄²/a.

Source: the derivation is ours.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from bnjax import _checks
from bnjax.kernel import Projections
from bnjax.layout import Layout, accumulator_dtype, by_platform
from bnjax.moments import SplitMoments
from bnjax.rules.forward import RuleConfig, scale_and_shift
from bnjax.rules.vjp import Residuals, pull_back_samples

# (θ, inputs) or (θ, (y, rest)) -> (x, rest); the last one: (θ, (y, rest), targets) -> C_s
Segment = Callable[..., Any]

FUNCTION = "accumulation.accumulate_gradient"


class MicroBatch(NamedTuple):
    """What a sweep reads of the micro-batches besides their inputs: of one, or of all, stacked."""

    targets: Any
    weights: Array | None  # w, (b,)
    fractions: Array  # w/Σ w over the large batch, (b,)


class Normalization(NamedTuple):
    """What is known of a normalization: γ, β, the moments of the large batch, q = r/a; c₁, c₂."""

    gamma: Array | None
    beta: Array | None
    split: SplitMoments
    inv_std: Array
    c: Projections | None = None


class SegmentChain(NamedTuple):
    """The segments, and what is known of the normalizations between them so far.

    Place l is right before normalization l, where (x, rest) is; place 0 is at the inputs.
    """

    segments: tuple[Segment, ...]
    thetas: tuple[Any, ...]
    axis: int
    eps: float
    batch: MicroBatch
    kept: dict[int, Any]  # what is kept of all micro-batches, by place
    normalizations: tuple[Normalization, ...] = ()


def run_segment(chain: SegmentChain, at: int, batch: MicroBatch) -> Callable[[Any, Any], Any]:
    """Return segment number `at` of (θ, carry); the last one as this micro-batch's part of C."""
    if at < len(chain.segments) - 1:
        return chain.segments[at]
    targets = zero_without_weight(batch.targets, batch)

    def part_of_cost(theta: Any, carry: Any) -> Array:
        values = chain.segments[at](theta, carry, targets)
        return jnp.sum(jnp.where(batch.fractions != 0, batch.fractions * values, 0))  # BL.2

    return part_of_cost


def segment_input(chain: SegmentChain, at: int, state: Any, batch: MicroBatch) -> Any:
    """Return what segment number `at` reads: the inputs, or (y, rest) with the large batch's y."""
    if at == 0:
        return zero_without_weight(state, batch)  # as in `network.run_layers`
    x, rest = state
    config = part_config(chain, x)
    residuals = part_residuals(chain, at, x, batch)
    _, _, beta, w, split, *_ = residuals
    scale = residuals.scale()  # γ r

    def normalized(layout: Layout) -> Array:
        return scale_and_shift(config, layout, x, split, scale, beta, None, w)

    return by_platform(x, config.features, normalized), rest


def pull_back_part(
    chain: SegmentChain, place: int, state: Any, batch: MicroBatch, carry_bar: Any
) -> Any:
    """Pull the cotangent of (y, rest) back to (x, rest) with the large batch's sums (D.18)."""
    (x, _), (y_bar, rest_bar) = state, carry_bar
    c = chain.normalizations[place - 1].c
    assert c is not None
    residuals = part_residuals(chain, place, x, batch)
    return pull_back_samples(part_config(chain, x), residuals, y_bar, c), rest_bar


def part_residuals(chain: SegmentChain, place: int, x: Array, batch: MicroBatch) -> Residuals:
    """Return the residuals of a micro-batch, with the moments of the large batch."""
    gamma, beta, split, inv_std, _ = chain.normalizations[place - 1]
    return Residuals(x, gamma, beta, weights_like(x, batch), split, inv_std, None)


def part_config(chain: SegmentChain, x: Array) -> RuleConfig:
    """Return the configuration of the rule for a normalization's x."""
    features = _checks.feature_axes(FUNCTION, _checks.floating(FUNCTION, "x", x), chain.axis)
    if 0 in features:
        raise ValueError(
            f"{FUNCTION}: `axis` must not be that of the samples, the first one of each x; got "
            f"{chain.axis} for an x of shape {x.shape}."
        )
    return RuleConfig(features, chain.eps)


def weights_like(x: Array, batch: MicroBatch) -> Array | None:
    """Return w with x's rank, in the sums' dtype."""
    if batch.weights is None:
        return None
    w = batch.weights.astype(accumulator_dtype(x.dtype))
    return lax.expand_dims(w, range(1, x.ndim))


def zero_without_weight(tree: Any, batch: MicroBatch) -> Any:
    """Return a micro-batch's arrays, 0 where the weight is: NaN there would reach a sum."""
    w = batch.weights

    def zeroed(a: Array) -> Array:
        return jnp.where(lax.expand_dims(w != 0, range(1, a.ndim)), a, jnp.zeros_like(a))

    return tree if w is None else jax.tree.map(zeroed, tree)
