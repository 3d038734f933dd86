"""What fits a network, and what does not."""

from jax import Array

from bnjax import _checks
from bnjax.layout import accumulator_dtype
from bnjax.network.definition import Dense, Network, NormDense, Params, State


def check_batch_arguments(
    function: str,
    net: Network,
    params: Params,
    x: Array,
    *,
    state: State | None = None,
    train: bool = True,
    targets: Array | None = None,
    where: Array | None = None,
) -> None:
    """Refuse arguments that do not fit the network or each other; None is not checked."""
    for name, array in (("x", x), ("targets", targets)):
        if array is not None and not hasattr(array, "dtype"):
            raise TypeError(
                f"{function}: `{name}` must be an array; got {type(array).__name__}. Convert it "
                f"first: jnp.asarray({name})."
            )
    if x.ndim != 2 or x.shape[1] != net.sizes[0]:
        raise ValueError(
            f"{function}: `x` must have shape (B, {net.sizes[0]}) for a network of sizes "
            f"{net.sizes}; got {x.shape}."
        )
    check_params(function, net, params, state, train=train)
    if where is not None and where.shape != x.shape[:1]:
        raise ValueError(
            f"{function}: `where` must have shape ({x.shape[0]},), one weight per sample of `x`; "
            f"got {where.shape}."
        )
    if where is not None:
        _checks.weights(function, where, accumulator_dtype(x.dtype))
    if targets is not None and targets.shape != (x.shape[0], net.sizes[-1]):
        raise ValueError(
            f"{function}: `targets` must have shape {(x.shape[0], net.sizes[-1])}, one row per "
            f"sample and one column per output; got {targets.shape}.{_way_out(targets, net)}"
        )


def _way_out(targets: Array, net: Network) -> str:
    """Return what makes rows of labels, where targets look like these."""
    if targets.ndim > 2 or (targets.ndim == 2 and targets.shape[1] != 1):
        return ""
    if net.sizes[-1] == 1:
        return " One column of them is targets[:, None]."
    labels = "labels" if targets.ndim == 1 else "labels[:, 0]"
    return f" Labels become such rows by jax.nn.one_hot({labels}, {net.sizes[-1]})."


def check_params(
    function: str, net: Network, params: Params, state: State | None, *, train: bool = False
) -> None:
    """Refuse parameters and running statistics that are not the network's.

    Training needs the statistics of every decay, evaluation those of `net.decay` alone.
    """
    kinds = tuple(NormDense if norm else Dense for norm in net.normalized)
    if tuple(type(layer) for layer in params) != kinds:
        raise ValueError(
            f"{function}: `params` must be what `init` gives for this network: "
            f"{[k.__name__ for k in kinds]}; got {[type(layer).__name__ for layer in params]}."
        )
    needed = sum(net.normalized)
    every = needed * (1 + len(net.other_decays))
    if state is None or len(state) == every or (len(state) == needed and not train):
        return
    each = f" and decay, {1 + len(net.other_decays)} of these" if net.other_decays else ""
    raise ValueError(
        f"{function}: `state` must hold one PopulationState per normalization{each}: {every} in "
        f"all; got {len(state)}. `init` gives it with the params."
    )
