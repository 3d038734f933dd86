"""What the `BatchRenorm` layers of all frameworks share (R.1)."""

from typing import Any

from jax import Array
from jax.typing import ArrayLike

from bnjax.layers import common
from bnjax.renormalization import relaxed_bounds


def comparison(layer: Any, mean: Array, var: Array, *state: ArrayLike) -> dict[str, Any]:
    """Return what `common.normalize_batch` is to compare a batch with, and how far.

    Args:
        layer: Its attributes `warm_up_steps`, `r_max_steps` and `d_max_steps` are read.
        mean: The running mean.
        var: The running variance.
        *state: The bounds in the end, λ_max and τ_max, and the steps of training so far.
    """
    r_max, d_max, steps = state
    r_max, d_max = relaxed_bounds(
        steps,
        r_max,
        d_max,
        warm_up_steps=layer.warm_up_steps,
        r_max_steps=layer.r_max_steps,
        d_max_steps=layer.d_max_steps,
    )
    return {"given": (mean, var), "bounds": {"r_max": r_max, "d_max": d_max}}


def refuse_complex(*values: Any) -> None:
    """Refuse complex arrays and dtypes: R.1 is defined for real numbers.

    Raises:
        TypeError: One is complex.
    """
    if common.is_complex(*values):
        raise TypeError("BatchRenorm: the input and all dtypes must be real; got a complex one.")
