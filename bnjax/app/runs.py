"""The run folder: what a run leaves behind, written so that no crash loses a finished line."""

import json
import math
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bnjax
from bnjax.app.errors import UserError
from bnjax.network import NormDense, Params, State

_PACKAGES = ("jax", "jaxlib", "optax", "chex", "numpy")
_OWN = (
    "config.json",
    "metrics.jsonl",
    "params_*.npz",
    "folded.npz",
    "curves.png",
    "inputs.png",
)


class RunFolder:
    """A folder that holds one run: config.json, metrics.jsonl, params_NETWORK.npz, pictures.

    folded.npz is the normalized network as a baseline network (P.4).
    """

    def __init__(self, path: str | None, *, overwrite: bool) -> None:
        """Make the folder, or empty it of an earlier run.

        Raises:
            UserError: It holds something and may not be overwritten, or cannot be written.
        """
        self.path = _fresh() if path is None else Path(path)
        try:
            if self.path.is_dir() and any(self.path.iterdir()):
                if not overwrite:
                    raise UserError(
                        f"--out: {self.path} is not empty; name another folder, or add "
                        "--overwrite to lose the run in it"
                    )
                for pattern in _OWN:
                    for file in self.path.glob(pattern):
                        file.unlink()
            self.path.mkdir(parents=True, exist_ok=True)
            self._metrics = (self.path / "metrics.jsonl").open("w", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"--out: {self.path} cannot be written: {error.strerror}; name another folder"
            ) from None

    def write_config(self, options: Mapping[str, Any], resolved: Mapping[str, Any]) -> None:
        """Write all that is needed to repeat the run."""
        config = {
            "options": options,
            "resolved": resolved,
            "versions": {
                "python": platform.python_version(),
                "bnjax": bnjax.__version__,
                **{name: version(name) for name in _PACKAGES},
            },
            "platform": platform.platform(),
            "device": device_name(),
            "x64": jnp.result_type(float) == jnp.float64,
        }
        self._replace("config.json", lambda file: file.write(_json(config, indent=2).encode()))

    def write_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl, and flush it: a later crash cannot lose it."""
        self._metrics.write(_json(line) + "\n")
        self._metrics.flush()

    def write_params(self, name: str, params: Params, state: State, **more: Any) -> None:
        """Write NAME.npz: layer{l}.W, .b or .gamma, .beta, .mean, .var, ...; and `more`."""
        arrays = dict(more)
        seen = iter(state)
        for number, layer in enumerate(params):
            parts = dict(layer._asdict())
            if isinstance(layer, NormDense):
                parts |= next(seen)._asdict()
            arrays |= {f"layer{number}.{key}": np.asarray(part) for key, part in parts.items()}
        self._replace(f"{name}.npz", lambda file: np.savez(file, **arrays))

    def close(self) -> None:
        """Close metrics.jsonl."""
        self._metrics.close()

    def _replace(self, name: str, write: Any) -> None:
        """Write beside and rename: whoever reads `name` finds the old or the new, never half."""
        beside = self.path / f".{name}.tmp"
        with beside.open("wb") as file:
            write(file)
        os.replace(beside, self.path / name)


def device_name() -> str:
    """Name the device that JAX computes on."""
    device = jax.devices()[0]
    return f"{device.platform} ({device.device_kind})"


def _fresh() -> Path:
    stem = time.strftime("%Y-%m-%d_%H-%M-%S")
    path, number = Path("runs") / stem, 2
    while path.exists():
        path, number = Path("runs") / f"{stem}_{number}", number + 1
    return path


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """Turn NaN and infinity into None: JSON has no word for them."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
