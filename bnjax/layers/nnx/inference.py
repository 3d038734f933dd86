"""Statistics for inference of a whole flax.nnx model, and its folding.

(P.4)  W' = W diag(γ r_BN),  b' = β − γ μ_BN r_BN
(P.5)  Var[x] = Σ_k n_k [σ_k² + (μ_k − E[x])²] / N

Source: S3; Wu & Johnson 2021 (arXiv:2105.07576).
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
from flax import nnx

from bnjax import fold_affine
from bnjax.layers import inference
from bnjax.layers.nnx.batch_norm import BatchNorm


def measure_statistics(
    model: nnx.Module,
    batches: Iterable[Any],
    *,
    call: Callable[..., Any] = lambda model, *args: model(*args),
) -> None:
    """Measure the statistics of every `BatchNorm` of a model in one pass, in place.

    Parameters stay as they are. Each batch is normalized with its own moments, and the moments are
    pooled over all batches (P.5): "precise" statistics, as after averaging weights.

    Args:
        model: The model. Call `model.eval()` before if it has dropout; whether it trains or
            evaluates is the same to the layers.
        batches: What the model is called on, one after the other: x each, or a tuple of arguments.
        call: How it is called on them.

    Raises:
        ValueError: A normalization has seen no batch. The statistics are then as they were.

    Example:
        >>> layer = BatchNorm(1, rngs=nnx.Rngs(0))
        >>> x = jnp.array([[1.0], [3.0], [5.0], [7.0]])
        >>> measure_statistics(layer, [x[:2], x[2:]])
        >>> print(layer.mean[...], layer.var[...])
        [4.] [5.]
    """
    layers = [(path, part) for path, part in nnx.iter_modules(model) if isinstance(part, BatchNorm)]
    pools = [nnx.BatchStat(inference.empty_pool(layer.mean[...])) for _, layer in layers]
    measure = nnx.jit(lambda model, args: (call(model, *args), None)[1])
    for (_, layer), pool in zip(layers, pools, strict=True):
        layer.pool = pool
    try:
        for batch in batches:
            measure(model, batch if isinstance(batch, tuple) else (batch,))
    finally:
        for _, layer in layers:
            del layer.pool
    measured = [
        inference.pooled_statistics(
            pool.get_value(), layer.mean[...], layer.var[...], "/".join(map(str, path))
        )
        for (path, layer), pool in zip(layers, pools, strict=True)
    ]
    for (_, layer), (mean, var) in zip(layers, measured, strict=True):
        layer.mean[...], layer.var[...] = mean, var


def fold(
    model: nnx.Module,
    pairs: Callable[[Any], Iterable[tuple[Any, BatchNorm]]],
    *args: Any,
) -> Any:
    """Fold normalizations into the Linear or Conv before them: a model for inference (P.4).

    The kernel takes the scale; the layer adds what is left, an offset, to its input.

    Args:
        model: The model, which stays as it is.
        pairs: From the model, each Linear or Conv with the `BatchNorm` that it alone feeds.
        *args: A batch on which both models are run in evaluation, to hold them to each other.

    Returns:
        A folded copy of the model, in evaluation.

    Raises:
        ValueError: The folded model predicts something else.

    Example:
        >>> rngs, x = nnx.Rngs(0), jnp.ones((4, 3))
        >>> model = nnx.Sequential(nnx.Linear(3, 2, rngs=rngs), BatchNorm(2, rngs=rngs))
        >>> folded = fold(model, lambda model: [model.layers], x)
        >>> print(jnp.allclose(folded(x), nnx.view(model, use_running_average=True)(x), atol=1e-6))
        True
    """
    evaluating = nnx.clone(nnx.view(model, use_running_average=True))
    wanted = evaluating(*args)
    for product, norm in pairs(evaluating):
        bias, scale, shift = (
            None if v is None else v[...] for v in (product.bias, norm.scale, norm.bias)
        )
        mean, var = norm.mean[...], norm.var[...]
        kernel, offset = fold_affine(
            product.kernel[...], bias, scale, shift, mean, var, norm.epsilon, axis=-1
        )
        product.kernel[...] = kernel
        if bias is not None:
            product.bias[...] = jnp.zeros_like(bias)
        norm.offset = nnx.BatchStat(offset)
    if not inference.agree(evaluating(*args), wanted):
        raise ValueError(
            "fold: the folded model must predict what `model` does; it does not. A Linear or Conv "
            "of `pairs` may feed more than its BatchNorm, or be called more than once."
        )
    return evaluating
