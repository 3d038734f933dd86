"""Statistics for inference measured after training, with the final parameters.

(P.1)  μ_BN = Σ_k μ_k / N_B
(P.2)  σ²_BN = Σ_k ν_k/(ν_k − 1) σ_k² / N_B
(P.5)  Var[x] = Σ_k n_k [σ_k² + (μ_k − E[x])²] / N

Running averages mix the moments of many parameters; P.1, P.2 and P.5 are those of one:
"precise" batch normalization.

Source: S3; Wu & Johnson 2021 (arXiv:2105.07576).
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from bnjax import network, population
from bnjax._checks import several_samples, unknown_name
from bnjax.moments import Moments
from bnjax.network import Network, NormDense, Params
from bnjax.norm import batch_norm
from bnjax.population import Pool, PopulationState
from bnjax.training.host import as_numbers

# for each value of `gather`: initialize, update with the moments of one batch, convert
_ACCUMULATORS: dict[str, tuple[Any, Any, Any]] = {
    "pool": (population.empty, population.add, population.to_state),
    "average": (population.init, partial(population.update, decay=None), lambda state: state),
}

MomentsOf = Callable[[Any, Any], Any]  # (params, batch) -> a pytree of Moments
Accumulated = tuple[Pool, ...] | tuple[PopulationState, ...]


def measure_population(
    net: Network | MomentsOf,
    params: Any,
    data: Array | Iterable[Any],
    *,
    batch_size: int | None = None,
    gather: str = "pool",
) -> Any:
    """Compute the statistics for inference in one pass over data, with fixed parameters.

    Each batch is normalized with its own moments, as in training; the moments at each
    normalization are accumulated over the batches.

    Args:
        net: The network; a baseline has no statistics. Or, for a network of your own, a function
            (params, batch) -> moments, a pytree of `Moments`, a dictionary by name say: those with
            which `batch_norm` has normalized the batch. Hashable, and compiled once for each shape.
        params: Its parameters.
        data: The inputs, (N, n_in), sharded or not, or a DataFrame of numbers; or an iterable of
            batches, each x (B, n_in) or (x, where) with where (B,) as in `bn_apply`. "pool" weighs
            a batch by the sum of its weights, "average" weighs all batches alike. Each shape is
            compiled once. A function takes the batches of the iterable as they are, or those of
            an array (N, ...).
        batch_size: How many samples of an array a batch holds, at least 2; None: all of them.
            Every K-th sample belongs to the same of K batches, so that sorted data give similar
            batches, of sizes that differ by one at most. The larger is at most batch_size, but 3
            where a batch of 2 would leave one sample over.
        gather: "pool": the mean and variance of all that a normalization sees (P.5). "average":
            the average of the batches' means and unbiased variances (P.1, P.2).

    Returns:
        The statistics, one `PopulationState` per normalization, in the place of its `Moments`: for
        `bn_apply(train=False)`, for `fold` or `fold_affine`, or to continue training with.

    Raises:
        TypeError: A function returns something else than `Moments`, or data are no numbers.
        ValueError: data, batch_size or params do not fit, a weight is negative, infinite or NaN,
            or gather is unknown.

    Example:
        >>> net = Network((2, 3, 1))
        >>> params, _ = network.init(net, jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (10, 2))
        >>> state = measure_population(net, params, x, batch_size=4)
        >>> print(state[0].batches, bool(jnp.allclose(state[0].mean, (x @ params[0].W).mean(0))))
        [3 3 3] True

        A network of your own:

        >>> def moments_of(W, x):
        ...     return {"first": batch_norm(x @ W)[1]}
        >>> state = measure_population(moments_of, jnp.eye(2), x, batch_size=5)
        >>> print(bool(jnp.allclose(state["first"].mean, x.mean(0))))
        True
    """
    function = "training.measure_population"
    if hasattr(data, "shape"):
        data = jnp.asarray(as_numbers(function, "data", data))
    if gather not in _ACCUMULATORS:
        raise ValueError(unknown_name(function, "gather", gather, _ACCUMULATORS))
    if not isinstance(net, Network):
        return _measure_function(function, net, params, data, batch_size, gather)
    network.check_params(function, net, params, None)
    initialize, _, convert = _ACCUMULATORS[gather]
    accumulated = tuple(
        initialize(layer.gamma.shape, layer.gamma.dtype)
        for layer in params
        if isinstance(layer, NormDense)
    )
    if isinstance(data, Array):
        x = data
        network.check_batch_arguments(function, net, params, x)
        batches = _count_batches(function, x, batch_size)
        accumulated = _accumulate_array(net, gather, batches, params, accumulated, x)
    elif batch_size is None:
        accumulated = _accumulate_all(function, net, gather, params, accumulated, data)
    else:
        raise ValueError(_batches_with_a_size(function, batch_size))
    return tuple(convert(one) for one in accumulated)


def _measure_function(
    function: str,
    moments_of: MomentsOf,
    params: Any,
    data: Array | Iterable[Any],
    batch_size: int | None,
    gather: str,
) -> Any:
    """Compute the statistics of the normalizations inside a function."""
    if isinstance(data, Array):
        x = data
        K = _count_batches(function, x, batch_size)
        data = (x[k::K] for k in range(K))
    elif batch_size is not None:
        raise ValueError(_batches_with_a_size(function, batch_size))
    initialize, _, convert = _ACCUMULATORS[gather]
    accumulated = None
    for batch in data:
        if accumulated is None:
            found = jax.eval_shape(moments_of, params, batch)
            accumulated = _map_moments(
                function, lambda m: initialize(m.mean.shape, m.mean.dtype), found
            )
        accumulated = _accumulate_moments(moments_of, gather, params, accumulated, batch)
    if accumulated is None:
        raise ValueError(f"{function}: `data` must hold a batch; got none.")
    return jax.tree.map(convert, accumulated, is_leaf=_is_statistics)


def _batches_with_a_size(function: str, batch_size: int) -> str:
    return (
        f"{function}: `batch_size` splits an array into batches; got {batch_size!r} and `data` "
        "that come in batches. Leave it out."
    )


def _is_statistics(node: object) -> bool:
    return isinstance(node, Moments | Pool | PopulationState)


def _map_moments(function: str, f: Callable[[Moments], Any], tree: Any) -> Any:
    """Apply `f` to each `Moments` of a tree; refuse what is none."""

    def apply(leaf: Any) -> Any:
        if not isinstance(leaf, Moments):
            raise TypeError(
                f"{function}: `net`, a function (params, batch) -> moments, must return `Moments` "
                f"or a pytree of them, as `batch_norm` does beside y; got {leaf}."
            )
        return f(leaf)

    return jax.tree.map(apply, tree, is_leaf=_is_statistics)


@partial(jax.jit, static_argnames=("moments_of", "gather"))
def _accumulate_moments(
    moments_of: MomentsOf, gather: str, params: Any, accumulated: Any, batch: Any
) -> Any:
    """Accumulate the moments of one batch, from a function."""
    update = _ACCUMULATORS[gather][1]
    moments = moments_of(params, batch)
    return jax.tree.map(update, accumulated, moments, is_leaf=_is_statistics)


def _count_batches(function: str, x: Array, batch_size: int | None) -> int:
    """Return the number of batches that an array is split into."""
    several_samples(function, x, tuple(range(1, x.ndim)))
    if batch_size is not None and batch_size < 2:
        raise ValueError(
            f"{function}: `batch_size` must be at least 2, for a batch to have a variance; got "
            f"{batch_size!r}."
        )
    N = x.shape[0]
    return min(-(-N // (batch_size or N)), N // 2)


def _accumulate_all(
    function: str,
    net: Network,
    gather: str,
    params: Params,
    accumulated: Accumulated,
    data: Iterable[Array | tuple[Array, Array]],
) -> Accumulated:
    """Accumulate the moments of one batch after the other."""
    before = accumulated
    for batch in data:
        x, where = batch if isinstance(batch, tuple) else (batch, None)
        x = jnp.asarray(x)
        network.check_batch_arguments(function, net, params, x, where=where)
        if where is None:
            several_samples(function, x, (1,))
        accumulated = _accumulate_batch(net, gather, params, accumulated, x, where)
    if accumulated is before and accumulated:
        raise ValueError(f"{function}: `data` must hold a batch; got none.")
    return accumulated


@partial(jax.jit, static_argnames=("net", "gather"))
def _accumulate_batch(
    net: Network,
    gather: str,
    params: Params,
    accumulated: Accumulated,
    x: Array,
    where: Array | None,
) -> Accumulated:
    """Accumulate the moments of one batch."""

    def normalized(layer: NormDense, x: Array, w: Array | None, _: object) -> tuple[Array, Moments]:
        return batch_norm(x, layer.gamma, layer.beta, eps=net.eps, where=w)

    passes = network.run_layers(net, params, (), x, where, normalized)
    moments = (p.found for p in passes if p.found is not None)
    update = _ACCUMULATORS[gather][1]
    return tuple(update(before, one) for before, one in zip(accumulated, moments, strict=True))


@partial(jax.jit, static_argnames=("net", "gather", "batches"))
def _accumulate_array(
    net: Network, gather: str, batches: int, params: Params, accumulated: Accumulated, x: Array
) -> Accumulated:
    """Accumulate an array: batch k holds the samples k, k + batches, k + 2 batches, ..."""
    N, n_in = x.shape
    size = -(-N // batches)
    missing = size * batches - N
    # in this order a batch of samples that are sharded over devices is itself sharded over them
    xs = jnp.pad(x, ((0, missing), (0, 0))).reshape(size, batches, n_in).swapaxes(0, 1)
    samples = jnp.arange(size * batches).reshape(size, batches).T

    def body(accumulated: Accumulated, batch: tuple[Array, Array]) -> tuple[Accumulated, None]:
        x, sample = batch
        where = sample < N if missing else None
        return _accumulate_batch(net, gather, params, accumulated, x, where), None

    return lax.scan(body, accumulated, (xs, samples))[0]
