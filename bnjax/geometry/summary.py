"""A network's geometry on one batch in few numbers, to be recorded throughout a training.

The distributions of cos θ1, cos θ2 and cos θ3 (G.1), the fractions of neurons and weights that
stopped learning (G.6), the sizes of gradients and errors, and the state of the activations.

This takes one pass forward and backward and one more matrix product per layer; nothing is sorted.
All layers are padded with zeros to one shape and computed together: compiling each by itself
would take longer than hundreds of calls.

Source: S0/S1 §3, S3.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from bnjax import backprop
from bnjax.activations import Activation
from bnjax.collectives import Tree
from bnjax.geometry.histograms import PERCENTILES, cosine_shares, histogram_percentiles
from bnjax.geometry.layer_summary import summarize_activation, summarize_layer
from bnjax.geometry.layers import SATURATED
from bnjax.geometry.record import check_network_batch
from bnjax.geometry.stopping import ALIGNED
from bnjax.geometry.vectors import Standardized, standardize_all
from bnjax.network import Network, NormDense, Params

_NORMALIZED_ONLY = (
    *("handed_to_gamma", "stopped", "synced", "largest_group", "eps_share", "removed"),
    "gamma_bar",
)


class Summary(NamedTuple):
    """The geometry of L layers, N of them normalized: about 140 numbers per layer.

    Attributes:
        cos1: Fraction of the neurons whose cos θ1 lies in each of 40 equal bins from −1 to 1,
            among those for which it is defined, (L, 40); all zero if there is none.
        cos2: The same for cos θ2 of the weights, (L, 40).
        cos3: The same for cos θ3 of the weights, (L, 40).
        dead: Fraction of the neurons that no error reaches, (L,).
        error: |Δ| of the whole layer, the root of the sum of squares, (L,).
        propagated: |∂C/∂x| of the whole layer, from which the layer below gets its error, (L,).
        W: |W_i|, root mean square over the neurons, (L,).
        turning: 1/|W_i|², mean over the neurons, (L,): times η the effective learning rate.
        cosine: |cos| of the angle between W_i and ∂C/∂W_i, mean over the neurons, (L,) (BN.5).
        W_bar: ∂C/∂W_ji, root mean square over the weights, (L,): the update at η = 1.
        covariance: Its term amplitude · bracket, which deviations contribute, (L,) (G.2, G.3).
        means: Its term B ⟨Δ⟩⟨u⟩, (L,); 0 with normalization, which removes it (G.3).
        handed_to_gamma: Fraction of the neurons with sin θ1 ≈ 0; this and the next six hold the
            normalized layers only, (N,).
        stopped: Fraction of the weights with sin θ2 ≈ 0, (N,).
        synced: Fraction of the neurons with a group of synced inputs, (N,).
        largest_group: The number of inputs in the largest such group, (N,) int32.
        eps_share: 1 − ρ², mean over the neurons, (N,).
        removed: `Removed.share`, mean over the neurons, (N,).
        gamma_bar: ∂C/∂γ_i, root mean square over the neurons, (N,).
        saturated: Fraction of (sample, neuron) with |g'| ≈ 0; this and the next four hold the
            hidden layers only, (L − 1,).
        percentiles: `PERCENTILES` of the activation's inputs over samples and neurons,
            (L − 1, 5), to 1/1000 of the distance between the smallest and the largest.
        directions: Of the outputs, as in `Spread`, (L − 1,).
        correlation: Of the outputs, as in `Spread`, (L − 1,).
        constant: Fraction of the outputs that do not vary over the samples, (L − 1,).
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
    """Summarize the geometry of every layer on one batch.

    It is a pure function, to be called jitted or not, every few epochs on the same batch.

    Args:
        net: The network, normalized or baseline.
        params: As returned by `network.init`.
        x: Inputs, (B, n_in), B ≥ 2.
        targets: φ, (B, n_out).
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
    check_network_batch("geometry.summarize", net, params, x, targets)
    layers = _intermediates(net, params, x, targets)
    found = _summarize_network(
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
    return Summary(**_select_normalized(net, found))


# three programs for eager callers: the largest does not depend on `net`, so that it is compiled
# once for a baseline and a normalized network of the same sizes
_intermediates = jax.jit(backprop.intermediates, static_argnums=0)


@partial(jax.jit, static_argnames=("eps", "activation", "aligned", "saturated"))
def _summarize_network(
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
    """Return the fields of `Summary`, all of them for all layers, or all hidden ones."""
    number = len(u)
    vectors = standardize_all([*u, *x, *delta])
    u_, x_, delta_ = (vectors[k * number : (k + 1) * number] for k in range(3))
    found, bins = jax.vmap(partial(summarize_layer, eps=eps, aligned=aligned))(
        _stack_padded(u_),
        _stack_padded(x_),
        _stack_padded(delta_),
        _stack_padded(W),
        _stack_padded(gamma),
        _stack_padded([jnp.ones_like(one.sd) for one in u_]),
        _stack_padded([jnp.ones_like(one.sd) for one in x_]),
        normalized,
    )
    shares = cosine_shares(bins)
    found |= {f"cos{k + 1}": shares[:, k] for k in range(3)}
    return found | _summarize_hidden(y[:-1], u_[1:], activation, saturated)


@partial(jax.jit, static_argnums=0)
def _select_normalized(net: Network, found: dict[str, Array]) -> dict[str, Array]:
    """Keep only the normalized layers in the fields that the others do not have."""
    at = jnp.asarray([at for at, norm in enumerate(net.normalized) if norm], jnp.int32)
    return found | {name: found[name][at] for name in _NORMALIZED_ONLY}


def _summarize_hidden(
    y: list[Array], u_next: list[Standardized], activation: str | Activation, below: float
) -> dict[str, Array]:
    """Return the fields of `Summary` that only hidden layers have."""
    if not y:
        none = jnp.zeros((0, len(PERCENTILES)))
        names = "saturated", "directions", "correlation", "constant"
        return {name: none[:, 0] for name in names} | {"percentiles": none}
    neurons = _stack_padded([jnp.ones_like(one.sd) for one in u_next])
    inputs = _stack_padded(y)
    each = partial(summarize_activation, activation=activation, below=below)
    found = jax.vmap(each)(inputs, _stack_padded(u_next), neurons)
    return found | {"percentiles": histogram_percentiles(inputs, neurons)}


def _stack_padded(trees: Sequence[Tree]) -> Tree:
    """Pad the arrays of all trees with zeros to one shape, and stack them along a new first axis.

    A column of zeros has no direction in sample space, and so is counted nowhere.
    """

    def pad_and_stack(*arrays: Array) -> Array:
        shape = [max(sizes) for sizes in zip(*(a.shape for a in arrays), strict=True)]
        padded = []
        for a in arrays:
            widths = [(0, size - own) for size, own in zip(shape, a.shape, strict=True)]
            padded.append(jnp.pad(a, widths))
        return jnp.stack(padded)

    return jax.tree.map(pad_and_stack, *trees)
