"""The angles of every normalized layer of any JAX function, found in its traced program (G.1, G.8).

Source: S0/S1 §3; own derivation.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr

from bnjax import _marks
from bnjax.geometry.feeds import Value
from bnjax.geometry.observed import (
    STATIC,
    Observed,
    ObservedLayer,
    Way,
    measure,
    step_names,
    way_of,
)
from bnjax.geometry.programs import Evaluation


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
    found = _find_layers(params, batch, loss=loss, has_aux=has_aux, plain=plain)
    layers: list[ObservedLayer] = []
    for at, name in enumerate(found.names):
        measured = measure(found.arrays[at], found.deltas[at], way=found.ways[at])
        for layer, own in zip(measured, step_names(name, found.ways[at].steps), strict=True):
            layers.append(replace(layer, name=own, unfollowed=found.unfollowed[at]))
    return Observed(_numbered(layers), found.skipped)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Layers:
    """The layers of a program as arrays: a pytree.

    Attributes:
        arrays: Of each layer, as `Site.arrays`.
        deltas: Δ of each.
        names: Of each, static like all that follows.
        unfollowed: As `ObservedLayer.unfollowed`.
        ways: How each is measured.
        skipped: As `Observed.skipped`.
    """

    arrays: list[dict[str, Array]]
    deltas: list[Array]
    names: tuple[str, ...] = field(metadata=STATIC)
    unfollowed: tuple[str, ...] = field(metadata=STATIC)
    ways: tuple[Way, ...] = field(metadata=STATIC)
    skipped: tuple[tuple[str, str], ...] = field(metadata=STATIC)


# compiled for eager callers: one program for the function, and one for all layers of one shape
@partial(jax.jit, static_argnames=("loss", "has_aux", "plain"))
def _find_layers(
    params: Any, batch: tuple[Any, ...], *, loss: Callable[..., Any], has_aux: bool, plain: bool
) -> _Layers:
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
            "`bnjax.layers` in training mode; there is no normalization in it"
            + (", nor another layer." if plain else ". Pass plain=True to observe layers without.")
        )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), found[0].shapes)
    cost, pull_back, arrays = jax.vjp(evaluate, zeros, has_aux=True)
    deltas = jax.tree.leaves(pull_back(jnp.ones_like(cost)))
    normalized = {site.feed.eqn for site in sites if site.norm and site.feed is not None}
    chosen = [
        at
        for at, site in enumerate(sites)
        if site.norm or site.feed is None or site.feed.eqn not in normalized
    ]
    return _Layers(
        [arrays[at] for at in chosen],
        [deltas[at] for at in chosen],
        tuple(sites[at].name for at in chosen),
        tuple(sites[at].unfollowed for at in chosen),
        tuple(way_of(sites[at]) for at in chosen),
        tuple((name or "normalization", reason) for name, reason in skipped),
    )


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


def _numbered(layers: list[ObservedLayer]) -> tuple[ObservedLayer, ...]:
    """Give each layer a name of its own."""
    seen = Counter[str]()
    found = []
    for layer in layers:
        name = layer.name or "normalization"
        seen[name] += 1
        found.append(replace(layer, name=name if seen[name] == 1 else f"{name} ({seen[name]})"))
    return tuple(found)
