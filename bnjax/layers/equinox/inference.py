"""Statistics for inference of a whole equinox model, and its folding.

(P.4)  W' = W diag(γ r_BN),  b' = β − γ μ_BN r_BN
(P.5)  Var[x] = Σ_k n_k [σ_k² + (μ_k − E[x])²] / N

Source: S3; Wu & Johnson 2021 (arXiv:2105.07576).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from bnjax import fold_affine
from bnjax.layers import common, inference
from bnjax.layers.equinox.batch_norm import BatchNorm

Model = TypeVar("Model")
Call = Callable[..., tuple[Any, eqx.nn.State]]
_FORGOTTEN = 750  # exp(−750) is 0 in float64


def measure_statistics(
    model: Any, state: eqx.nn.State, batches: Iterable[Any], *, call: Call | None = None
) -> eqx.nn.State:
    """Compute the statistics of every `BatchNorm` of a model in one pass, with fixed parameters.

    Each batch is normalized with its own moments, and the moments are pooled over all batches
    (P.5): "precise" statistics, as after averaging weights.

    Args:
        model: The model. Call `equinox.nn.inference_mode` before if it has dropout; whether it
            trains or evaluates is the same to the layers.
        state: Its state, which stays as it is.
        batches: What the model is called on, one after the other: x each, or a tuple of arguments.
        call: How it is called on them: (model, state, *batch) to (anything, state). None: under a
            `vmap` over the leading axis of x, of the layers' `axis_name`.

    Returns:
        The state with measured statistics, as after so many batches that the start is forgotten.

    Raises:
        ValueError: A normalization has seen no batch, or there is none.

    Example:
        >>> layer, state = eqx.nn.make_with_state(BatchNorm)(1, "batch", mode="batch")
        >>> x = jnp.array([[1.0], [3.0], [5.0], [7.0]])
        >>> print(*layer.running_statistics(measure_statistics(layer, state, [x[:2], x[2:]])))
        [4.] [5.]
    """
    norms = _norms("measure_statistics", model)
    call = call or _over_batch(norms)
    old = {path: state.get(norm.indices()[1]) for path, norm in norms.items()}
    pools = {path: inference.empty_pool(mean) for path, (mean, _) in old.items()}
    pooling = jax.tree.map(
        lambda part: _Pooling(part) if _is_norm(part) else part, model, is_leaf=_is_norm
    )

    @eqx.filter_jit
    def measure(pooling: Any, state: eqx.nn.State, args: tuple[Any, ...]) -> eqx.nn.State:
        return call(pooling, state, *args)[1]

    found = _replace(state, norms, pools)
    for batch in batches:
        found = measure(pooling, found, batch if isinstance(batch, tuple) else (batch,))
    pools = {path: found.get(norm.indices()[1]) for path, norm in norms.items()}
    measured = {}
    for path, (mean, var) in old.items():
        measured[path] = inference.pooled_statistics(pools[path], mean, var, path)
    found = _replace(found, norms, measured)
    for norm in norms.values():
        progress = norm.indices()[0]
        found = found.set(progress, jnp.full_like(found.get(progress), _forgotten(norm)))
    return found


def fold(
    model: Model,
    state: eqx.nn.State,
    pairs: Callable[[Model], Iterable[tuple[Any, BatchNorm]]],
    *args: Any,
    call: Call | None = None,
) -> Model:
    """Fold normalizations into the Linear or Conv before them: a model for inference (P.4).

    The weight takes the scale; a layer in the normalization's place adds what is left, an offset.

    Args:
        model: The model, which stays as it is.
        state: Its state.
        pairs: From the model, each `Linear` or `Conv` with the `BatchNorm` that it alone feeds.
        *args: A batch on which both models are run in evaluation, to hold them to each other.
        call: As in `measure_statistics`.

    Returns:
        A folded model, in evaluation, to be called with the same state.

    Raises:
        ValueError: The folded model predicts something else, or there is nothing to fold.

    Example:
        >>> def make(key):
        ...     product = eqx.nn.Linear(3, 2, key=key)
        ...     return eqx.nn.Sequential([product, BatchNorm(2, "batch", mode="batch")])
        >>> model, state = eqx.nn.make_with_state(make)(jax.random.key(0))
        >>> folded = fold(model, state, lambda model: [model.layers], jnp.ones((4, 3)))
        >>> print(folded.layers[1].offset.shape)
        (2,)
    """
    call = call or _over_batch(_norms("fold", model))
    evaluating = eqx.nn.inference_mode(model)
    parts: list[Any] = []
    folded: list[Any] = []
    for product, norm in pairs(evaluating):
        mean, var = norm.running_statistics(state)
        bias = product.bias
        weight, offset = fold_affine(
            product.weight,
            bias if bias is None else bias.reshape(-1),
            norm.weight,
            norm.bias,
            mean,
            var,
            norm.eps,
            axis=0,
        )
        new = eqx.tree_at(lambda part: part.weight, product, weight)
        if bias is not None:
            new = eqx.tree_at(lambda part: part.bias, new, jnp.zeros_like(bias))
        parts += [product, norm]
        folded += [new, Offset(offset)]
    result = eqx.tree_at(
        lambda model: [part for pair in pairs(model) for part in pair], evaluating, folded
    )
    got, wanted = (call(each, _copy(state), *args)[0] for each in (result, evaluating))
    if not inference.agree(got, wanted):
        raise ValueError(
            "fold: the folded model must predict what `model` does; it does not. A Linear or Conv "
            "of `pairs` may feed more than its BatchNorm, or be called more than once."
        )
    return result


class Offset(eqx.nn.StatefulLayer):
    """What is left of a folded normalization: x + b' (P.4).

    Attributes:
        offset: b', one number for each channel.
    """

    offset: Array

    def __init__(self, offset: Array):
        self.offset = offset

    def __call__(self, x: Array, state: eqx.nn.State, **_: Any) -> tuple[Array, eqx.nn.State]:
        """Return x + b', and the state as it is."""
        return x + self.offset.reshape((-1,) + (1,) * (x.ndim - 1)), state


class _Pooling(eqx.nn.StatefulLayer):
    """A `BatchNorm` that pools its moments, in the place of its running statistics."""

    norm: BatchNorm

    def __init__(self, norm: BatchNorm):
        self.norm = norm

    def __call__(
        self, x: Array, state: eqx.nn.State, *, where: Any = None, **_: Any
    ) -> tuple[Array, eqx.nn.State]:
        norm, index = self.norm, self.norm.indices()[1]
        affine = () if norm.weight is None else (norm.weight,)
        y, moments = common.normalize_batch(
            x,
            norm.weight,
            norm.bias,
            axis=(0,),
            eps=norm.eps,
            where=common.weights(where),
            axis_name=norm.axis_name,
            dtype=jnp.result_type(common.mean_dtype(x), *affine),
        )
        return y, state.set(index, common.add_to_pool(state.get(index), moments))


def _is_norm(part: Any) -> bool:
    return isinstance(part, BatchNorm)


def _norms(function: str, model: Any) -> dict[str, BatchNorm]:
    """Return the normalizations of a model by where they stand; one that stands twice, once."""
    leaves = jax.tree_util.tree_leaves_with_path(model, is_leaf=_is_norm)
    norms = {jax.tree_util.keystr(path): part for path, part in leaves if _is_norm(part)}
    if not norms:
        raise ValueError(f"{function}: `model` must hold a BatchNorm of bnjax; got none.")
    markers = {norm.indices()[1].marker: path for path, norm in reversed(norms.items())}
    return {path: norm for path, norm in norms.items() if path in markers.values()}


def _over_batch(norms: dict[str, BatchNorm]) -> Call:
    """Return the call of a model on a batch: a vmap of the layers' `axis_name`."""
    name = next(iter(norms.values())).axis_name

    def call(model: Any, state: eqx.nn.State, x: Array) -> tuple[Any, eqx.nn.State]:
        return jax.vmap(model, (0, None), (0, None), axis_name=name)(x, state)

    return call


def _replace(
    state: eqx.nn.State, norms: dict[str, BatchNorm], values: dict[str, Any]
) -> eqx.nn.State:
    """Return a state in which each normalization's statistics are another value."""
    indices = [norms[path].indices()[1] for path in norms]
    return eqx.tree_at(
        lambda state: [state.get(index) for index in indices],
        state,
        [values[path] for path in norms],
        is_leaf=lambda part: isinstance(part, tuple),
    )


def _copy(state: eqx.nn.State) -> eqx.nn.State:
    """Return a state that is not used up by the call that another copy is passed to."""
    return jax.tree.map(lambda a: a, state)


def _forgotten(norm: BatchNorm) -> int:
    """Return how far a state has come when nothing is left of its start: d^k = 0."""
    if norm.mode == "ema":
        return False
    return 1 + math.ceil(_FORGOTTEN / -math.log(norm.momentum)) if norm.momentum > 0 else 1
