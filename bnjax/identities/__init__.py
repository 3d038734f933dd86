"""Every equation of the sources as two sides that must agree: the single home of the tags.

The rooms state them: `baseline` (BL), `normalization` (BN), `derivatives`, `layers` and `samples`
(D), `population` (P), `geometry` (G), `errata` (E). One equation more is one entry more.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bnjax.identities import (
    baseline,
    derivatives,
    errata,
    geometry,
    layers,
    normalization,
    population,
    samples,
)
from bnjax.identities.cases import Case, draw
from bnjax.identities.entries import Identity, Sides, gap

__all__ = [
    "GROUPS",
    "TOLERANCE",
    "Case",
    "Identity",
    "Result",
    "Sides",
    "all",
    "check",
    "draw",
    "measure",
]

_ROOMS = (baseline, normalization, derivatives, layers, samples, population, geometry, errata)

GROUPS = {
    "BL": "the baseline network",
    "BN": "the normalized network",
    "D": "derivatives of batch normalization",
    "P": "statistics for inference",
    "G": "sample-space geometry",
    "E": "what the sources get wrong",
}

# on the scale of the terms that cancel, not of what is left of them
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


class Result(NamedTuple):
    """What one check found.

    Attributes:
        tag: The identity's.
        error: max |lhs − rhs|, in units of the identity's scale; infinite for NaN.
        refutation: Where there is a claim to refute, how far it is from the truth, in the same
            units (the least of its parts); otherwise None.
        margin: What the refutation must exceed.
        dtype: "float64" or "float32".
        eps: ε of the case.
        batch: B of the case.
        width: n of the case.
    """

    tag: str
    error: float
    refutation: float | None
    margin: float
    dtype: str
    eps: float
    batch: int
    width: int

    def refuted(self) -> bool:
        """Tell whether the claim that must fail fails; True where there is none."""
        return self.refutation is None or self.margin < self.refutation < float("inf")

    def passed(self, tolerance: float | None = None) -> bool:
        """Tell whether the sides agree within the tolerance and the refuted claim fails."""
        limit = TOLERANCE[self.dtype] if tolerance is None else tolerance
        return self.error <= limit and self.refuted()


def all() -> tuple[Identity, ...]:
    """List every identity, in the order of the sources: BL, BN, D, P, G, E.

    Example:
        >>> len(all()), all()[0].tag, all()[0].formula
        (54, 'BL.1', 'y = u W + b,  u_next = g(y)')
    """
    return tuple(entry for room in _ROOMS for entry in room.ENTRIES)


def check(
    identity: Identity, *, dtype: str, eps: float, key: Array, batch: int = 8, width: int = 7
) -> Result:
    """Check an identity on one random case.

    Args:
        identity: One of `all()`.
        dtype: "float64" or "float32", in which the library and JAX compute; NumPy's side is
            always float64.
        eps: ε ≥ 0; 0 where the identity holds at ε = 0 only.
        key: A `jax.random.key`: the same key gives the same case, in both dtypes.
        batch: B, at least 2, and at least `identity.batch`.
        width: n ≥ 1.

    Returns:
        The `Result`.

    Raises:
        TypeError: dtype is none of the two, or float64 while JAX's 64-bit mode is off.
        ValueError: eps, batch or width is out of its range, or the identity does not hold there.

    Example:
        >>> import jax
        >>> result = check(all()[0], dtype="float32", eps=0.1, key=jax.random.key(0))
        >>> result.tag, result.passed()
        ('BL.1', True)
    """
    name = jnp.dtype(dtype).name
    if name not in TOLERANCE:
        raise TypeError(f"identities.check: `dtype` must be float64 or float32; got {dtype!r}.")
    if name == "float64" and jnp.result_type(float) != jnp.float64:
        raise TypeError(
            "identities.check: `dtype` float64 needs JAX's 64-bit mode, which is off. Switch it on "
            'first: jax.config.update("jax_enable_x64", True).'
        )
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < float("inf"):
        raise ValueError(f"identities.check: `eps` must be a finite number >= 0; got {eps!r}.")
    if identity.holds == "eps = 0" and eps != 0:
        raise ValueError(
            f"identities.check: {identity.tag} holds at `eps` 0 only; got {eps!r}. Pass eps=0.0."
        )
    if batch < identity.batch:
        raise ValueError(
            f"identities.check: {identity.tag} needs a `batch` of at least {identity.batch}; got "
            f"{batch}."
        )
    if width < 1:
        raise ValueError(f"identities.check: `width` must be at least 1; got {width}.")
    case = draw(key, dtype=name, eps=float(eps), batch=batch, width=width)
    return measure(identity, case)


def measure(identity: Identity, case: Case) -> Result:
    """Check an identity on a case that `draw` gave, without looking at the arguments."""
    error, _ = gap(identity.sides(case))
    refutation = None if identity.refuted is None else gap(identity.refuted(case))[1]
    return Result(
        identity.tag,
        error,
        refutation,
        identity.margin,
        case.dtype,
        case.eps,
        case.batch,
        case.width,
    )
