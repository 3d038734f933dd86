"""metrics.jsonl: one line of JSON for each network and epoch."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import msgspec
import numpy as np

from bnjax.app.errors import UserError
from bnjax.app.io import files

FILE = "metrics.jsonl"
TARGET_ACCURACY = 0.95
_MOST = 2**32  # bytes: a million epochs with --diagnostics


class Inputs(TypedDict):
    """What one neuron of the last hidden layer is fed with."""

    neuron: int
    percentiles: tuple[float | None, float | None, float | None]  # 15th, 50th, 85th


class Line(TypedDict):
    """What is known of a network after an epoch; NaN where a cost is not finite."""

    network: str
    epoch: int
    step: int
    cost: float  # the mean over the epoch's batches
    test_cost: float
    train_accuracy: float | None  # None for regression
    test_accuracy: float | None
    seconds: float  # since the first epoch, evaluation included
    inputs: NotRequired[Inputs]
    geometry: NotRequired[dict[str, Any]]


class _Written(Line):
    cost: float | None  # pyright: ignore[reportIncompatibleVariableOverride]
    test_cost: float | None  # pyright: ignore[reportIncompatibleVariableOverride]


_decoder = msgspec.json.Decoder(_Written)


def read(path: Path) -> list[Line]:
    """Read the lines of a run, up to a torn last one.

    Raises:
        UserError: The file cannot be read, or a line is not one of `Line`.
    """
    return [line for line, _ in lines(path)]


def lines(path: Path) -> Iterator[tuple[Line, int]]:
    """Return each whole line of a run's metrics.jsonl with the place where it ends.

    Raises:
        UserError: As `read`.
    """
    file = path / FILE
    try:
        files.check_plain(file, most=_MOST)
        content = file.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{file}: {files.reason(error)}; see to its permissions") from None
    end = 0
    for number, raw in enumerate(content.splitlines(keepends=True), start=1):
        end += len(raw)
        try:
            line = _decoder.decode(raw)
        except (ValueError, RecursionError) as error:
            if not raw.endswith(b"\n"):
                return
            raise UserError(
                f"{file}, line {number}: {files.reason(error)}; correct it, or train again"
            ) from None
        if not raw.endswith(b"\n"):
            return
        costs = {key: np.nan if line[key] is None else line[key] for key in ("cost", "test_cost")}
        yield Line(**{**line, **costs}), end


def steps_to_target(of_network: Sequence[Line]) -> int | None:
    """Return the step at which the test accuracy was first seen to reach the target, if any."""
    steps = (one["step"] for one in of_network if (one["test_accuracy"] or 0) >= TARGET_ACCURACY)
    return next(steps, None)


def epoch_seconds(of_network: Sequence[Line]) -> float | None:
    """Return the median time of an epoch; None before the second: the first one warms up.

    The networks of a run train an epoch each in turn, and the first network's first epoch pays for
    the threads and memory that all others find ready.
    """
    ends = [line["seconds"] for line in of_network]
    return float(np.median(np.diff(ends))) if len(ends) > 1 else None


def covered(metrics: Sequence[Mapping[str, Any]], names: Collection[str]) -> int:
    """Return the last epoch up to which each epoch has a line for each network."""
    found = {(line["network"], line["epoch"]) for line in metrics}
    epoch = 0
    while all((name, epoch + 1) in found for name in names):
        epoch += 1
    return epoch
