"""The normalizations of a whole PyTorch model, filled into a model of flax or Keras.

Source: PyTorch 2.13, `torch.nn.modules.batchnorm`; flax 0.12; Keras 3.15.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from bnjax import _checks
from bnjax.conversion.states import import_state

# an array's name in PyTorch, by the names of the leaf in flax and in Keras
_TORCH_NAMES = {
    **dict.fromkeys(("scale", "gamma"), "weight"),
    **dict.fromkeys(("bias", "beta"), "bias"),
    **dict.fromkeys(("mean", "moving_mean"), "running_mean"),
    **dict.fromkeys(("var", "moving_variance"), "running_var"),
}
_COLLECTIONS = ("params", "batch_stats")  # of linen's variables; no part of a layer's path


def fill(function: str, source: Mapping[str, Any], into: Any, names: Mapping[str, str]) -> Any:
    """Return `into` with the arrays of the named layers; refuse whatever has no counterpart.

    Args:
        function: The public function that was called, for error messages.
        source: The state_dict.
        into: The pytree to fill.
        names: Paths in `into`, keys joined by "/", by the layers' names in PyTorch.

    Example:
        >>> buffers = {"bn1.running_mean": jnp.array([2.0]), "bn1.running_var": jnp.array([4.0])}
        >>> variables = {"batch_stats": {"norm": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}}
        >>> print(fill("fill", buffers, variables, {"bn1": "norm"}))
        {'batch_stats': {'norm': {'mean': Array([2.], ...), 'var': Array([4.], ...)}}}
    """
    _require_same_layers(function, source, names)
    paths = set(names.values())
    arrays = {
        (path, key): array
        for name, path in names.items()
        for key, array in _layer(function, source, name).items()
    }

    def filled(keys: tuple[Any, ...], leaf: Any) -> Any:
        path, key = _layer_and_array(keys)
        if path not in paths or key is None:
            return leaf
        if (path, key) not in arrays:
            raise ValueError(
                f"{function}: the `{key}` of {path!r} in `into` has no counterpart in PyTorch's "
                "layer, which has none. Create the layer of `into` without it."
            )
        array = arrays.pop((path, key))
        if array.shape != leaf.shape:
            raise ValueError(
                f"{function}: `{key}` of {path!r} must have shape {leaf.shape}, as in `into`; got "
                f"{array.shape}."
            )
        return array.astype(leaf.dtype)

    tree = jax.tree.map_with_path(filled, into)
    for path, key in arrays:
        raise ValueError(
            f"{function}: `into` has no place for `{key}` of the layer {path!r}. Correct its path "
            "in `names`, or give the layer what PyTorch's has."
        )
    return tree


def _require_same_layers(
    function: str, source: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    """Raise a ValueError unless `names` has all layers with statistics, each with its own path."""
    layers = [key[: -len(".running_mean")] for key in source if key.endswith(".running_mean")]
    for layer in layers:
        if layer not in names:
            raise ValueError(
                f"{function}: `names` must have every layer with running statistics; {layer!r} is "
                "missing."
            )
    for name in names:
        if name not in layers:
            raise ValueError(_checks.unknown_name(function, "names", name, layers))
    if len(set(names.values())) < len(names):
        raise ValueError(
            f"{function}: `names` must map layers to different paths; got {dict(names)}."
        )


def _layer(function: str, source: Mapping[str, Any], name: str) -> dict[str, Array]:
    """Return a layer's arrays, checked, by PyTorch's names."""
    statistics = {
        f"{name}.{key}": source[f"{name}.{key}"] for key in ("running_mean", "running_var")
    }
    state = import_state(function, statistics, ("num_batches_tracked", 0))
    found = {"running_mean": state.mean, "running_var": state.var}
    for key in ("weight", "bias"):
        if (full := f"{name}.{key}") in source:
            # a copy: PyTorch goes on updating its own buffer
            found[key] = _checks.floating(function, full, jnp.array(source[full]))
    return found


def _layer_and_array(keys: tuple[Any, ...]) -> tuple[str, str | None]:
    """Return the path of the layer that a leaf belongs to, and the leaf's name in PyTorch."""
    parts = jax.tree_util.keystr(keys, simple=True, separator="/").split("/")
    parts = parts[1:] if parts[0] in _COLLECTIONS else parts
    parts = parts[:-1] if parts[-1] == "value" else parts  # of an nnx.Variable
    return "/".join(parts[:-1]), _TORCH_NAMES.get(parts[-1])
