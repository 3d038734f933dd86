"""The two networks of the sources: the baseline (BL) and the batch-normalized one (BN).

(BL.1)  y = u W + b,  u_next = g(y)
(BN.1)  x = u W, without a bias: β is the bias
(BN.3)  y = γ x̂ + β,  u_next = g(y): normalization comes right before the activation

The last layer hands out logits: its function is the cost's own link (BL.3).

Source: S0/S1 §1 and §2, S3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from bnjax import activations, costs, population
from bnjax.activations import Activation
from bnjax.collectives import Names
from bnjax.moments import Moments
from bnjax.norm import batch_norm, normalize
from bnjax.population import PopulationState


class Dense(NamedTuple):
    """A layer y = u W + b: W (n_in, n_out), b (n_out,)."""

    W: Array
    b: Array


class NormDense(NamedTuple):
    """A layer y = γ x̂ + β with x = u W: W (n_in, n_out), gamma and beta (n_out,)."""

    W: Array
    gamma: Array
    beta: Array


Params = tuple[Dense | NormDense, ...]
State = tuple[Any, ...]  # of PopulationState, or of tuples of these where `decay` is a tuple


@dataclass(frozen=True)
class Network:
    """A fully connected network: static and hashable, so that it can be closed over under jit.

    Attributes:
        sizes: (n_in, hidden..., n_out), each at least 1.
        activation: g of the hidden layers: a name in `activations.ACTIVATIONS`, or an `Activation`.
        cost: A name in `costs.COSTS`; it brings the last layer's link.
        norm: Whether the hidden layers are normalized (BN); False is the baseline (BL).
        norm_output: Whether the last layer is normalized too, as in the sources' network.
        eps: ε ≥ 0 of every normalization.
        decay: Weight on the old running statistics, in [0, 1); None: cumulative average (P.1, P.2).
            A tuple of these keeps several side by side: the state then holds a tuple of
            `PopulationState` per normalization, of which evaluation reads the first.
    """

    sizes: tuple[int, ...]
    activation: str | Activation = "sigmoid"
    cost: str = "sigmoid_cross_entropy"
    norm: bool = True
    norm_output: bool = False
    eps: float = 1e-5
    decay: float | None | tuple[float | None, ...] = 0.9

    def __post_init__(self) -> None:
        """Refuse what could not be trained."""
        if not isinstance(self.sizes, tuple):
            raise TypeError(
                f"Network: `sizes` must be a tuple, to be hashable; got {type(self.sizes).__name__}"
                ". Write tuple(sizes)."
            )
        if len(self.sizes) < 2 or any(not isinstance(n, int) or n < 1 for n in self.sizes):
            raise ValueError(
                "Network: `sizes` must be (n_in, hidden..., n_out), integers of at least 1; "
                f"got {self.sizes}."
            )
        activations.get(self.activation)
        costs.get(self.cost)
        if self.norm_output and not self.norm:
            raise ValueError(
                "Network: `norm_output` normalizes the last layer of a network with `norm=True`; "
                "got norm=False. Leave it out for the baseline."
            )
        if not 0 <= self.eps < float("inf"):
            raise ValueError(f"Network: `eps` must be finite and >= 0; got {self.eps!r}.")
        decays = self.decay if isinstance(self.decay, tuple) else (self.decay,)
        if not decays or any(decay is not None and not 0 <= decay < 1 for decay in decays):
            raise ValueError(
                "Network: `decay`, the weight on the old statistics, must be None or in [0, 1), or "
                f"a tuple of these; got {self.decay!r}."
            )

    @property
    def normalized(self) -> tuple[bool, ...]:
        """Which layers are normalized, first to last."""
        layers = len(self.sizes) - 1
        return (self.norm,) * (layers - 1) + (self.norm and self.norm_output,)


def init(net: Network, key: Array) -> tuple[Params, State]:
    """Draw a network's parameters: W Glorot-uniform, b = β = 0, γ = 1.

    The weights depend on the key and the sizes alone: the baseline and the normalized network
    start from the same ones.

    Args:
        net: The network.
        key: A `jax.random.key`.

    Returns:
        params: A tuple of `Dense` or `NormDense`, in JAX's default float.
        state: A tuple of `PopulationState`, one per normalization; () for the baseline.

    Example:
        >>> params, state = init(Network((4, 8, 2)), jax.random.key(0))
        >>> print(params[0].W.shape, params[0].gamma.shape, params[1].b.shape, len(state))
        (4, 8) (8,) (2,) 1
    """
    dtype = jnp.result_type(float)
    shapes = list(zip(net.sizes[:-1], net.sizes[1:], strict=True))
    # one draw for all layers: each shape drawn by itself is one more program to compile
    ends = list(accumulate(n_in * n_out for n_in, n_out in shapes))
    drawn = jax.random.uniform(key, ends[-1:], dtype, -1, 1)
    decays = net.decay if isinstance(net.decay, tuple) else (net.decay,)
    params, state = [], []
    for (n_in, n_out), end, norm in zip(shapes, ends, net.normalized, strict=True):
        limit = (6 / (n_in + n_out)) ** 0.5  # Glorot & Bengio 2010, eq. 16
        W = limit * drawn[end - n_in * n_out : end].reshape(n_in, n_out)
        zeros = jnp.zeros(n_out, dtype)
        if norm:
            params.append(NormDense(W, jnp.ones(n_out, dtype), zeros))
            fresh = [population.init(n_out, dtype) for _ in decays]
            state.append(tuple(fresh) if isinstance(net.decay, tuple) else fresh[0])
        else:
            params.append(Dense(W, zeros))
    return tuple(params), tuple(state)


def apply(net: Network, params: Params, x: Array) -> Array:
    """Run the baseline network: BL.1, layer after layer.

    Args:
        net: A network with `norm=False`.
        params: As `init` gives them.
        x: Inputs, (B, n_in).

    Returns:
        Logits, (B, n_out); `costs.get(net.cost).link` makes predictions of them.

    Raises:
        ValueError: The network is normalized, or x does not fit.

    Example:
        >>> net = Network((2, 1), norm=False)
        >>> print(apply(net, (Dense(jnp.ones((2, 1)), jnp.ones(1)),), jnp.array([[1.0, 2.0]])))
        [[4.]]
    """
    if net.norm:
        raise ValueError(
            "apply: `net` must be a baseline network (norm=False); got norm=True. Use `bn_apply`."
        )
    return bn_apply(net, params, (), x, train=False)[0]


def bn_apply(
    net: Network,
    params: Params,
    state: State,
    x: Array,
    *,
    train: bool,
    rule: str = "vjp",
    where: Array | None = None,
    axis_name: Names = None,
) -> tuple[Array, State]:
    """Run the network: BN.1–BN.3 for each normalized layer, BL.1 for the others.

    Args:
        net: The network; a baseline, which has no state, is accepted too.
        params: As `init` gives them.
        state: As `init` gives it: statistics for inference.
        x: Inputs, (B, n_in).
        train: Whether to normalize with the batch's own moments, and take them into the state
            (P.1, P.2, P.7), or with the statistics gathered so far (P.3): sample by sample, so a
            batch of one will do. Static.
        rule: Which derivative `batch_norm` has; see there.
        where: None, or w, (B,): a mask or weights ≥ 0, one per sample. Samples of zero weight
            influence nothing, NaN included.
        axis_name: Mesh or vmapped axes over which the batch is spread; see `batch_norm`.

    Returns:
        Logits, (B, n_out), and the state: a new one in training, the same otherwise.

    Raises:
        ValueError: x, params, state or where do not fit the network; or train is False and some
            channel has seen no batch. Where the state is traced, under jit say, that cannot be
            known: such a channel has mean 0 and variance 1.

    Example:
        >>> net = Network((2, 3, 1))
        >>> params, state = init(net, jax.random.key(0))
        >>> logits, state = bn_apply(net, params, state, jnp.eye(2), train=True)
        >>> print(logits.shape, state[0].batches)
        (2, 1) [1 1 1]
    """
    check("bn_apply", net, params, x, state=state, where=where)
    if not train:
        population.check_seen("bn_apply", read(state))
    seen = iter(state if train else read(state))
    gathered = []

    def batch(layer: NormDense, x: Array, w: Array | None) -> Array:
        y, moments = batch_norm(
            x, layer.gamma, layer.beta, eps=net.eps, where=w, axis_name=axis_name, rule=rule
        )
        gathered.append(keep(net, next(seen), moments))
        return y

    def given(layer: NormDense, x: Array, w: Array | None) -> Array:
        mean, var, _, _, remainder = next(seen)
        # around the mean's first float: the second would be lost in a sum of both
        y = normalize(x - mean[None], remainder, var, layer.gamma, layer.beta, eps=net.eps)  # P.3
        return y.astype(x.dtype)

    _, y = sweep(net, params, x, where, batch if train else given)[-1]
    return y, tuple(gathered) if train else state


def keep(net: Network, kept: Any, moments: Moments) -> Any:
    """Take a batch's moments into what one normalization keeps."""
    if not isinstance(net.decay, tuple):
        return population.update(kept, moments, decay=net.decay)
    pairs = zip(kept, net.decay, strict=True)
    return tuple(population.update(state, moments, decay=decay) for state, decay in pairs)


def read(state: State) -> tuple[PopulationState, ...]:
    """Give what evaluation reads of a state: of several kept side by side the first."""
    return tuple(kept if isinstance(kept, PopulationState) else kept[0] for kept in state)


def sweep(
    net: Network,
    params: Params,
    x: Array,
    where: Array | None,
    normalized: Callable[[NormDense, Array, Array | None], Array],
) -> list[tuple[Array, Array]]:
    """Run the layers: BL.1, or BN.1 and `normalized`(layer, x, w) -> y; (u, y) of each.

    w is `where` as (B, 1).
    """
    w = None if where is None else where[:, None]
    g = activations.get(net.activation).g
    # u W would carry NaN under a zero weight into ∂C/∂W = uᵀ Δ
    u = x if w is None else jnp.where(w > 0, x, 0)
    passed = []
    for layer in params:
        if passed:
            u = g(passed[-1][1])
        if isinstance(layer, Dense):
            y = u @ layer.W + layer.b[None]  # BL.1
        else:
            y = normalized(layer, u @ layer.W, w)  # BN.1–BN.3
        passed.append((u, y))
    return passed


def cost(
    net: Network,
    params: Params,
    state: State,
    x: Array,
    targets: Array,
    *,
    train: bool = True,
    rule: str = "vjp",
    where: Array | None = None,
    axis_name: Names = None,
) -> tuple[Array, State]:
    """Compute C of a batch (BL.2), and the state that `bn_apply` leaves.

    Args:
        net: The network.
        params: As `init` gives them.
        state: As `init` gives it.
        x: Inputs, (B, n_in).
        targets: φ, (B, n_out).
        train: As in `bn_apply`.
        rule: As in `bn_apply`.
        where: As in `bn_apply`; the cost is weighted with it, too.
        axis_name: As in `bn_apply`; C is that of the whole batch. Differentiate it under
            `shard_map` with types checked: elsewhere JAX pulls a psum back as one more psum, and
            the gradient of `part` is what adds up.

    Returns:
        C, a scalar, and the state: ready for `jax.value_and_grad(..., has_aux=True)`.

    Raises:
        ValueError: An argument does not fit the network.

    Example:
        >>> net = Network((2, 1), norm=False, cost="squared_error")
        >>> params = (Dense(jnp.ones((2, 1)), jnp.zeros(1)),)
        >>> value, _ = cost(net, params, (), jnp.ones((3, 2)), jnp.zeros((3, 1)))
        >>> print(value)
        2.0
    """
    mine, state = part(
        net, params, state, x, targets, train=train, rule=rule, where=where, axis_name=axis_name
    )
    return mine if axis_name is None else lax.psum(mine, axis_name), state


def part(
    net: Network,
    params: Params,
    state: State,
    x: Array,
    targets: Array,
    *,
    train: bool,
    rule: str,
    where: Array | None,
    axis_name: Names,
    sync_statistics: bool = True,
) -> tuple[Array, State]:
    """Compute this device's part of C, and its state: over `axis_name` the parts add up to C.

    Without `sync_statistics` each device normalizes with the moments of its own samples.
    """
    check("cost", net, params, x, state=state, where=where, targets=targets)
    normalized_over = axis_name if sync_statistics else None
    y, state = bn_apply(
        net, params, state, x, train=train, rule=rule, where=where, axis_name=normalized_over
    )
    mean = value(net, y, targets, where)[0]
    return mean if axis_name is None else share(x, where, axis_name) * mean, state


def share(x: Array, where: Array | None, axis_name: Names) -> Array | float:
    """Tell which part of the batch's weight lies on this device: Σ_s w_s here / Σ_s w_s."""
    if where is None:
        return x.shape[0] / lax.psum(x.shape[0], axis_name)
    n = jnp.sum(where.astype(x.dtype))
    total = lax.psum(n, axis_name)
    return n / jnp.where(total > 0, total, 1)


def value(net: Network, y: Array, targets: Array, where: Array | None) -> tuple[Array, Array]:
    """Compute C of logits (BL.2); hand out the targets without those of zero weight, too."""
    if where is not None:
        targets = jnp.where(where[:, None] > 0, targets, 0)
    return costs.mean(costs.get(net.cost).per_sample(y, targets), where), targets


def check(
    function: str,
    net: Network,
    params: Params,
    x: Array,
    *,
    state: State | None = None,
    targets: Array | None = None,
    where: Array | None = None,
) -> None:
    """Refuse arguments that do not fit the network or each other; None is not looked at."""
    if x.ndim != 2 or x.shape[1] != net.sizes[0]:
        raise ValueError(
            f"{function}: `x` must have shape (B, {net.sizes[0]}) for a network of sizes "
            f"{net.sizes}; got {x.shape}."
        )
    check_params(function, net, params, state)
    if where is not None and where.shape != x.shape[:1]:
        raise ValueError(
            f"{function}: `where` must have shape ({x.shape[0]},), one weight per sample of `x`; "
            f"got {where.shape}."
        )
    if targets is not None and targets.shape != (x.shape[0], net.sizes[-1]):
        raise ValueError(
            f"{function}: `targets` must have shape {(x.shape[0], net.sizes[-1])}, one row per "
            f"sample and one column per output; got {targets.shape}."
        )


def check_params(function: str, net: Network, params: Params, state: State | None) -> None:
    """Refuse parameters and statistics that are not the network's."""
    kinds = tuple(NormDense if norm else Dense for norm in net.normalized)
    if tuple(type(layer) for layer in params) != kinds:
        raise ValueError(
            f"{function}: `params` must be what `init` gives for this network: "
            f"{[k.__name__ for k in kinds]}; got {[type(layer).__name__ for layer in params]}."
        )
    if state is not None and len(state) != sum(net.normalized):
        raise ValueError(
            f"{function}: `state` must hold one PopulationState per normalization, "
            f"{sum(net.normalized)} of them; got {len(state)}. `init` gives it with the params."
        )
