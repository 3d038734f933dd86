"""The angles of every normalized layer of any JAX function, found in its traced program (G.1, G.8).

Source: S0/S1 §3; own derivation.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr

from bnjax import _marks
from bnjax.geometry.angles import Angles, Inputs, angles_between, product_inputs
from bnjax.geometry.convolutions import convolution_inputs, kernel_matrix, samples_first
from bnjax.geometry.copies import copied
from bnjax.geometry.feeds import Value, apply_moves
from bnjax.geometry.programs import STEP, Evaluation, Site
from bnjax.geometry.vectors import Standardized, standardize, standardize_all
from bnjax.layout import accumulator_dtype

_STATIC = {"static": True}


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

    name: str = field(metadata=_STATIC)
    angles: Angles
    W: Array
    gamma: Array | None
    copies: Array
    copied_inputs: Array
    saturated: Array | None
    bounded: Array | None
    samples: int = field(metadata=_STATIC)
    unfollowed: str = field(default="", metadata=_STATIC)


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
    skipped: tuple[tuple[str, str], ...] = field(default=(), metadata=_STATIC)

    def __getitem__(self, name: str) -> ObservedLayer:
        """Return the layer of that name."""
        return {layer.name: layer for layer in self.layers}[name]


def observe_function(
    loss: Callable[..., Any],
    params: Any,
    *batch: Any,
    has_aux: bool = False,
    plain: bool = False,
) -> Observed:
    """Compute the angles of every normalized layer of a function on one batch (G.1, G.8).

    A layer is a normalization by `batch_norm`, directly or in a layer of `bnjax.layers`, and the
    linear operation before it: a product or a convolution, with or without bias, in any layout. It
    is found in the program of `loss`, also inside `jit`, `remat` and `scan`, or under the `vmap`
    that it normalizes over. All errors come from one backward pass.

    Args:
        loss: (params, *batch) to the cost, or to (cost, anything) with `has_aux`; in training mode.
            The function is compiled with `loss` as a constant: what changes must be an argument.
        params: Any pytree of arrays, whose paths name the layers.
        *batch: Pytrees of arrays: everything else that is computed with.
        has_aux: As in `jax.grad`.
        plain: Whether products and convolutions of parameters and batch that no normalization
            follows are layers, too, with the angles of a layer without normalization (G.3).

    Returns:
        The `Observed`. A normalization whose linear operation is not known is a layer without
        inputs; one that is not measured at all is among `skipped`, with the reason.

    Raises:
        TypeError: The cost is not a floating scalar.
        ValueError: There is no normalization, or `batch` holds no array.

    Example:
        >>> from bnjax import batch_norm
        >>> def loss(params, x, targets):
        ...     y, _ = batch_norm(x @ params["W"], params["gamma"])
        ...     return ((jax.nn.relu(y) - targets) ** 2).mean()
        >>> params = {"W": jnp.array([[3.0], [4.0]]), "gamma": jnp.ones(1)}
        >>> x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
        >>> (layer,) = observe_function(loss, params, x, x[:, 1:]).layers
        >>> print(layer.name, *(f"{cosine:.2f}" for cosine in layer.angles.cos2[:, 0]))
        params['W'] 0.60 0.80
    """
    if not jax.tree.leaves(batch):
        raise ValueError(
            "geometry.observe_function: `batch` must hold the arrays that the parameters are "
            "combined with; got none. Pass the batch as arguments of `loss`, not by its closure."
        )
    return _observe(params, batch, loss=loss, has_aux=has_aux, plain=plain)


# compiled for eager callers: hundreds of operations become one program
@partial(jax.jit, static_argnames=("loss", "has_aux", "plain"))
def _observe(
    params: Any, batch: tuple[Any, ...], *, loss: Callable[..., Any], has_aux: bool, plain: bool
) -> Observed:
    program = _trace(loss, params, batch, has_aux)
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    values = [
        Value(a, frozenset([f"params{_path(keys)}"]), origin="a parameter") for keys, a in leaves
    ]
    values += [Value(a, batch=True, origin="part of the batch") for a in jax.tree.leaves(batch)]
    found: list[Evaluation] = []

    def evaluate(taps: list[Any] | None) -> tuple[Array, list[dict[str, Array]]]:
        found[:] = [Evaluation(plain, None if taps is None else iter(taps))]
        cost, *_ = found[0].run(program.jaxpr, program.consts, values)
        found[0].saturations.measure()
        return cost.array, [site.arrays for site in found[0].sites]

    jax.eval_shape(evaluate, None)  # to learn what there is
    sites, skipped = found[0].sites, found[0].skipped
    if not sites and not skipped:
        raise ValueError(
            "geometry.observe_function: `loss` must normalize by `bnjax.batch_norm` or a layer of "
            "`bnjax.layers` in training mode; there is no normalization in it. Pass plain=True to "
            "observe the layers without."
        )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), found[0].shapes)
    cost, pull_back, arrays = jax.vjp(evaluate, zeros, has_aux=True)
    deltas = jax.tree.leaves(pull_back(jnp.ones_like(cost)))
    normalized = {site.feed.eqn for site in sites if site.norm and site.feed is not None}
    layers: list[ObservedLayer] = []
    for site, own, delta in zip(sites, arrays, deltas, strict=True):
        if site.norm or site.feed is None or site.feed.eqn not in normalized:
            layers += _layers_of(site, own, delta)
    named = ((name or "normalization", reason) for name, reason in skipped)
    return Observed(_numbered(layers), tuple(named))


def _path(keys: tuple[Any, ...]) -> str:
    """Return a parameter's path; that of its variable in flax.nnx."""
    return jax.tree_util.keystr(keys).removesuffix(".value")


def _trace(
    loss: Callable[..., Any], params: Any, batch: tuple[Any, ...], has_aux: bool
) -> ClosedJaxpr:
    """Return the program of a cost, with marks around each normalization."""
    with _marks.observing(True):
        program, shape = jax.make_jaxpr(loss, return_shape=True)(params, *batch)
    cost: Any = shape[0] if has_aux and isinstance(shape, tuple) and shape else shape
    scalar = getattr(cost, "shape", None) == ()
    if not scalar or not jnp.issubdtype(cost.dtype, jnp.floating):
        raise TypeError(
            "geometry.observe_function: `loss` must return a floating scalar"
            f"{' first' if has_aux else ''}; got {cost}."
        )
    return program


def _layers_of(site: Site, arrays: dict[str, Array], delta: Array) -> Iterator[ObservedLayer]:
    """Measure a layer, or one for each step of the scans around it."""
    measure = partial(_measure, site)
    for _ in site.steps:
        measure = jax.vmap(measure)
    layer = measure(arrays, delta)
    for step in itertools.product(*map(range, site.steps)):
        name = site.name
        for k in step:
            name = name.replace(STEP, f"[{k}]", 1) if STEP in name else f"{name} (step {k})"
        yield replace(jax.tree.map(lambda a, step=step: a[step], layer), name=name)


def _measure(site: Site, arrays: dict[str, Array], delta: Array) -> ObservedLayer:
    """Measure a layer, of which the steps of scans are taken off already."""
    found = {name: arrays.get(name) for name in ("saturated", "bounded")}
    arrays = {name: a for name, a in arrays.items() if name not in found}
    dtype = accumulator_dtype(*(a.dtype for a in (*arrays.values(), delta)))
    gamma = arrays["gamma"].reshape(-1) if "gamma" in arrays else None
    if "u" in arrays:
        arrays["u"] = arrays["u"].astype(dtype)
    arrays["x"] = arrays["x"].astype(dtype)
    inputs, columns, W, x_, delta_ = _compare(site, arrays, delta.astype(dtype))
    return ObservedLayer(
        site.name,
        angles_between(inputs, x_, delta_, gamma, eps=site.eps, norm=site.norm),
        W,
        gamma,
        copies=copied(x_),
        copied_inputs=copied(columns),
        samples=len(x_.hat),
        unfollowed=site.unfollowed,
        **found,
    )


def _compare(
    site: Site, arrays: dict[str, Array], delta: Array
) -> tuple[Inputs, Standardized, Array, Standardized, Standardized]:
    """Return what the angles hold of the inputs, these or their channels, W, x and Δ."""
    feed, x = site.feed, arrays["x"]
    if feed is None:
        x_, delta_ = standardize_all([_rows(a, site.features) for a in (x, delta)])
        none = jnp.zeros((0, x_.hat.shape[1]), x.dtype)
        inputs = Inputs(none[:, 0], none[:, 0], none, none)
        return inputs, Standardized(inputs.mean, inputs.sd, none.T), none, x_, delta_
    u, W, params = arrays["u"], arrays["W"], feed.eqn.params
    x, delta = (apply_moves(a, feed.moves) for a in (x, delta))
    if feed.eqn.primitive.name == "dot_general":
        (left, right), _ = params["dimension_numbers"]
        of_u, of_W = (right, left) if feed.weights_first else (left, right)
        rows = [_rows(u, of_u), _rows(x, feed.neurons), _rows(delta, feed.neurons)]
        u_, x_, delta_ = standardize_all(rows)
        return product_inputs(u_, x_, delta_), u_, _columns(W, of_W), x_, delta_
    order, numbers = samples_first(params), params["dimension_numbers"]
    neurons = W.shape[numbers.rhs_spec[0]]
    x_, delta_ = standardize_all([a.transpose(order).reshape(-1, neurons) for a in (x, delta)])
    inputs = convolution_inputs(u, W, x_, delta_, params)
    channels = standardize(_rows(u, numbers.lhs_spec[1:2]))
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


def _numbered(layers: list[ObservedLayer]) -> tuple[ObservedLayer, ...]:
    """Give each layer a name of its own."""
    seen = Counter[str]()
    found = []
    for layer in layers:
        name = layer.name or "normalization"
        seen[name] += 1
        found.append(replace(layer, name=name if seen[name] == 1 else f"{name} ({seen[name]})"))
    return tuple(found)
