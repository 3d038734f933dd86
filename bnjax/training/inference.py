"""Statistics for inference measured after training, at the parameters that will be used.

(P.1)  μ_BN = mean over mini-batches of μ_B
(P.2)  σ²_BN = mean over mini-batches of n/(n − 1) σ_B²
(P.5)  Var[x] = ⟨σ_B²⟩ + Var_B[μ_B], weighted by count

Running averages mix the moments of many parameters, P.1, P.2 and P.5 are of one: "precise" batch
normalization.

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

# start, take one batch's moments, finish
_GATHER: dict[str, tuple[Any, Any, Any]] = {
    "pool": (population.empty, population.add, population.to_state),
    "average": (population.init, partial(population.update, decay=None), lambda state: state),
}

Gathered = tuple[Pool, ...] | tuple[PopulationState, ...]


def measure_population(
    net: Network,
    params: Params,
    data: Array | Iterable[Array | tuple[Array, Array]],
    *,
    batch_size: int | None = None,
    gather: str = "pool",
) -> State:
    """Measure the statistics for inference in one pass over data, with frozen parameters.

    Each batch is normalized with its own moments, as in training, and the moments that each layer
    sees are gathered.

    Args:
        net: The network; a baseline has nothing to measure.
        params: Its parameters.
        data: The inputs, (N, n_in), sharded or not; or batches of them, one after the other: an
            iterable of x (B, n_in) or of (x, where), where (B,) as in `bn_apply`. Each shape is
            compiled once.
        batch_size: How many samples of an array a batch holds, at least 2; None: all of them.
            Batches are dealt evenly, sample by sample, so that none is left with fewer than two
            samples and sorted data make no odd batch; of two sizes that differ by one, the larger
            is at most batch_size (3 where a batch of 2 would leave one sample alone).
        gather: "pool": the mean and variance of all that a layer saw (P.5). "average": the average
            of the batches' means and unbiased variances (P.1, P.2).

    Returns:
        The statistics, one `PopulationState` per normalization, for `bn_apply(train=False)`,
        `fold`, or to train on with.

    Raises:
        ValueError: data, batch_size or params do not fit, or gather is unknown.

    Example:
        >>> net = Network((2, 3, 1))
        >>> params, _ = network.init(net, jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (10, 2))
        >>> state = measure_population(net, params, x, batch_size=4)
        >>> print(state[0].batches, bool(jnp.allclose(state[0].mean, (x @ params[0].W).mean(0))))
        [3 3 3] True
    """
    if gather not in _GATHER:
        raise ValueError(unknown_name("measure_population", "gather", gather, _GATHER))
    network.check_params("measure_population", net, params, None)
    start, _, finish = _GATHER[gather]
    gathered = tuple(
        start(layer.gamma.shape, layer.gamma.dtype)
        for layer in params
        if isinstance(layer, NormDense)
    )
    if hasattr(data, "shape"):
        x = jnp.asarray(data)
        gathered = _scan(net, gather, _batches(net, params, x, batch_size), params, gathered, x)
    else:
        if batch_size is not None:
            raise ValueError(
                "measure_population: `batch_size` deals the samples of an array; got "
                f"{batch_size!r} and `data` that come in batches. Leave it out."
            )
        before = gathered
        for batch in data:
            x, where = batch if isinstance(batch, tuple) else (batch, None)
            x = jnp.asarray(x)
            network.check_batch_arguments("measure_population", net, params, x, where=where)
            if where is None:
                several_samples("measure_population", x, (1,))
            gathered = _take(net, gather, params, gathered, x, where)
        if gathered is before and gathered:
            raise ValueError("measure_population: `data` must hold a batch; got none.")
    return tuple(finish(one) for one in gathered)


def _batches(net: Network, params: Params, x: Array, batch_size: int | None) -> int:
    """Tell into how many batches the samples go."""
    network.check_batch_arguments("measure_population", net, params, x)
    several_samples("measure_population", x, (1,))
    if batch_size is not None and batch_size < 2:
        raise ValueError(
            "measure_population: `batch_size` must be at least 2, for a batch to have a variance; "
            f"got {batch_size!r}."
        )
    N = x.shape[0]
    return min(-(-N // (batch_size or N)), N // 2)


@partial(jax.jit, static_argnames=("net", "gather"))
def _take(
    net: Network, gather: str, params: Params, gathered: Gathered, x: Array, where: Array | None
) -> Gathered:
    """Take one batch in."""

    def normalized(layer: NormDense, x: Array, w: Array | None, _: object) -> tuple[Array, Moments]:
        return batch_norm(x, layer.gamma, layer.beta, eps=net.eps, where=w)

    passes = network.run_layers(net, params, (), x, where, normalized)
    moments = (p.found for p in passes if p.found is not None)
    take = _GATHER[gather][1]
    return tuple(take(before, one) for before, one in zip(gathered, moments, strict=True))


@partial(jax.jit, static_argnames=("net", "gather", "batches"))
def _scan(
    net: Network, gather: str, batches: int, params: Params, gathered: Gathered, x: Array
) -> Gathered:
    """Take an array in: batch k holds the samples k, k + batches, k + 2 batches, ..."""
    N, n_in = x.shape
    most = -(-N // batches)
    rest = most * batches - N
    # in this order a batch of samples that are spread over devices is spread over them as well
    xs = jnp.pad(x, ((0, rest), (0, 0))).reshape(most, batches, n_in).swapaxes(0, 1)
    places = jnp.arange(most * batches).reshape(most, batches).T

    def take(gathered: Gathered, batch: tuple[Array, Array]) -> tuple[Gathered, None]:
        x, place = batch
        where = place < N if rest else None
        return _take(net, gather, params, gathered, x, where), None

    return lax.scan(take, gathered, (xs, places))[0]
