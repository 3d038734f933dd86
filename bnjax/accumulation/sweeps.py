"""The gradient of a large batch from its micro-batches, exactly: gradient accumulation.

(P.5)   E[x] = Σ_k n_k μ_k / N,  Var[x] = Σ_k n_k [σ_k² + (μ_k − E[x])²] / N
(D.18)  μ̄ = −γ r Σ_s ȳ⁺_s,  σ̄² = −½ γ r³ Σ_s ȳ⁺_s (x_s − μ),
        x̄ = γ r ȳ⁺ + (w/n) [μ̄ + 2 σ̄² (x − μ)]

A sample reaches the others of its batch through μ and σ² alone. Forward, a micro-batch needs from
the rest of the large batch two numbers per channel, and backward two more, μ̄ and σ̄², both sums over
the micro-batches. So one normalization takes two sweeps over the micro-batches each way: one for
its sums, one that uses them.

Of a chain of L normalizations each needs the moments of those below it, and its pull-back the sums
of those above it. L + 1 sweeps go forward and L + 1 back; the last forward and the first back are
one. A sweep recomputes each micro-batch from the nearest place below that was kept: from the inputs
or, with `keep_every`, from the x of a normalization.

The sums are those of the pull-back in `rules.vjp`, which one batch forms and uses at once.

Source: the derivation is ours; Chan, Golub & LeVeque 1983 for the moments.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from bnjax import _checks, kernel
from bnjax.accumulation.chain import (
    FUNCTION,
    MicroBatch,
    SegmentChain,
    part_config,
    part_residuals,
    pull_back_part,
    run_segment,
    segment_input,
    weights_like,
)
from bnjax.kernel import Projections
from bnjax.layout import accumulator_dtype, by_platform
from bnjax.moments import SplitMoments
from bnjax.rules.forward import local_moments
from bnjax.rules.vjp import pull_back_sums


class _Sums(NamedTuple):
    """What a sweep back sums over the micro-batches; None where there is no normalization below.

    Attributes:
        cost: C; 0 in a sweep that does not begin at the cost.
        theta_bar: θ̄ of the segment.
        inner: Σ ȳ⁺ and Σ ȳ⁺ (z − a e) of the normalization below it.
        beta_bar: β̄ of that normalization.
    """

    cost: Array
    theta_bar: Any
    inner: Projections | None
    beta_bar: Array | None


def sweep_forward(chain: SegmentChain, place: int, keep: bool) -> tuple[SplitMoments, Any]:
    """Return the moments of each micro-batch at a place, (K, channels), and what to keep there."""
    start = max(kept for kept in chain.kept if kept < place)
    several = chain.batch.weights is not None or len(chain.batch.fractions) > 1

    def step(_: None, part: tuple[Any, MicroBatch]) -> tuple[None, Any]:
        state, batch = part
        for at in range(start, place):
            run = run_segment(chain, at, batch)
            state = run(chain.thetas[at], segment_input(chain, at, state, batch))
        x, _ = state
        config, w = part_config(chain, x), weights_like(x, batch)
        if not several:
            _checks.several_samples(FUNCTION, x, config.features)
        split = by_platform(
            x, config.features, lambda layout: local_moments(config, layout, x, w, None)
        )
        return None, (split, state if keep else None)

    return lax.scan(step, None, (chain.kept[start], chain.batch))[1]


def sweep_all_back(chain: SegmentChain) -> tuple[Array, tuple[Any, ...]]:
    """Return C and the gradient in params: one sweep for each segment, last to first."""
    cost, above = jnp.zeros(()), None
    bars: list[Any] = []
    for place in reversed(range(len(chain.segments))):
        sums, input_bars = _sweep_back(chain, place, above)
        if above is None:
            cost = sums.cost
        if place + 1 == len(chain.segments):
            bars = [sums.theta_bar]
        else:
            bars[0] = sums.theta_bar, *bars[0]
        if sums.inner is not None:
            below = chain.normalizations[place - 1]
            chain = _with_sums(chain, place, sums.inner)
            gamma_bar = below.inv_std * sums.inner.deviations  # D.5
            bars.insert(
                0,
                (
                    None if below.gamma is None else gamma_bar,
                    None if below.beta is None else sums.beta_bar,
                ),
            )
        above = (place, input_bars) if place in chain.kept else above
    return cost, tuple(bars)


def _with_sums(chain: SegmentChain, place: int, inner: Projections) -> SegmentChain:
    """Return the chain with c₁ and c₂ of a normalization: μ̄ and 2 σ̄²/a (D.18)."""
    known = list(chain.normalizations)
    one = known[place - 1]
    scale = kernel.scale(one.gamma, one.inv_std * one.split.unit)  # γ r
    known[place - 1] = one._replace(c=kernel.coefficients(inner, scale, one.inv_std))
    return chain._replace(normalizations=tuple(known))


def _sweep_back(
    chain: SegmentChain, place: int, above: tuple[int, Any] | None
) -> tuple[_Sums, Any]:
    """Pull every micro-batch back to the input of segment number `place`, and sum.

    Args:
        chain: The chain, with c₁ and c₂ of every normalization above the segment.
        place: The number of the segment, and of the normalization below it.
        above: The nearest place above that was kept, and the cotangents of the inputs of its
            segment; None where the sweep begins at the cost.

    Returns:
        The sums, and, if the place was kept, the cotangents of the segment's inputs.
    """
    start = max(kept for kept in chain.kept if kept <= place)
    end, end_bars = above or (len(chain.segments), None)
    end_states = None if above is None else chain.kept[end]

    def step(total: _Sums, part: tuple[Any, ...]) -> tuple[_Sums, Any]:
        sums, input_bar = _pull_back_from(chain, place, start, end, *part)
        total = jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, sums)
        return total, input_bar if place in chain.kept else None

    none = None if place == 0 else jnp.zeros_like(chain.normalizations[place - 1].inv_std)
    zero = _Sums(
        jnp.zeros_like(chain.batch.fractions[0, 0]),
        jax.tree.map(lambda p: jnp.zeros(p.shape, accumulator_dtype(p.dtype)), chain.thetas[place]),
        None if none is None else Projections(none, none),
        none,
    )
    return lax.scan(step, zero, (chain.kept[start], chain.batch, end_states, end_bars))


def _pull_back_from(
    chain: SegmentChain,
    place: int,
    start: int,
    end: int,
    state: Any,
    batch: MicroBatch,
    end_state: Any,
    input_bar: Any,
) -> tuple[_Sums, Any]:
    """Run a micro-batch from the place `start` to `end`, and pull it back to `place`."""
    states, pulls = {start: state}, {}
    for at in range(start, end):
        carry = segment_input(chain, at, states[at], batch)
        run = run_segment(chain, at, batch)
        states[at + 1], pulls[at] = jax.vjp(run, chain.thetas[at], carry)
    cost, theta_bar = jnp.zeros_like(batch.fractions[0]), None
    if end_state is not None:
        states[end] = end_state  # kept: not to be computed again
    for at in reversed(range(place, end)):
        if at + 1 == len(chain.segments):
            cost, bar = states[at + 1], jnp.ones_like(cost)
        else:
            bar = pull_back_part(chain, at + 1, states[at + 1], batch, input_bar)
        theta_bar, input_bar = pulls[at](bar)
    if place == 0:
        return _Sums(cost, theta_bar, None, None), None
    x, _ = states[place]
    residuals = part_residuals(chain, place, x, batch)
    sums = pull_back_sums(part_config(chain, x), residuals, input_bar[0])
    return _Sums(cost, theta_bar, *sums), input_bar
