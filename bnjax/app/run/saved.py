"""A run read back: its networks, its metrics, and how its data were scaled."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bnjax.app.errors import UserError
from bnjax.app.io import arrays as npz
from bnjax.app.io import files
from bnjax.app.run import metrics
from bnjax.app.run.config import Config
from bnjax.app.run.config import read as read_config
from bnjax.app.run.metrics import Line
from bnjax.app.run.networks import NAMES
from bnjax.network import Dense, Network, NormDense, Params, State, init
from bnjax.population import PopulationState


class SavedNetwork(NamedTuple):
    """One network of a run, as it was at the end.

    Attributes:
        net: The network.
        params: Its parameters.
        state: Its statistics for inference.
        metrics: One dict per epoch: cost, test_cost, train_accuracy, test_accuracy, step, ….
    """

    net: Network
    params: Params
    state: State
    metrics: list[Line]


@dataclass(frozen=True, eq=False)
class SavedRun:
    """A run of `bnjax train`.

    Attributes:
        path: Its folder.
        networks: "baseline" and "bn", as far as they were trained.
        config: What config.json holds.
        classes: The names of the classes in the order of their codes; empty for regression.
        center: What was subtracted from the features, (n_in,) or a scalar.
        spread: What they were divided by then, infinite where a feature was constant.
    """

    path: Path
    networks: dict[str, SavedNetwork]
    config: Config
    classes: tuple[str, ...]
    center: np.ndarray
    spread: np.ndarray

    def scale(self, x: np.ndarray) -> np.ndarray:
        """Scale raw features, (N, n_in), as those of the training set were."""
        return (np.asarray(x, np.float64) - self.center) / self.spread


def load_run(path: str | Path) -> SavedRun:
    """Read a run back that has come to its end, or was ended by Ctrl-C.

    Args:
        path: Its folder.

    Raises:
        UserError: It holds no such run, or one that cannot be read.

    Example:
        run = load_run("runs/digits")
        net, params, state, metrics = run.networks["bn"]
        logits, _ = bn_apply(net, params, state, jnp.asarray(run.scale(x)), train=False)
    """
    path = Path(path)
    config, options = read_config(path)
    lines = metrics.read(path)
    networks, scaling = {}, {}
    for name in NAMES:
        if not (file := path / f"params_{name}.npz").is_file():
            continue
        try:
            arrays = npz.load(file)
            scaling = {key: arrays[key] for key in ("classes", "center", "spread")}
            params, state = _layers(arrays)
            net = Network(
                (params[0].W.shape[0], *options.hidden, params[-1].W.shape[1]),
                activation=options.activation,
                cost=options.cost,
                norm=name == "bn",
                norm_output=name == "bn" and options.norm_output,
                eps=options.eps,
                decay=options.decay if options.statistics == "ema" else None,
            )
            _check_shapes(net, params, state)
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise UserError(
                f"{file}: expected the parameters of a network with the hidden layers "
                f"{options.hidden}, got others or a damaged file ({files.reason(error)}); train "
                "again"
            ) from error
        own = [line for line in lines if line["network"] == name]
        networks[name] = SavedNetwork(net, params, state, own)
    if not networks:
        raise UserError(
            f"{path}: expected params_NETWORK.npz of a run that has ended, got none; end it with "
            f"bnjax train --resume {path}"
        )
    classes = tuple(map(str, scaling["classes"]))
    return SavedRun(path, networks, config, classes, scaling["center"], scaling["spread"])


def _check_shapes(net: Network, params: Params, state: State) -> None:
    """Raise ValueError unless these are what `init` returns, but for the numbers."""
    wanted = jax.eval_shape(partial(init, net), jax.random.key(0))
    shapes, needed = (jax.tree.map(jnp.shape, tree) for tree in ((params, state), wanted))
    if shapes != needed:
        raise ValueError(f"shapes {shapes}, not {needed}")


def _layers(arrays: Mapping[str, np.ndarray]) -> tuple[Params, State]:
    params, state = [], []
    while f"layer{len(params)}.W" in arrays:
        layer = f"layer{len(params)}."
        parts = {
            key.removeprefix(layer): jnp.asarray(array)
            for key, array in arrays.items()
            if key.startswith(layer)
        }
        if "gamma" in parts:
            params.append(NormDense(*(parts[key] for key in NormDense._fields)))
            fields = {key: parts[key] for key in PopulationState._fields if key in parts}
            # runs of before have no `var_remainder`
            state.append(PopulationState(**{"var_remainder": 0 * fields["var"], **fields}))
        else:
            params.append(Dense(*(parts[key] for key in Dense._fields)))
    return tuple(params), tuple(state)
