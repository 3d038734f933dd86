"""A run read back: its networks, its metrics, and how its data were scaled."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bnjax.app import data as datasets
from bnjax.app.data import Preparation, Target, as_columns
from bnjax.app.errors import UserError
from bnjax.network import Dense, Network, NormDense, Params, State
from bnjax.population import PopulationState

METRICS = "metrics.jsonl"


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
    metrics: list[dict[str, Any]]


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
    config: dict[str, Any]
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
    config = read_config(path)
    options = config["options"]
    metrics = read_metrics(path)
    networks, preparation = {}, None
    if (file := path / datasets.FILE).exists():
        preparation = datasets.read_preparation(file)
    for name in ("baseline", "bn"):
        if not (file := path / f"params_{name}.npz").is_file():
            continue
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
                arrays = dict(archive)
            params, state = _layers(arrays)
            norm = name == "bn"
            net = Network(
                (*(layer.W.shape[0] for layer in params), params[-1].W.shape[1]),
                activation=options["activation"],
                cost=options["cost"],
                norm=norm,
                norm_output=norm and options["norm_output"],
                eps=options["eps"],
                decay=options["decay"] if options["statistics"] == "ema" else None,
            )
            preparation = preparation or _of_before(arrays, net.sizes[-1])
        except Exception as error:  # whatever a damaged archive makes NumPy raise
            raise UserError(
                f"{file}: expected the parameters of a network, got a damaged file ({error}); "
                "train again"
            ) from error
        networks[name] = SavedNetwork(
            net, params, state, [line for line in metrics if line["network"] == name]
        )
        _check(file, net, preparation)
    if preparation is None:
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


def _check(file: Path, net: Network, preparation: Preparation) -> None:
    """Refuse a preparation that is not that of the network."""
    n_out = len(preparation.classes) or len(preparation.targets)
    outputs = {n_out, 1} if n_out == 2 else {n_out}
    if preparation.n_in not in (0, net.sizes[0]) or net.sizes[-1] not in outputs:
        raise UserError(
            f"{file}: expected a network of {preparation.n_in or 'any'} features and {n_out} "
            f"outputs, as {datasets.FILE} says, got one of {net.sizes[0]} and {net.sizes[-1]}; "
            "train again"
        )


def read_config(path: Path) -> dict[str, Any]:
    """Read a run's config.json.

    Raises:
        UserError: It is missing or damaged.
    """
    return _read_json(path, "config.json")


def read_summary(path: Path) -> dict[str, Any] | None:
    """Read a run's summary.json; None where the run has not come to an end."""
    return _read_json(path, "summary.json") if (path / "summary.json").exists() else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a run's metrics.jsonl up to a torn line; a cost that JSON had no word for is NaN."""
    return [line for line, _ in lines(path)]


def lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Hand out each whole line of metrics.jsonl with the place where it ends."""
    end = 0
    for raw in (path / METRICS).read_bytes().splitlines(keepends=True):
        end += len(raw)
        try:
            line = json.loads(raw)
        except ValueError:
            return
        if not (raw.endswith(b"\n") and isinstance(line, dict) and {"network", "epoch"} <= {*line}):
            return
        costs = {key: line.get(key) for key in ("cost", "test_cost")}
        yield line | {key: np.nan if cost is None else cost for key, cost in costs.items()}, end


def covered(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> int:
    """Return the last epoch up to which each epoch has a line for each network."""
    found = {(line["network"], line["epoch"]) for line in metrics}
    epoch = 0
    while all((name, epoch + 1) in found for name in names):
        epoch += 1
    return epoch


def statistics(fields: Mapping[str, Any]) -> PopulationState:
    """Return statistics from their fields; runs of before have no `var_remainder`."""
    return PopulationState(**{"var_remainder": 0 * fields["var"], **fields})


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
            state.append(statistics(fields))
        else:
            params.append(Dense(*(parts[key] for key in Dense._fields)))
    return tuple(params), tuple(state)


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        return json.loads((path / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: {name} cannot be read: {reason}; name the folder of a run that bnjax "
            "train has begun"
        ) from None
