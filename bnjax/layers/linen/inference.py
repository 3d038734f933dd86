"""Statistics for inference of a whole flax.linen model, and its folding.

(P.4)  W' = W diag(γ r_BN),  b' = β − γ μ_BN r_BN
(P.5)  Var[x] = Σ_k n_k [σ_k² + (μ_k − E[x])²] / N

Source: S3; Wu & Johnson 2021 (arXiv:2105.07576).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, traverse_util

from bnjax import fold_affine
from bnjax.layers import common, inference
from bnjax.layers.linen.batch_norm import BatchNorm


def measure_statistics(
    model: linen.Module, variables: Mapping[str, Any], batches: Iterable[Any], **options: Any
) -> dict[str, Any]:
    """Compute the statistics of every `BatchNorm` of a model in one pass, with fixed parameters.

    Each batch is normalized with its own moments, and the moments are pooled over all batches
    (P.5): "precise" statistics, as after averaging weights, or fine-tuning with frozen statistics.

    Args:
        model: The model.
        variables: Its variables, `batch_stats` among them.
        batches: What the model is called on, one after the other: x each, or a tuple of arguments.
        **options: Further arguments of `model.apply`, such as `train=False`; whether the model
            trains or evaluates is the same to the layers.

    Returns:
        The variables, with measured statistics in `batch_stats`.

    Raises:
        ValueError: A normalization has seen no batch.

    Example:
        >>> model = BatchNorm(use_running_average=True)
        >>> x = jnp.array([[1.0], [3.0], [5.0], [7.0]])
        >>> variables = model.init(jax.random.key(0), x)
        >>> variables = measure_statistics(model, variables, [x[:2], x[2:]])
        >>> print(*variables["batch_stats"].values())
        [4.] [5.]
    """

    @jax.jit
    def measure(variables: Any, batch_stats: Any, args: tuple[Any, ...]) -> Any:
        both = {**variables, "batch_stats": batch_stats}
        return model.apply(both, *args, mutable=["batch_stats"], **options)[1]["batch_stats"]

    start: dict[Any, Any] = traverse_util.flatten_dict(variables["batch_stats"])
    means = (path[:-1] for path in start if path[-1] == "mean")
    layers = [path for path in means if (*path, "var") in start]
    pools = {(*layer, "pool"): inference.empty_pool(start[*layer, "mean"]) for layer in layers}
    batch_stats = traverse_util.unflatten_dict(start | pools)
    for batch in batches:
        args = batch if isinstance(batch, tuple) else (batch,)
        batch_stats = measure(variables, batch_stats, args)
    found: dict[Any, Any] = traverse_util.flatten_dict(batch_stats)
    for layer in layers:
        old = start[*layer, "mean"], start[*layer, "var"]
        measured = inference.pooled_statistics(found.pop((*layer, "pool")), *old, "/".join(layer))
        found[*layer, "mean"], found[*layer, "var"] = measured
    return {**variables, "batch_stats": traverse_util.unflatten_dict(found)}


def fold(
    model: linen.Module, variables: Mapping[str, Any], *args: Any, **options: Any
) -> dict[str, Any]:
    """Fold each `BatchNorm` into the Dense or Conv that feeds it: variables for inference (P.4).

    The kernel takes the scale; the layer adds what is left, an offset, to its input.

    Args:
        model: The model.
        variables: Its variables.
        *args: A batch on which the model is run, folded and not, to hold the two to each other.
        **options: Further arguments of `model.apply`, such as `train=False`.

    Returns:
        The variables, with folded kernels, biases of 0 before an offset, and an offset in
        `batch_stats` in place of statistics. Left as it is: what is called twice, is stacked by
        `vmap` or `scan`, or feeds more than the normalization, so that the folded model would
        predict something else.

    Raises:
        ValueError: There is nothing to fold.

    Example:
        >>> model = linen.Sequential([linen.Dense(2), BatchNorm(use_running_average=True)])
        >>> x = jax.random.normal(jax.random.key(0), (4, 3))
        >>> variables = model.init(jax.random.key(1), x)
        >>> folded = fold(model, variables, x)
        >>> print(folded["batch_stats"]["layers_1"], jnp.allclose(
        ...     model.apply(folded, x), model.apply(variables, x), atol=1e-6
        ... ))
        {'offset': Array([0., 0.], dtype=float32)} True
    """
    outputs: dict[int, tuple[linen.Module, Any]] = {}  # with the array: its id stays its own
    pairs, calls = [], []

    def record(call: Any, call_args: Any, call_options: Any, context: Any) -> Any:
        y, module = call(*call_args, **call_options), context.module
        if context.method_name == "__call__":
            calls.append(module.path)
            if isinstance(module, linen.Dense | linen.Conv):
                outputs[id(y)] = module, y
            elif isinstance(module, BatchNorm) and call_args and id(call_args[0]) in outputs:
                last = common.feature_axes(module.axis, y.ndim) == (y.ndim - 1,)
                pairs.extend([(outputs[id(call_args[0])][0], module)] if last else [])
        return y

    with linen.intercept_methods(record):
        wanted = model.apply(variables, *args, **options)
    folded, any_pair = dict(variables), False
    statistics: dict[Any, Any] = traverse_util.flatten_dict(variables["batch_stats"])
    for product, norm in pairs:
        once = calls.count(product.path) == calls.count(norm.path) == 1
        if once and jnp.ndim(statistics[*norm.path, "mean"]) == 1:
            tried = _fold_pair(folded, product, norm)
            if inference.agree(model.apply(tried, *args, **options), wanted):
                folded, any_pair = tried, True
    if not any_pair:
        raise ValueError("fold: no Dense or Conv of `model` feeds a bnjax BatchNorm alone.")
    return folded


def _fold_pair(variables: Any, product: linen.Module, norm: BatchNorm) -> dict[str, Any]:
    """Return the variables with one normalization folded into one product."""
    params: dict[Any, Any] = traverse_util.flatten_dict(variables["params"])
    batch_stats: dict[Any, Any] = traverse_util.flatten_dict(variables["batch_stats"])
    kernel, bias = (*product.path, "kernel"), (*product.path, "bias")
    scale, shift = (params.get((*norm.path, name)) for name in ("scale", "bias"))
    mean, var = (batch_stats.pop((*norm.path, name)) for name in ("mean", "var"))
    folded = fold_affine(
        params[kernel], params.get(bias), scale, shift, mean, var, norm.epsilon, axis=-1
    )
    params[kernel], batch_stats[*norm.path, "offset"] = folded
    if bias in params:
        params[bias] = jnp.zeros_like(params[bias])
    trees = {"params": params, "batch_stats": batch_stats}
    return {**variables, **{name: traverse_util.unflatten_dict(t) for name, t in trees.items()}}
