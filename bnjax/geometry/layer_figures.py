"""A layer of any function in few numbers: one look of a `Recording`."""

import jax.numpy as jnp
from jax import Array

from bnjax.geometry import stopping
from bnjax.geometry.histograms import cosine_bins, cosine_shares
from bnjax.geometry.layer_summary import summarize_angles
from bnjax.geometry.observed import ObservedLayer
from bnjax.geometry.recording import COSINES
from bnjax.geometry.stopping import ALIGNED

_ZERO = 1e-3  # of the largest |γ|: what is smaller counts as zero
_OF_INPUTS = ("W", "turning", "cosine", "W_bar", "covariance", "means", "removed", "stopped")
_OF_INPUTS += ("synced", "largest_group", "constant_inputs", "copied_inputs")
_OF_GAMMA = ("gamma", "gamma_bar", "zero_gamma")
_NORMALIZED_ONLY = (*_OF_GAMMA, "eps_share", "removed", "swallowed", "handed_to_gamma", "stopped")
_NORMALIZED_ONLY += ("synced", "largest_group")


def layer_figures(layer: ObservedLayer) -> dict[str, Array]:
    """Compute what `Recording.looks` holds of a layer.

    Args:
        layer: From `observe_function`.

    Returns:
        By the names of the fields: scalars, and the cosines as (40,). What the layer does not have
        is left out.
    """
    angles = layer.angles
    found: dict[str, Array | None] = {
        "constant_error": ~angles.delta_varies & ~stopping.dead(angles),
        "constant_x": ~angles.x_varies,
        "constant_inputs": layer.constant_inputs,
        "copies": layer.copies,
        "copied_inputs": layer.copied_inputs,
        "saturated": layer.saturated,
        "bounded": layer.bounded,
    }
    mean_delta, one = angles.mean_delta, jnp.ones_like(angles.sd_x)
    missing = set[str]()
    if angles.eps_share is None:
        missing.update(_NORMALIZED_ONLY)
        angles = angles._replace(rho=0 * one, eps_share=one, scale=one)  # as in the summary
    else:
        mean_delta = 0 * one
        found["swallowed"] = (angles.eps_share > 0.5) & angles.x_varies
    if layer.gamma is None:
        missing.update(_OF_GAMMA)
    else:
        size = jnp.abs(layer.gamma)
        found |= {"zero_gamma": size <= _ZERO * jnp.max(size)}
        found |= {"gamma": jnp.sqrt(jnp.mean(size.astype(one.dtype) ** 2))}
    if not len(layer.W):
        missing.update(_OF_INPUTS)
    inputs = jnp.ones(len(layer.W), one.dtype)
    found |= summarize_angles(angles, mean_delta, layer.W, inputs, one, aligned=ALIGNED)
    shares = cosine_shares(cosine_bins(layer.angles)[None])[0]
    figures = {
        name: jnp.mean(a, dtype=one.dtype)
        for name, a in found.items()
        if a is not None and name not in missing
    }
    return figures | dict(zip(COSINES, shares, strict=True))
