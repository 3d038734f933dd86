"""Statistics for inference measured after training, with the final parameters.

(P.1)  μ_BN = Σ_k μ_k / N_B
(P.2)  σ²_BN = Σ_k ν_k/(ν_k − 1) σ_k² / N_B
(P.5)  Var[x] = Σ_k n_k [σ_k² + (μ_k − E[x])²] / N

Running averages mix the moments of many parameters; P.1, P.2 and P.5 are those of one:
"precise" batch normalization.

Source: S3; Wu & Johnson 2021 (arXiv:2105.07576).
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from bnjax import network, population
from bnjax._checks import several_samples, unknown_name
from bnjax.moments import Moments
from bnjax.network import Network, NormDense, Params, State
from bnjax.norm import batch_norm
from bnjax.population import Pool, PopulationState

# for each value of `gather`: initialize, update with the moments of one batch, convert
_ACCUMULATORS: dict[str, tuple[Any, Any, Any]] = {
    "pool": (population.empty, population.add, population.to_state),
    "average": (population.init, partial(population.update, decay=None), lambda state: state),
}

Accumulated = tuple[Pool, ...] | tuple[PopulationState, ...]


def measure_population(
    net: Network,
    params: Params,
    data: Array | Iterable[Array | tuple[Array, Array]],
    *,
    batch_size: int | None = None,
    gather: str = "pool",
) -> State:
    """Compute the statistics for inference in one pass over data, with fixed parameters.

    Each batch is normalized with its own moments, as in training; the moments at each
    normalization are accumulated over the batches.

    Args:
        net: The network. A baseline has no statistics.
        params: Its parameters.
        data: The inputs, (N, n_in), sharded or not; or an iterable of batches, each x (B, n_in) or
            (x, where) with where (B,) as in `bn_apply`. "pool" weighs a batch by the sum of its
            weights, "average" weighs all batches alike. Each shape is compiled once.
        batch_size: How many samples of an array a batch holds, at least 2; None: all of them.
            Every K-th sample belongs to the same of K batches, so that sorted data give similar
            batches, of sizes that differ by one at most. The larger is at most batch_size, but 3
            where a batch of 2 would leave one sample over.
        gather: "pool": the mean and variance of all that a normalization sees (P.5). "average":
            the average of the batches' means and unbiased variances (P.1, P.2).

    Returns:
        The statistics, one `PopulationState` per normalization: for `bn_apply(train=False)`, for
        `fold`, or to continue training with.

    Raises:
        ValueError: data, batch_size or params do not fit, a weight is negative, infinite or NaN,
            or gather is unknown.

    Example:
        >>> net = Network((2, 3, 1))
        >>> params, _ = network.init(net, jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (10, 2))
        >>> state = measure_population(net, params, x, batch_size=4)
        >>> print(state[0].batches, bool(jnp.allclose(state[0].mean, (x @ params[0].W).mean(0))))
        [3 3 3] True
    """
    function = "training.measure_population"
    if gather not in _ACCUMULATORS:
        raise ValueError(unknown_name(function, "gather", gather, _ACCUMULATORS))
    network.check_params(function, net, params, None)
    initialize, _, convert = _ACCUMULATORS[gather]
    accumulated = tuple(
        initialize(layer.gamma.shape, layer.gamma.dtype)
        for layer in params
        if isinstance(layer, NormDense)
    )
    if hasattr(data, "shape"):
        x = jnp.asarray(data)
        batches = _count_batches(function, net, params, x, batch_size)
        accumulated = _accumulate_array(net, gather, batches, params, accumulated, x)
    elif batch_size is None:
        accumulated = _accumulate_all(function, net, gather, params, accumulated, data)
    else:
        raise ValueError(
            f"{function}: `batch_size` splits an array into batches; got {batch_size!r} and "
            "`data` that come in batches. Leave it out."
        )
    return tuple(convert(one) for one in accumulated)


def _count_batches(
    function: str, net: Network, params: Params, x: Array, batch_size: int | None
) -> int:
    """Return the number of batches that an array is split into."""
    network.check_batch_arguments(function, net, params, x)
    several_samples(function, x, (1,))
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
