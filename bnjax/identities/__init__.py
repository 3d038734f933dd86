"""Every equation that bnjax implements, as two sides that must agree.

Each has a tag (D.4) by which code, documentation and notebooks cite it. The equations stand in
`baseline` and `descent` (BL), `normalization` (BN), `derivatives`, `layers`, `samples` and
`accumulation` (D), `population` and `draws` (P), `renormalization` (R), `geometry` and
`propagation` (G), `errata_insights`, `errata_notes` and `errata_lectures` (E), one `Identity` each,
with its formula, derivation, source and check. `notation` defines the symbols, `sources` the
sources, and `sheet` prints all of it as one document.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from bnjax.identities import (
    accumulation,
    baseline,
    convolutions,
    derivatives,
    descent,
    draws,
    errata_insights,
    errata_lectures,
    errata_notes,
    geometry,
    layers,
    normalization,
    population,
    propagation,
    renormalization,
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

_MODULES = (
    *(baseline, descent, normalization, derivatives, layers, samples, accumulation),
    *(population, draws, renormalization, geometry, propagation, convolutions),
    *(errata_insights, errata_notes, errata_lectures),
)

GROUPS = {
    "BL": "the baseline network",
    "BN": "the normalized network",
    "D": "derivatives of batch normalization",
    "P": "statistics for inference",
    "R": "batch renormalization",
    "G": "sample-space geometry",
    "E": "what the sources get wrong",
}

# relative to the terms that cancel, not to their difference
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


class Result(NamedTuple):
    """The result of one check.

    Attributes:
        tag: The identity's tag.
        error: max |lhs − rhs| in units of the identity's scale; infinite for NaN.
        refutation: How far a false claim is from the truth, in the same units, at the part where
            it is nearest; None for an identity without a claim to refute.
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
        """Return whether the false claim is refuted; True where there is none."""
        return self.refutation is None or self.margin < self.refutation < float("inf")

    def passed(self, tolerance: float | None = None) -> bool:
        """Return whether the sides agree within the tolerance and the false claim is refuted."""
        limit = TOLERANCE[self.dtype] if tolerance is None else tolerance
        return self.error <= limit and self.refuted()


def all() -> tuple[Identity, ...]:
    """Return every identity, in the order BL, BN, D, P, R, G, E and by number.

    Example:
        >>> all()[0].tag, all()[0].formula
        ('BL.1', 'y = u W + b,  u_next = g(y)')
    """
    return tuple(
        sorted(
            (one for module in _MODULES for one in module.ENTRIES), key=lambda one: order(one.tag)
        )
    )


def order(tag: str) -> tuple[int, int]:
    """Return the place of a tag in the list: its group's, and its number.

    Example:
        >>> sorted(["D.10", "D.4", "BN.2"], key=order)
        ['BN.2', 'D.4', 'D.10']
    """
    group, number = tag.split(".")
    return list(GROUPS).index(group), int(number)


def check(
    identity: Identity, *, dtype: str, eps: float, key: Array, batch: int = 8, width: int = 7
) -> Result:
    """Check an identity on one random case.

    Args:
        identity: One of `all()`.
        dtype: "float64" or "float32", in which the library and JAX compute; NumPy's side is
            always float64.
        eps: ε ≥ 0; 0 where the identity holds at ε = 0 only.
        key: A `jax.random.key`: the same key draws the same case, in both dtypes.
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
    """Check an identity on a case from `draw`, without checking the arguments."""
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
