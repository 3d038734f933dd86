"""How far the hand-derived gradient is from autodiff's, on a real batch while training."""

from collections.abc import Callable

from jax import Array
from jax.typing import ArrayLike

from bnjax import audit, network
from bnjax.network import Network, NormDense
from bnjax.training import TrainState

Differences = dict[str, float]


def make_comparison(
    net: Network,
) -> Callable[[TrainState, ArrayLike, ArrayLike, ArrayLike], Differences]:
    """Make the function that compares both gradients of a normalized network.

    Returns:
        compare(train_state, x, targets, where) -> for each parameter kind of the normalized
        layers (W, gamma, beta) the largest |∂C by rule − ∂C by autodiff| / |∂C by autodiff| over
        the layers, each a norm over the whole parameter.
    """

    def cost(rule: str) -> Callable[..., Array]:
        def by_rule(params: network.Params, state, x: Array, targets: Array, where: Array) -> Array:
            return network.cost(net, params, state, x, targets, rule=rule, where=where)[0]

        return by_rule

    # both in the dtype that is trained in
    run = audit.make_compare(
        cost("vjp"),
        cost("autodiff"),
        argnums=0,
        modes="vjp",
        transforms="jit",
        dtype_reference=None,
        directions=0,
    )

    def compare(
        train_state: TrainState, x: ArrayLike, targets: ArrayLike, where: ArrayLike
    ) -> Differences:
        params, state, *_ = train_state
        report = run((params, state, x, targets, where))
        relative = {row.leaf: row.relative for row in report.rows}
        layers = [i for i, layer in enumerate(params) if isinstance(layer, NormDense)]
        return {
            kind: max(relative[f"params[{i}].{kind}"] for i in layers) for kind in NormDense._fields
        }

    return compare
