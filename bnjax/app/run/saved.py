"""A run read back: its networks, its metrics, and how its data were scaled."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bnjax.app import data as datasets
from bnjax.app.data import Preparation, Target, as_columns
from bnjax.app.errors import UserError
from bnjax.app.io import arrays as npz
from bnjax.app.io import files
from bnjax.app.run import metrics
from bnjax.app.run.config import Config
from bnjax.app.run.config import read as read_config
from bnjax.app.run.metrics import Line
from bnjax.app.run.networks import NAMES, make_network
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
        preparation: What turns raw columns into features, and outputs into predictions.
        classes: The names of the classes in the order of their codes; empty for regression.
        center: What was subtracted from the features, (n_in,) or a scalar.
        spread: What they were divided by then, infinite where a feature was constant.
    """

    path: Path
    networks: dict[str, SavedNetwork]
    config: Config
    preparation: Preparation

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes in the order of their codes; empty for regression."""
        return self.preparation.classes

    @property
    def center(self) -> np.ndarray:
        """Return what was subtracted from the features, (n_in,) or a scalar."""
        return np.asarray(self.preparation.center)

    @property
    def spread(self) -> np.ndarray:
        """Return what they were divided by then, infinite where a feature was constant."""
        return np.asarray(self.preparation.spread)

    def scale(self, x: ArrayLike) -> np.ndarray:
        """Scale raw features as those of the training set were.

        Args:
            x: (N, n_in) numbers; of a table with categories its columns in their order, (N, n),
                text where it is text, as a DataFrame has them.

        Returns:
            The features, (N, n_in).

        Raises:
            UserError: A column holds what it did not hold in training.
        """
        return self.preparation.features(as_columns(x, self.preparation.columns))


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
    networks, preparation = {}, None
    if (file := path / datasets.FILE).exists():
        preparation = datasets.read_preparation(file)
    for name in NAMES:
        if not (file := path / f"params_{name}.npz").is_file():
            continue
        try:
            arrays = npz.load(file)
            params, state = _layers(arrays)
            ends = params[0].W.shape[0], params[-1].W.shape[1]
            decay = options.decay if options.statistics == "ema" else None
            net = make_network(options, *ends, name, decay=decay)
            _check_shapes(net, params, state)
            preparation = preparation or _of_before(arrays, net.sizes[-1])
            _check(net, preparation)
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise UserError(
                f"{file}: expected the parameters of a network with the hidden layers "
                f"{options.hidden}, got others or a damaged file ({files.reason(error)}); train "
                "again"
            ) from error
        own = [line for line in lines if line["network"] == name]
        networks[name] = SavedNetwork(net, params, state, own)
    if preparation is None or not networks:
        raise UserError(
            f"{path}: expected params_NETWORK.npz of a run that has ended, got none; end it with "
            f"bnjax train --resume {path}"
        )
    return SavedRun(path, networks, config, preparation)


def _of_before(arrays: Mapping[str, np.ndarray], n_out: int) -> Preparation:
    """Return the preparation of a run that kept its scaling beside the parameters."""
    classes = tuple(map(str, arrays["classes"]))
    targets = () if classes else tuple(Target(f"y[{i}]") for i in range(n_out))
    center, spread = (np.asarray(arrays[key], np.float64) for key in ("center", "spread"))
    return Preparation(center, spread, classes, targets)


def _check(net: Network, preparation: Preparation) -> None:
    """Raise ValueError for a preparation that is not that of the network."""
    n_out = len(preparation.classes) or len(preparation.targets)
    outputs = {n_out, 1} if n_out == 2 else {n_out}
    if preparation.n_in not in (0, net.sizes[0]) or net.sizes[-1] not in outputs:
        raise ValueError(
            f"{net.sizes[0]} features and {net.sizes[-1]} outputs, where {datasets.FILE} says "
            f"{preparation.n_in or 'any'} and {n_out}"
        )


def _check_shapes(net: Network, params: Params, state: State) -> None:
    """Raise ValueError unless these are what `init` returns, but for the numbers."""
    if len(params) != len(net.sizes) - 1:  # before thousands of layers are traced
        raise ValueError(f"{len(params)} layers")
    wanted = jax.eval_shape(partial(init, net), jax.random.key(0))
    got, needed = (
        jax.tree.map(lambda leaf: (*leaf.shape, np.dtype(leaf.dtype).kind), tree)
        for tree in ((params, state), wanted)
    )
    if got != needed:
        raise ValueError(f"shapes and kinds {got}, not {needed}")


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
