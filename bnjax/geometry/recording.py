"""What a training looked like, layer by layer: a recording, in memory and as a file.

The file holds one JSON object a line: the layers first, then one look each. A crash may tear the
last line, which is then left out. What a layer does not have is null in the file, NaN in memory.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from bnjax.geometry.histograms import COSINE_BINS

FORMAT = "bnjax recording"
VERSION = 1
COSINES = ("cos1", "cos2", "cos3")
# each is a number for each layer; `Recording` says what they mean
FIGURES = (
    *("error", "propagated", "W", "turning", "cosine", "W_bar", "covariance", "means"),
    *("gamma", "gamma_bar", "eps_share", "removed"),
    *("dead", "constant_error", "constant_x", "constant_inputs", "copies", "copied_inputs"),
    *("zero_gamma", "swallowed", "saturated", "bounded"),
    *("handed_to_gamma", "stopped", "synced", "largest_group"),
)
_STATIC = ("names", "norm", "unfollowed", "skipped", "samples")


@dataclass(frozen=True, eq=False)
class Recording:
    """What L layers looked like at K moments of a training.

    Attributes:
        names: The layers in the order of the program, L different ones.
        norm: Whether each is normalized.
        unfollowed: Why the inputs of each are not known, or "".
        skipped: (name, reason) of each layer that is not measured.
        samples: B of each layer; in a convolution samples times positions.
        steps: (K,) int64, increasing: the steps of the training.
        looks: (K,), structured, of dtype `look_dtype(L)`: `looks["dead"]` is (K, L). There may be
            further fields. NaN stands for what a layer does not have, or what is not known. The
            fields:

            - cos1, cos2, cos3, error, propagated, W, turning, cosine, W_bar, covariance, means,
              dead, handed_to_gamma, stopped, synced, largest_group, eps_share, removed, gamma_bar:
              as in `Summary`.
            - gamma: γ_i, root mean square over the neurons.
            - constant_error: fraction of the neurons whose Δ is the same for all samples, but not
              zero.
            - constant_x: fraction of the neurons whose x is the same for all samples.
            - constant_inputs: fraction of the inputs that are the same for all samples; in a
              convolution of the channels that are, at all positions of the image.
            - copies: fraction of the neurons whose x is, but for shift and factor, that of another
              neuron of the layer.
            - copied_inputs: the same of the inputs, in a convolution of the channels.
            - zero_gamma: fraction of the neurons with |γ_i| under 1/1000 of the largest, or with
              γ_i = 0.
            - swallowed: fraction of the neurons whose x varies, but with σ² < ε.
            - saturated: fraction of the values y at which the activation has a derivative under
              `SATURATED`.
            - bounded: 1 where that activation is flat on both sides, as the sigmoid; 0 if not.
    """

    names: tuple[str, ...]
    norm: tuple[bool, ...]
    unfollowed: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    samples: tuple[int, ...]
    steps: np.ndarray
    looks: np.ndarray

    def __post_init__(self) -> None:
        """Raise where the parts do not fit each other.

        Raises:
            ValueError: As the message says.
        """
        lengths = {len(getattr(self, name)) for name in ("names", "norm", "unfollowed", "samples")}
        if len(lengths) != 1 or len(set(self.names)) != len(self.names):
            raise ValueError(
                "geometry.Recording: `names`, `norm`, `unfollowed` and `samples` must have one "
                f"entry per layer, and each layer its own name; got {self.names}, {self.norm}, "
                f"{self.unfollowed} and {self.samples}."
            )
        wanted, got = look_dtype(len(self.names)), self.looks.dtype
        missing = [f for f in wanted.fields or () if (got.fields or {}).get(f) is None]
        wrong = [f for f in wanted.fields or () if f not in missing and got[f] != wanted[f]]
        if missing or wrong or self.looks.shape != self.steps.shape or self.steps.ndim != 1:
            raise ValueError(
                "geometry.Recording: `looks` must be of dtype look_dtype(number of layers), one "
                f"for each of the {self.steps.shape} steps; got shape {self.looks.shape}"
                + (f", without the fields {missing}" if missing else "")
                + (f", with other fields {wrong}" if wrong else "")
                + "."
            )

    @staticmethod
    def read(path: str | PathLike[str]) -> "Recording":
        """Read a recording that `Recorder` wrote, up to a torn last line.

        Args:
            path: The file.

        Returns:
            The recording.

        Raises:
            OSError: It cannot be read.
            ValueError: It is not a recording, or damaged before its last line.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> before = without_looks(("W",), (True,), ("",), (), (8,))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = Path(folder, "run.jsonl")
            ...     _ = path.write_bytes(first_line(before) + b'{"step": 0, "lo')
            ...     print(Recording.read(path).names, len(Recording.read(path).steps))
            ('W',) 0
        """
        return read_lines(path)[0]


def look_dtype(layers: int) -> np.dtype:
    """Return the dtype of one look at a number of layers: float64, (L,) or (L, 40) a field."""
    fields: list[Any] = [(name, np.float64, (layers, COSINE_BINS)) for name in COSINES]
    return np.dtype(fields + [(name, np.float64, (layers,)) for name in FIGURES])


def empty_look(layers: int) -> np.ndarray:
    """Return a look in which nothing is known, (): NaN, and no cosine in any bin."""
    look = np.full((), np.nan, look_dtype(layers))
    for name in COSINES:
        look[name] = 0
    return look


def without_looks(
    names: Sequence[str],
    norm: Sequence[bool],
    unfollowed: Sequence[str],
    skipped: Sequence[tuple[str, str]],
    samples: Sequence[int],
) -> Recording:
    """Return a recording of layers that were not looked at yet."""
    return Recording(
        names=tuple(names),
        norm=tuple(norm),
        unfollowed=tuple(unfollowed),
        skipped=tuple(skipped),
        samples=tuple(samples),
        steps=np.zeros(0, np.int64),
        looks=np.zeros(0, look_dtype(len(names))),
    )


def with_looks(
    recording: Recording, steps: Sequence[int], looks: Sequence[np.ndarray]
) -> Recording:
    """Return a recording of the same layers with these looks."""
    dtype = look_dtype(len(recording.names))
    return replace(recording, steps=np.array(steps, np.int64), looks=np.array(looks, dtype))


def first_line(recording: Recording) -> bytes:
    """Return the first line of a file: all of a recording but steps and looks."""
    line = {FORMAT: VERSION} | {name: getattr(recording, name) for name in _STATIC}
    return json.dumps(line).encode() + b"\n"


def look_line(step: int, look: np.ndarray) -> bytes:
    """Return the line of one look, its numbers to five digits."""
    line: dict[str, Any] = {"step": step}
    line |= {name: _short(look[name].tolist()) for name in (*COSINES, *FIGURES)}
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def read_look(line: bytes, layers: int) -> tuple[int, np.ndarray]:
    """Read the line of one look.

    Raises:
        ValueError: It is not one.
    """
    found = _object(line)
    step = found.get("step")
    if type(step) is not int or abs(step) >= 2**63:
        raise ValueError(f'"step" is {step!r}, not a whole number')
    look = empty_look(layers)
    for name in (*COSINES, *FIGURES):
        if name not in found:
            raise ValueError(f'"{name}" is missing')
        try:
            values = np.array(found[name], np.float64)
        except (OverflowError, TypeError, ValueError):
            raise ValueError(f'"{name}" is not an array of numbers') from None
        if values.shape != look[name].shape:
            raise ValueError(f'"{name}" has shape {values.shape}, not {look[name].shape}')
        look[name] = values
    return step, look


def read_lines(path: str | PathLike[str]) -> tuple[Recording, list[int]]:
    """Read a file: the recording, and the byte at which each line ends.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a recording, or damaged before its last line.
    """
    name = fspath(path)
    whole = Path(path).read_bytes().split(b"\n")[:-1]  # what follows the last line break is torn
    try:
        recording = _read_first(whole[0] if whole else b"")
    except ValueError as error:
        raise ValueError(f"{name} is not a recording of bnjax: line 1: {error}") from None
    steps, looks, ends = [], [], [len(whole[0]) + 1]
    for number, line in enumerate(whole[1:], 2):
        try:
            step, look = read_look(line, len(recording.names))
            if steps and step <= steps[-1]:
                raise ValueError(f"step {step} follows step {steps[-1]}")
        except ValueError as error:
            raise ValueError(
                f"{name} is damaged: line {number}: {error}. What stands before it can be read "
                "once this line and those after it are removed."
            ) from None
        steps.append(step)
        looks.append(look)
        ends.append(ends[-1] + len(line) + 1)
    return with_looks(recording, steps, looks), ends


def torn_start(path: str | PathLike[str]) -> bool:
    """Return whether a file is empty, or the first line of a recording that a crash tore."""
    with open(path, "rb") as file:
        line = file.readline()
    begin = json.dumps(FORMAT)[:-1].encode()
    return not line.endswith(b"\n") and (b"{" + begin)[: len(line)] == line[: len(begin) + 1]


def _read_first(line: bytes) -> Recording:
    """Read the first line: a recording without looks."""
    found = _object(line)
    if found.get(FORMAT) != VERSION:
        raise ValueError(f'"{FORMAT}" is {found.get(FORMAT)!r}, not {VERSION}')
    kinds = {"names": str, "norm": bool, "unfollowed": str, "samples": int, "skipped": list}
    for name, kind in kinds.items():
        values = found.get(name)
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise ValueError(f'"{name}" is {values!r}, not a list of {kind.__name__}')
    for pair in found["skipped"]:
        if len(pair) != 2 or any(type(part) is not str for part in pair):
            raise ValueError(f'"skipped" holds {pair!r}, not a name and a reason')
    found["skipped"] = [*map(tuple, found["skipped"])]
    return without_looks(*(found[name] for name in _STATIC))


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def _short(value: Any) -> Any:
    """Return numbers to five digits, for JSON: what is not finite is null, a whole one short."""
    if isinstance(value, list):
        return [_short(item) for item in value]
    if not math.isfinite(value):
        return None
    short = float(f"{value:.5g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short
