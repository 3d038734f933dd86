"""G.8: the geometry of a convolution, without its patches."""

from typing import Any

import jax
import numpy as np
from jax import lax

from bnjax.geometry.convolutions import convolution_inputs, standardized_channels
from bnjax.geometry.vectors import standardize_all
from bnjax.identities import numeric
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, recorder, sides
from bnjax.identities.quick import quick

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)
_KERNEL = 3  # positions that a kernel sees
_NUMBERS = lax.conv_dimension_numbers((1, 1, 1), (1, 1, 1), ("NWC", "WIO", "NWC"))
_PARAMS: dict[str, Any] = {
    "window_strides": (1,),
    "padding": ((1, 1),),
    "lhs_dilation": (1,),
    "rhs_dilation": (1,),
    "feature_group_count": 1,
    "dimension_numbers": _NUMBERS,
}


@quick()
def _pulled_back(u: Any, W: Any, t: Any) -> Any:
    """Convolve, and pull t and 1 back by JAX; the inputs by `geometry`."""

    def pull_back(u: Any, t: Any) -> tuple[Any, Any]:
        x, pull = jax.vjp(lambda W: lax.conv_general_dilated(u, W, **_PARAMS), W)
        return x, pull(t)[0].reshape(-1, W.shape[-1])

    x, of_t = pull_back(u, t)
    one = jax.numpy.ones_like(t)
    x_, t_ = standardize_all([a.reshape(-1, W.shape[-1]) for a in (x, t)])
    channels = standardized_channels(u, _PARAMS)
    inputs = convolution_inputs(channels, u.shape, W, x_, t_, _PARAMS)
    return x, of_t, pull_back(u, one)[1], pull_back(u**2, one)[1], inputs


@identity(
    "G.8",
    "All that the angles need of a convolution's inputs are pull-backs: no patches",
    "x = Λ(u, W),  x_si = Σ_j u_sj W_ji,  "
    "Σ_s t_si x_si = Σ_j Λ'(u, t)_ji W_ji for all W,  "
    "Λ'(u, t)_ji = Σ_s u_sj t_si,  "
    "B ⟨u_j⟩ = Λ'(u, 1)_ji,  "
    "B ⟨u_j²⟩ = Λ'(u², 1)_ji,  "
    "B ⟨u_j t_i⟩ = Λ'(u, t)_ji",
    "own derivation",
    scale="|u|ᵀ |t|, Σ_s |u|, Σ_s u², 1",
    derivation="""
        Λ(u, W) is a product or a convolution: x_si = Σ_j u_sj W_ji, where s runs over the samples
        and the positions of the output, B of them in all; u_sj is the number that entry j of the
        kernel meets there, a number of the image or the 0 of the padding
        ==> Σ_s t_si x_si = Σ_j (Σ_s u_sj t_si) W_ji for all W
        ==> Λ'(u, t)_ji = Σ_s u_sj t_si
        t = 1 ==> Λ'(u, 1)_ji = Σ_s u_sj = B ⟨u_j⟩
        The entries of u² are u_sj²: 0² = 0 in the padding, too
        ==> Λ'(u², 1)_ji = Σ_s u_sj² = B ⟨u_j²⟩
        t = x̂ and t = Δ ==> θ2 and θ3 (G.1)
    """,
    implementation=("bnjax.geometry.observe_function",),
)
def _pull_backs(case: Case) -> Sides:
    image, width = case.batches.transpose(1, 2, 0), case.width
    channels = image.shape[-1]
    W = np.resize(case.W, (_KERNEL, channels, width)) / _KERNEL
    t = case.u[:, :, None] * case.y_bar[:, None]
    x, of_t, of_one, of_squares, inputs = _pulled_back(image, W, t)
    padded = np.pad(numeric.wide(image), ((0, 0), (1, 1), (0, 0)))
    at = range(image.shape[1])
    u = np.stack([padded[:, p : p + _KERNEL].reshape(len(image), -1) for p in at], 1)
    u, rows = u.reshape(-1, u.shape[-1]), numeric.wide(t).reshape(-1, width)
    weights = numeric.wide(W).reshape(-1, width)
    one = np.ones_like(rows)
    return sides(
        (x, (u @ weights).reshape(x.shape), np.abs(u) @ np.abs(weights)),
        (of_t, u.T @ rows, np.abs(u).T @ np.abs(rows)),
        (of_one, u.T @ one, np.abs(u).T @ one),
        (of_squares, (u**2).T @ one),
        (inputs.mean, u.mean(0), np.abs(u).mean(0)),
        (inputs.sd, numeric.hat(u)[0]),
        (inputs.cos2, numeric.cosines(u, u @ weights), 1),
        (inputs.cos3, numeric.cosines(u, rows), 1),
    )
