"""A layer of a function, measured from its arrays (G.1, G.8)."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from bnjax.geometry.angles import Angles, Inputs, angles_between, product_inputs
from bnjax.geometry.convolutions import (
    CONVOLUTION,
    convolution_inputs,
    kernel_matrix,
    samples_first,
    standardized_channels,
)
from bnjax.geometry.copies import copied
from bnjax.geometry.feeds import apply_moves
from bnjax.geometry.few_runs import jit_for_few_runs
from bnjax.geometry.programs import STEP, Site
from bnjax.geometry.vectors import Standardized, standardize_all
from bnjax.layout import accumulator_dtype

STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ObservedLayer:
    """One layer of a function: a pytree, of which names and words are static.

    Attributes:
        name: The path of its weights, such as "params['conv1']['kernel']"; of γ where the weights
            are not known. In a scan the index of the step follows. Where parameters are used
            several times, " (2)" and so on follows; their gradient is the sum over these layers.
            "normalization" where neither is known.
        angles: Its `Angles`. Of a convolution n_in counts the entries of one neuron's kernel, and
            B samples times positions. n_in is 0 where the linear operation is not known.
        W: The weights, (n_in, n_out): all axes of a kernel but that of the neurons are one, in
            their order.
        gamma: γ, (n_out,); None where there is none, as without normalization.
        copies: Whether x is, but for shift and factor, that of another neuron, (n_out,) bool.
        copied_inputs: The same of the inputs, (n_in,) bool; of a convolution of its channels.
        saturated: The fraction of the entries of y at which the activation has a derivative under
            `SATURATED`, a scalar. None where no activation is known: it must be computed entry by
            entry from y alone, or from a sum with y in it, and another layer must follow.
        bounded: 1 where that activation is flat on both sides, 0 if not; None as `saturated`.
        samples: B.
        unfollowed: Why the linear operation before the normalization is not known, or "".
    """

    name: str = field(metadata=STATIC)
    angles: Angles
    W: Array
    gamma: Array | None
    copies: Array
    copied_inputs: Array
    saturated: Array | None
    bounded: Array | None
    samples: int = field(metadata=STATIC)
    unfollowed: str = field(default="", metadata=STATIC)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Observed:
    """What `observe_function` finds: a pytree.

    Attributes:
        layers: The layers in the order of the program; `observed[name]` is one of them.
        skipped: (name, reason) of each layer that is not measured, static. The name is the path of
            its weights or of γ, or "normalization".
    """

    layers: tuple[ObservedLayer, ...]
    skipped: tuple[tuple[str, str], ...] = field(default=(), metadata=STATIC)

    def __getitem__(self, name: str) -> ObservedLayer:
        """Return the layer of that name."""
        return {layer.name: layer for layer in self.layers}[name]


class Way(NamedTuple):
    """How a layer is measured: what is static of a `Site` but for names, hashable.

    Attributes:
        norm: Whether it is a normalization.
        eps: ε.
        features: The feature axes of x.
        steps: The lengths of the scans around it.
        moves: As `Feed.moves`.
        neurons: As `Feed.neurons`; None where the linear operation is not known.
        contracted: The axes of u and of W that a product sums over; None of a convolution.
        convolution: The parameters of a convolution's equation.
    """

    norm: bool
    eps: float
    features: tuple[int, ...]
    steps: tuple[int, ...]
    moves: tuple[tuple[str, tuple[int, ...]], ...] = ()
    neurons: tuple[int, ...] | None = None
    contracted: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    convolution: tuple[tuple[str, Any], ...] = ()


def way_of(site: Site) -> Way:
    """Return how a layer is to be measured."""
    way, feed = Way(site.norm, site.eps, site.features, site.steps), site.feed
    if feed is None:
        return way
    way, params = way._replace(moves=feed.moves, neurons=feed.neurons), feed.eqn.params
    if feed.eqn.primitive.name == "dot_general":
        (left, right), _ = params["dimension_numbers"]
        contracted = (right, left) if feed.weights_first else (left, right)
        return way._replace(contracted=contracted)
    return way._replace(convolution=tuple((name, params[name]) for name in CONVOLUTION))


def step_names(name: str, steps: tuple[int, ...]) -> Iterator[str]:
    """Yield the names of a layer in each step of the scans around it."""
    for step in itertools.product(*map(range, steps)):
        own = name
        for k in step:
            own = own.replace(STEP, f"[{k}]", 1) if STEP in own else f"{own} (step {k})"
        yield own


@jit_for_few_runs("way")
def measure(arrays: dict[str, Array], delta: Array, *, way: Way) -> list[ObservedLayer]:
    """Measure a layer, or one for each step of the scans around it; without names."""
    one_step = partial(_measure, way)
    for _ in way.steps:
        one_step = jax.vmap(one_step)
    layer = one_step(arrays, delta)
    steps = itertools.product(*map(range, way.steps))
    return [jax.tree.map(lambda a, step=step: a[step], layer) for step in steps]


def _measure(way: Way, arrays: dict[str, Array], delta: Array) -> ObservedLayer:
    """Measure a layer, of which the steps of scans are taken off already."""
    found = {name: arrays.get(name) for name in ("saturated", "bounded")}
    arrays = {name: a for name, a in arrays.items() if name not in found}
    dtype = accumulator_dtype(*(a.dtype for a in (*arrays.values(), delta)))
    gamma = arrays["gamma"].reshape(-1) if "gamma" in arrays else None
    arrays |= {name: arrays[name].astype(dtype) for name in ("u", "x") if name in arrays}
    inputs, columns, W, x_, delta_ = _compare(way, arrays, delta.astype(dtype))
    return ObservedLayer(
        "",
        angles_between(inputs, x_, delta_, gamma, eps=way.eps, norm=way.norm),
        W,
        gamma,
        copies=copied(x_),
        copied_inputs=copied(columns),
        samples=len(x_.hat),
        saturated=found["saturated"],
        bounded=found["bounded"],
    )


def _compare(
    way: Way, arrays: dict[str, Array], delta: Array
) -> tuple[Inputs, Standardized, Array, Standardized, Standardized]:
    """Return what the angles hold of the inputs, these or their channels, W, x and Δ."""
    if way.neurons is None:
        x_, delta_ = standardize_all([_rows(a, way.features) for a in (arrays["x"], delta)])
        none = jnp.zeros((0, x_.hat.shape[1]), delta.dtype)
        inputs = Inputs(none[:, 0], none[:, 0], none, none)
        return inputs, Standardized(inputs.mean, inputs.sd, none.T), none, x_, delta_
    u, W = arrays["u"], arrays["W"]
    x, delta = (apply_moves(a, way.moves) for a in (arrays["x"], delta))
    if way.contracted is not None:
        of_u, of_W = way.contracted
        rows = [_rows(u, of_u), _rows(x, way.neurons), _rows(delta, way.neurons)]
        u_, x_, delta_ = standardize_all(rows)
        return product_inputs(u_, x_, delta_), u_, _columns(W, of_W), x_, delta_
    params = dict(way.convolution)
    order, n = samples_first(params), W.shape[params["dimension_numbers"].rhs_spec[0]]
    x_, delta_ = standardize_all([a.transpose(order).reshape(-1, n) for a in (x, delta)])
    channels = standardized_channels(u, params)
    inputs = convolution_inputs(channels, u.shape, W, x_, delta_, params)
    return inputs, channels, kernel_matrix(W, params), x_, delta_


def _rows(a: Array, columns: Sequence[int]) -> Array:
    """Return an array as a matrix whose columns are these axes, one after the other."""
    rows = [axis for axis in range(a.ndim) if axis not in columns]
    number = math.prod(a.shape[axis] for axis in columns)
    return a.transpose([*rows, *columns]).reshape(-1, number)


def _columns(a: Array, rows: Sequence[int]) -> Array:
    """Return an array as a matrix whose rows are these axes, one after the other."""
    columns = [axis for axis in range(a.ndim) if axis not in rows]
    number = math.prod(a.shape[axis] for axis in rows)
    return a.transpose([*rows, *columns]).reshape(number, -1)
