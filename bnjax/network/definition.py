"""What a network is: its static configuration, its parameters, its running statistics.

(BL.1)  y = u W + b
(BN.1)  x = u W

A normalized layer has no bias: β is the bias (BN.6).

Source: S0/S1 §1 and §2, S3.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from numbers import Real
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from bnjax import _checks, activations, costs, population
from bnjax.activations import Activation
from bnjax.network import initializers
from bnjax.network.initializers import Initializer
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
State = tuple[PopulationState, ...]


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
        decay: Weight on the old running statistics, in [0, 1) (P.7); None: cumulative average
            (P.1, P.2).
        other_decays: The decays of further running statistics, kept side by side with those that
            evaluation reads.
        initializer: What draws the weights: a name in `jax.nn.initializers`, "glorot_uniform",
            "he_normal", "orthogonal", …, or a function (key, shape, dtype) -> W.
        init_scale: The factor on every initial W, above 0.
    """

    sizes: tuple[int, ...]
    activation: str | Activation = "sigmoid"
    cost: str = "sigmoid_cross_entropy"
    norm: bool = True
    norm_output: bool = False
    eps: float = 1e-5
    decay: float | None = 0.9
    other_decays: tuple[float | None, ...] = ()
    initializer: str | Initializer = "glorot_uniform"
    init_scale: float = 1.0

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
        _checks.finite_eps("Network", self.eps)
        _checks.decay_or_none("Network", "decay", self.decay)
        for decay in self.other_decays:
            _checks.decay_or_none("Network", "other_decays", decay)
        initializers.get(self.initializer)
        scale = self.init_scale
        if isinstance(scale, bool) or not isinstance(scale, Real) or not 0 < scale < float("inf"):
            raise ValueError(
                "Network: `init_scale` must be a static, finite Python number > 0; got "
                f"{scale!r}. Scale traced numbers into the params that `init` returns."
            )

    @property
    def normalized(self) -> tuple[bool, ...]:
        """Which layers are normalized, first to last."""
        layers = len(self.sizes) - 1
        return (self.norm,) * (layers - 1) + (self.norm and self.norm_output,)


def init(net: Network, key: Array) -> tuple[Params, State]:
    """Draw a network's parameters: W as `net.initializer` says, b = β = 0, γ = 1.

    The weights depend on the key, the sizes, the initializer and the scale alone: the baseline and
    the normalized network start from the same ones.

    Args:
        net: The network.
        key: A `jax.random.key`.

    Returns:
        (params, state): A tuple of `Dense` or `NormDense`, in JAX's default float; and a tuple of
        `PopulationState`, one per normalization, () for the baseline; then as many again for each
        of `net.other_decays`.

    Example:
        >>> params, state = init(Network((4, 8, 2)), jax.random.key(0))
        >>> print(params[0].W.shape, params[0].gamma.shape, params[1].b.shape, len(state))
        (4, 8) (8,) (2,) 1
    """
    dtype = jnp.result_type(float)
    params, widths = [], []
    for W, norm in zip(_draw_weights(net, key, dtype), net.normalized, strict=True):
        n_out = W.shape[1]
        zeros = jnp.zeros(n_out, dtype)
        if norm:
            params.append(NormDense(W, jnp.ones(n_out, dtype), zeros))
            widths.append(n_out)
        else:
            params.append(Dense(W, zeros))
    decays = net.decay, *net.other_decays
    state = tuple(population.init(n, dtype) for _ in decays for n in widths)
    return tuple(params), state


def _draw_weights(net: Network, key: Array, dtype: DTypeLike) -> list[Array]:
    """Draw every W, scaled by `net.init_scale`."""
    shapes = list(pairwise(net.sizes))
    if net.initializer != "glorot_uniform":
        draw, keys = initializers.get(net.initializer), jax.random.split(key, len(shapes))
        drawn = [draw(k, shape, dtype) for k, shape in zip(keys, shapes, strict=True)]
    else:
        # one draw for all layers: each shape drawn by itself is one more program to compile
        ends = list(accumulate(n_in * n_out for n_in, n_out in shapes))
        uniform = jax.random.uniform(key, ends[-1:], dtype, -1, 1)
        drawn = []
        for (n_in, n_out), end in zip(shapes, ends, strict=True):
            limit = (6 / (n_in + n_out)) ** 0.5  # Glorot & Bengio 2010, eq. 16
            drawn.append(limit * uniform[end - n_in * n_out : end].reshape(n_in, n_out))
    return drawn if net.init_scale == 1 else [float(net.init_scale) * W for W in drawn]
