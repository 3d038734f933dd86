"""A network's geometry in few numbers: what fits into the record of a long training.

(G.1)  how cos θ1, cos θ2 and cos θ3 are distributed
(G.6)  how many neurons and weights stopped

One pure function, jitted or not, to be called every few epochs on the same batch: one sweep
forward and back, one matrix product more for each layer, and nothing is sorted. All layers are
filled up with zeros to one shape and looked at together: compiling them one by one would take
longer than hundreds of calls.

Source: S0/S1 §3, S3.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from bnjax import backprop
from bnjax.activations import Activation
from bnjax.geometry import layers as of_layers
from bnjax.geometry import stopping
from bnjax.geometry.angles import Angles, between, of_normalization
from bnjax.geometry.layers import SATURATED
from bnjax.geometry.parts import gamma_gradient, propagated, weight_parts
from bnjax.geometry.stopping import ALIGNED
from bnjax.geometry.vectors import Normal, length, normals
from bnjax.layout import accumulator_dtype
from bnjax.network import Network, NormDense, Params

COSINE_BINS = 40
PERCENTILES = (5.0, 25.0, 50.0, 75.0, 95.0)
_FINE_BINS = 512

Tree = TypeVar("Tree")
_NORMALIZED = (
    *("handed_to_gamma", "stopped", "synced", "largest_group", "eps_share", "removed"),
    "gamma_bar",
)


class Summary(NamedTuple):
    """A network on one batch, some 140 numbers a layer; the first axis is the layer, (L, ...).

    Attributes:
        cos1: Shares of the neurons whose cos θ1 falls into each of 40 equal bins from −1 to 1,
            (L, 40), of those that have one; all zero if none has.
        cos2: The same of the weights' cos θ2, (L, 40).
        cos3: The same of the weights' cos θ3, (L, 40).
        dead: Share of the neurons that no error reaches, (L,).
        error: |Δ| of the whole layer, root of the sum of squares, (L,).
        propagated: |∂C/∂x| of the whole layer, which the layer below gets its error from, (L,).
        W: |W_i|, root of the mean square over the neurons, (L,).
        turning: 1/|W_i|², mean over the neurons: times η the effective learning rate, (L,).
        cosine: |cos| between W_i and ∂C/∂W_i, mean over the neurons, (L,) (BN.5).
        W_bar: ∂C/∂W_ji, root of the mean square over the weights, (L,): the adjustment for η = 1.
        covariance: Its part amplitude · bracket, from deviations alone, (L,) (G.2, G.3).
        means: Its part B ⟨Δ⟩⟨u⟩, which normalization removes, (L,): 0 with it (G.3).
        handed_to_gamma: Share of the neurons with sin θ1 ≈ 0; this and the next six are of the
            normalized layers only, (N,).
        stopped: Share of the weights with sin θ2 ≈ 0, (N,).
        synced: Share of the neurons with a group of synced inputs, (N,).
        largest_group: Inputs in the largest such group, (N,) int32.
        eps_share: 1 − ρ², mean over the neurons, (N,).
        removed: `Removed.share`, mean over the neurons, (N,).
        gamma_bar: ∂C/∂γ_i, root of the mean square, (N,).
        saturated: Share of (sample, neuron) with |g'| ≈ 0; this and the next four are of the
            hidden layers only, (L − 1,).
        percentiles: `PERCENTILES` of what is activated, all neurons together, (L − 1, 5), to
            1/1000 of the distance between smallest and largest.
        directions: Of its outputs, as in `Spread`, (L − 1,).
        correlation: The same, (L − 1,).
        constant: The same, (L − 1,).
    """

    cos1: Array
    cos2: Array
    cos3: Array
    dead: Array
    error: Array
    propagated: Array
    W: Array
    turning: Array
    cosine: Array
    W_bar: Array
    covariance: Array
    means: Array
    handed_to_gamma: Array
    stopped: Array
    synced: Array
    largest_group: Array
    eps_share: Array
    removed: Array
    gamma_bar: Array
    saturated: Array
    percentiles: Array
    directions: Array
    correlation: Array
    constant: Array


def summarize(
    net: Network,
    params: Params,
    x: Array,
    targets: Array,
    *,
    aligned: float = ALIGNED,
    saturated: float = SATURATED,
) -> Summary:
    """Sum up every layer's geometry on one batch: what a training can keep of every epoch.

    Args:
        net: As in `observe`; so are the other three.
        params: As there.
        x: As there.
        targets: As there.
        aligned: |sin θ| below which vectors count as aligned.
        saturated: |g'| below which an activation counts as saturated.

    Returns:
        The `Summary`.

    Raises:
        TypeError: As in `observe`.
        ValueError: As in `observe`.

    Example:
        >>> from bnjax import Network, init
        >>> net = Network((8, 100, 10, 1))
        >>> params, _ = init(net, jax.random.key(0))
        >>> batch = jnp.zeros((60, 8)), jnp.zeros((60, 1))
        >>> found = jax.eval_shape(lambda *args: summarize(net, *args), params, *batch)
        >>> print(found.cos2.shape, found.stopped.shape, found.percentiles.shape)
        (3, 40) (2,) (2, 5)
    """
    layers = _intermediates(net, params, x, targets)
    found = _measure(
        [layer.u for layer in layers],
        [layer.y if layer.x is None else layer.x for layer in layers],
        [layer.y for layer in layers],
        [layer.delta for layer in layers],
        [p.W for p in params],
        [p.gamma if isinstance(p, NormDense) else p.b for p in params],
        jnp.asarray(net.normalized),
        eps=net.eps,
        activation=net.activation,
        aligned=aligned,
        saturated=saturated,
    )
    return Summary(**_of_normalized(net, found))


# three programs, where nobody jits the whole: the largest knows nothing of the network, and is
# compiled once for a baseline and a normalized network of the same sizes
_intermediates = jax.jit(backprop.intermediates, static_argnums=0)


@partial(jax.jit, static_argnames=("eps", "activation", "aligned", "saturated"))
def _measure(
    u: list[Array],
    x: list[Array],
    y: list[Array],
    delta: list[Array],
    W: list[Array],
    gamma: list[Array],
    normalized: Array,
    *,
    eps: float,
    activation: str | Activation,
    aligned: float,
    saturated: float,
) -> dict[str, Array]:
    number = len(u)
    vectors = normals([*u, *x, *delta])
    u_, x_, delta_ = (vectors[k * number : (k + 1) * number] for k in range(3))
    found = _of_all(u_, x_, delta_, W, gamma, normalized, eps, aligned)
    return found | _of_hidden(y[:-1], u_[1:], activation, saturated)


@partial(jax.jit, static_argnums=0)
def _of_normalized(net: Network, found: dict[str, Array]) -> dict[str, Array]:
    """Leave out what the layers without normalization have not."""
    at = jnp.asarray([at for at, norm in enumerate(net.normalized) if norm], jnp.int32)
    return found | {name: found[name][at] for name in _NORMALIZED}


def _of_all(
    u: list[Normal],
    x: list[Normal],
    delta: list[Normal],
    W: list[Array],
    gamma: list[Array],
    normalized: Array,
    eps: float,
    aligned: float,
) -> dict[str, Array]:
    """Sum up what any layer has, and of the others what nobody will read; layers first."""

    def of_one(
        u: Normal,
        x: Normal,
        delta: Normal,
        W: Array,
        gamma: Array,
        inputs: Array,
        neurons: Array,
        norm: Array,
    ) -> tuple[dict[str, Array], Array]:
        angles = between(u, x, delta, gamma, eps=eps)
        # without normalization nothing is removed along x̂, and the means stay (G.3)
        rho, eps_share, scale = of_normalization(angles)
        angles = angles._replace(
            rho=jnp.where(norm, rho, 0),
            eps_share=jnp.where(norm, eps_share, 1),
            scale=jnp.where(norm, scale, 1),
        )
        mean_delta = jnp.where(norm, 0, angles.mean_delta)
        # gradients are linear in Δ: at |Δ_i| = 1 their squares are not too small for any float
        size = jnp.hypot(angles.sd_delta, angles.mean_delta)
        safe = jnp.where(size > 0, size, 1)
        amplitude, bracket, _ = weight_parts(angles._replace(sd_delta=angles.sd_delta / safe))
        covariance = amplitude * bracket
        means = angles.count * angles.mean_u[:, None] * (mean_delta / safe)[None]
        W = W.astype(means.dtype)
        W_bar = covariance + means
        norms = [jnp.sqrt(jnp.sum(a**2, 0)) for a in (W, W_bar, covariance, means)]
        both = norms[0] * norms[1]
        cosine = jnp.sum(W * W_bar, 0) / jnp.where(both > 0, both, 1)
        passed = jnp.hypot(propagated(angles).length, jnp.sqrt(angles.count) * mean_delta)
        groups = stopping.synced(angles, below=aligned)
        n, weights = jnp.sum(neurons), jnp.sum(inputs) * jnp.sum(neurons)
        squares = {
            "error": (jnp.sqrt(angles.count) * size, 1),
            "propagated": (passed, 1),
            "W": (norms[0], n),
            "W_bar": (size * norms[1], weights),
            "covariance": (size * norms[2], weights),
            "means": (size * norms[3], weights),
            "gamma_bar": (gamma_gradient(angles), n),
        }
        per_neuron = {
            "dead": stopping.dead(angles),
            "turning": 1 / norms[0] ** 2,
            "cosine": jnp.abs(cosine),
            "handed_to_gamma": stopping.handed_to_gamma(angles, below=aligned),
            "stopped": jnp.sum(stopping.stopped(angles, below=aligned), 0) / jnp.sum(inputs),
            "synced": groups.size > 0,
            "eps_share": angles.eps_share,
            "removed": stopping.removed(angles).share,
        }
        # one sum for all, not one for each: fewer loops to compile
        lengths = length(jnp.stack([values for values, _ in squares.values()], 1))
        roots = jnp.sqrt(jnp.stack([jnp.asarray(of, n.dtype) for _, of in squares.values()]))
        rows = jnp.stack([values.astype(n.dtype) for values in per_neuron.values()])
        means_of = jnp.sum(jnp.where(neurons[None] > 0, rows, 0), 1) / n
        found = dict(zip(squares, lengths / roots, strict=True))
        found |= dict(zip(per_neuron, means_of, strict=True))
        return found | {"largest_group": jnp.max(groups.size)}, _bins(angles)

    found, bins = jax.vmap(of_one)(
        _stacked(u),
        _stacked(x),
        _stacked(delta),
        _stacked(W),
        _stacked(gamma),
        _stacked([jnp.ones_like(one.sd) for one in u]),
        _stacked([jnp.ones_like(one.sd) for one in x]),
        normalized,
    )
    counts = _counts(bins, 3 * COSINE_BINS).reshape(-1, 3, COSINE_BINS)
    shares = counts / jnp.maximum(jnp.sum(counts, 2, keepdims=True), 1)
    return found | {f"cos{k + 1}": shares[:, k] for k in range(3)}


def _of_hidden(
    y: list[Array], u_next: list[Normal], activation: str | Activation, below: float
) -> dict[str, Array]:
    """Sum up what is activated and what comes of it; hidden layers first."""
    if not y:
        none = jnp.zeros((0, len(PERCENTILES)))
        names = "saturated", "directions", "correlation", "constant"
        return {name: none[:, 0] for name in names} | {"percentiles": none}

    def of_one(y: Array, u_next: Normal, neurons: Array) -> dict[str, Array]:
        small = of_layers.saturation(y, activation, below=below)
        spread = of_layers.spread_of(u_next)
        n = jnp.sum(neurons)
        return {
            "saturated": jnp.sum(jnp.where(neurons > 0, small, 0)) / n,
            "directions": spread.directions,
            "correlation": spread.correlation,
            "constant": 1 - spread.varying / n,
        }

    neurons, activated = _stacked([jnp.ones_like(one.sd) for one in u_next]), _stacked(y)
    found = jax.vmap(of_one)(activated, _stacked(u_next), neurons)
    return found | {"percentiles": _percentiles(activated, neurons)}


def _stacked(trees: Sequence[Tree]) -> Tree:
    """Stack arrays along a new first axis, filled up with zeros to one shape.

    A column of zeros has no direction, and so is counted nowhere.
    """

    def of_one(*arrays: Array) -> Array:
        shape = [max(sizes) for sizes in zip(*(a.shape for a in arrays), strict=True)]
        filled = []
        for a in arrays:
            more = [(0, size - own) for size, own in zip(shape, a.shape, strict=True)]
            filled.append(jnp.pad(a, more))
        return jnp.stack(filled)

    return jax.tree.map(of_one, *trees)


def _bins(angles: Angles) -> Array:
    """Tell into which of 3 · 40 bins each cosine falls; past the last where there is none."""
    u, x, delta = angles.u_varies, angles.x_varies, angles.delta_varies
    kinds = (
        (angles.cos1, delta & x),
        (angles.cos2, u[:, None] & x[None]),
        (angles.cos3, u[:, None] & delta[None]),
    )
    bins = []
    for kind, (cosines, defined) in enumerate(kinds):
        place = ((cosines + 1) * (COSINE_BINS / 2)).astype(jnp.int32)
        place = kind * COSINE_BINS + jnp.minimum(place, COSINE_BINS - 1)
        bins.append(jnp.where(defined, place, 3 * COSINE_BINS).reshape(-1))
    return jnp.concatenate(bins)


def _percentiles(y: Array, neurons: Array) -> Array:
    """Read percentiles off a fine histogram: sorting would take longer than all the rest."""
    y = y.astype(accumulator_dtype(y.dtype))
    counted = (neurons > 0)[:, None]
    low = jnp.min(jnp.where(counted, y, jnp.inf), (1, 2))
    step = (jnp.max(jnp.where(counted, y, -jnp.inf), (1, 2)) - low) / _FINE_BINS
    scaled = (y - low[:, None, None]) / jnp.where(step > 0, step, 1)[:, None, None]
    bins = jnp.where(counted, jnp.clip(scaled.astype(jnp.int32), 0, _FINE_BINS - 1), _FINE_BINS)
    reached = jnp.cumsum(_counts(bins.reshape(len(y), -1), _FINE_BINS), 1)
    wanted = jnp.asarray(PERCENTILES, y.dtype)[None] / 100 * reached[:, -1:]
    place = jnp.sum(reached[:, None] < wanted[:, :, None], 2)
    return low[:, None] + step[:, None] * (place + 0.5)


def _counts(bins: Array, number: int) -> Array:
    """Count in each row how often each of `number` bins occurs; the one after them is left out."""
    rows = len(bins)
    # one row after the other: scattering into all at once is a loop that XLA:CPU does not compile
    places = bins + (number + 1) * jnp.arange(rows, dtype=jnp.int32)[:, None]
    counts = jnp.zeros(rows * (number + 1), jnp.int32).at[places.reshape(-1)].add(1)
    return counts.reshape(rows, -1)[:, :-1]
