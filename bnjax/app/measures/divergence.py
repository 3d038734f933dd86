"""Where a network was lost: the first cost and the first parameter that are not finite."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from bnjax.network import Params
from bnjax.training import Step, TrainState


class Divergence(NamedTuple):
    """What is known of the end of a network; steps are counted from 1 over the whole run."""

    epoch: int
    step: int  # the first whose cost is not finite, or that left a parameter that is not
    cost: float | None  # None: not finite, and read back from a file that has no word for that
    parameter: str | None  # the first that went, in the order of the layers; None: all are finite
    parameter_step: int | None


def find(
    step: Step,
    states: tuple[TrainState, TrainState],
    batches: Callable[[], tuple[np.ndarray, Array, Array]],
    *,
    epoch: int,
    costs: np.ndarray,
) -> Divergence | None:
    """Look whether an epoch lost the network; if so, go through it again, step by step.

    Args:
        step: One step of it, as `training.make_step` makes it.
        states: Before the epoch, and after.
        batches: Returns the epoch's (steps, B), as `training.shuffle` orders them, and x and
            targets whole.
        epoch: Its number.
        costs: Its costs, (steps,).

    Returns:
        What was lost first, or None. Compiled alone a step rounds differently than in the epoch:
        where nothing is lost the second time, the parameter is one that is lost in the end.
    """
    bad = np.flatnonzero(~np.isfinite(costs))
    lost = _first_lost(states[1].params)
    if not bad.size and lost is None:
        return None
    order, x, targets = batches()
    state, compiled = states[0], jax.jit(step)
    done = int(state.step)
    at = int(bad[0]) if bad.size else len(costs) - 1
    for number, indices in enumerate(order, start=done + 1):
        where = None if indices.min() >= 0 else indices >= 0
        state, _ = compiled(state, x[indices], targets[indices], where)
        if (parameter := _first_lost(state.params)) is not None:
            return Divergence(epoch, done + at + 1, float(costs[at]), parameter, number)
    at_end = None if lost is None else done + len(costs)
    return Divergence(epoch, done + at + 1, float(costs[at]), lost, at_end)


def _first_lost(params: Params) -> str | None:
    """Name the first parameter that holds NaN or infinity, as in params_NETWORK.npz."""
    for number, layer in enumerate(params):
        for kind, array in layer._asdict().items():
            if not np.isfinite(np.asarray(array)).all():
                return f"layer{number}.{kind}"
    return None


def describe(name: str, found: Divergence) -> str:
    """Say in one line what was lost, and where."""
    if found.cost is not None and np.isfinite(found.cost):
        cost = "the costs are finite"
    else:
        cost = f"the cost is {found.cost} at step {found.step}"
    if found.parameter is None:
        went = "no parameter has gone yet"
    else:
        went = f"the first parameter that went is {found.parameter}, at step {found.parameter_step}"
    return f"{name} diverged in epoch {found.epoch}: {cost}; {went}"
