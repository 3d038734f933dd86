"""E.1, E.9–E.11: what the insights of S0/S1 (§3) get wrong."""

from typing import Any, NamedTuple

import numpy as np

from bnjax.identities import geometry, layers, numeric, observed
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, recorder, sides

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)

_EPS = 1.0  # an ε that shows, E.9
_STRETCH = 3.0  # a factor that is not its own square, E.11


def _orthogonal(case: Case) -> np.ndarray:
    """Return vectors of length √B orthogonal to 1 and to x̂, one per neuron."""
    _, x_hat = numeric.hat(case.x)
    rest = numeric.wide(case.y_bar) - case.y_bar.mean(0)
    rest = rest - x_hat * (rest * x_hat).mean(0)
    return numeric.hat(rest)[1]


def _opposite(case: Case) -> Sides:
    _, x_hat = numeric.hat(case.x)
    opposite = case._replace(y_bar=-x_hat.astype(case.dtype), gamma=np.ones_like(case.gamma))
    at = numeric.normalized_layer(case.x, case.eps)
    product = numeric.wide(observed.by_library_jacobian(opposite).product) / at.r
    length = np.linalg.norm(product, axis=0)
    return sides((np.full(case.width, case.batch**0.5), length, case.batch**0.5))


@identity(
    "E.1",
    "S0/S1: opposite to x̂ “the error back-propagates with largest magnitude”",
    "|Δ̂_i − cos θ1 x̂_i| = √B |sin θ1| where ε = 0,  |Δ̂_i − cos θ1 x̂_i| = 0 where Δ̂_i = −x̂_i,  "
    "|Δ̂_i − cos θ1 x̂_i| = √B where cos θ1 = 0",
    "S0/S1 §3",
    holds="eps = 0",
    scale="√B",
    batch=3,
    refuted=_opposite,
    margin=0.5,
    correction="S0/S1 say that an error opposite to x̂ propagates with the largest magnitude. It "
    "does not propagate at all, like an aligned one; the magnitude is largest at a right angle "
    "(G.5).",
)
def _right_angle(case: Case) -> Sides:
    at = numeric.normalized_layer(case.x, case.eps)
    _, x_hat = numeric.hat(case.x)
    orthogonal = _orthogonal(case)
    pairs: list[Any] = []
    for angle in np.linspace(0, np.pi, 5):
        t = np.cos(angle) * x_hat + np.sin(angle) * orthogonal
        turned = case._replace(y_bar=t.astype(case.dtype))
        product = numeric.wide(observed.by_library_jacobian(turned).product)
        length = np.linalg.norm(product / (case.gamma * at.r), axis=0)
        expected = np.full(case.width, case.batch**0.5 * abs(np.sin(angle)))
        pairs.append((length, expected, case.batch**0.5))
    return sides(*pairs)


def _for_every_eps(case: Case) -> Sides:
    case = case._replace(eps=_EPS)
    at = layers.layer_of(case)
    exact = at._replace(r=at.var**-0.5)
    _, u_hat = numeric.hat(case.u[:, 1:])
    negative = numeric.hat(-case.factor * numeric.wide(case.u[:, 1:]))[1]
    remaining = layers.single(case)[1]
    return sides(
        (geometry.weight_gradient_by_angles(case, exact, 1.0), observed.by_weights(case).W),
        (0 * remaining, remaining),
        (u_hat, negative),
    )


@identity(
    "E.9",
    "S0/S1: the insights of §3 hold for every ε, and with one neuron for W of either sign",
    "ρ_i² = σ_i²/(σ_i² + ε),  M u = σ(u) û ε/(σ² + ε) where n_in = 1,  "
    "x̂ = −ρ û where n_in = 1, W < 0,  σ(u) = σ/|W| where n_in = 1",
    "S0/S1 §3",
    scale="as G.2, D.12; |û|, σ",
    refuted=_for_every_eps,
    correction="The insights of S0/S1 hold at ε = 0 only; G.2, G.4, G.5 and D.12 state them for "
    "every ε. With one neuron per layer x̂ = û and σ(u) = σ/W need W > 0; for W < 0, x̂ = −û and "
    "σ(u) = σ/|W|.",
)
def _with_eps(case: Case) -> Sides:
    case = case._replace(eps=_EPS)
    at = layers.layer_of(case)
    terms = layers.gradient_terms(case, at)
    single, _ = layers.single(case, -1.0)
    w = -numeric.wide(case.factor)
    sd, u_hat = numeric.hat(case.u[:, 1:])
    sd_x, x_hat = numeric.hat(case.u[:, 1:] * w)
    found = sides(
        (
            geometry.weight_gradient_by_angles(case, at, at.rho),
            observed.by_weights(case).W,
            terms,
        ),
        (x_hat, -u_hat),
        (sd, sd_x / np.abs(w)),
    )
    return Sides(*(a + b for a, b in zip(found, single, strict=True)))


def _pair_and_third(case: Case, third: float) -> tuple[Case, np.ndarray]:
    """Return a layer with three inputs, of which two are aligned, and the terms of its gradient.

    The third input is orthogonal to the two; it reaches x with the weight `third` · γ. The error
    is aligned with the two, up to its mean.
    """
    sd, pair = numeric.hat(case.u[:, :1])
    rest = numeric.wide(case.u[:, 1:2]) - case.u[:, 1:2].mean(0)
    orthogonal = sd * numeric.hat(rest - pair * (pair * rest).mean(0))[1]
    first, factor = numeric.wide(case.u[:, :1]), case.factor[0]
    u = np.hstack([first, factor * first + case.bias[0], orthogonal])
    W = np.stack([case.factor, case.factor, third * case.gamma])
    delta = case.mean_bar + case.var_bar * pair
    arrays = (one.astype(case.dtype) for one in (u, W, delta))
    layer = case._replace(**dict(zip(("u", "W", "y_bar"), arrays, strict=True)))
    return layer, layers.gradient_terms(layer, layers.layer_of(layer))


def _both_stop(case: Case) -> Sides:
    layer, terms = _pair_and_third(case, 1.0)
    aligned = numeric.wide(observed.by_weights_library(layer)[1])[:2]
    return sides(*((0 * one, one, term) for one, term in zip(aligned, terms[:2], strict=True)))


@identity(
    "E.10",
    "S0/S1: if û_j and û_j' are aligned, the updates of W_ji and W_j'i both stop",
    "∂C/∂W_ji / σ(u_j) = ∂C/∂W_j'i / σ(u_j') where û_j = û_j',  "
    "∂C/∂W_ji = 0 where û_j = x̂_i, ε = 0",
    "S0/S1 §3",
    scale="|u|ᵀ |γ r Δ|",
    batch=3,
    refuted=_both_stop,
    correction="S0/S1 let the weights of two inputs stop that are aligned with one another. That "
    "makes their gradients proportional, not zero. They stop where they are aligned with x̂ too "
    "(G.6).",
)
def _proportional(case: Case) -> Sides:
    layer, terms = _pair_and_third(case, 1.0)
    sd = numeric.hat(layer.u)[0][:, None]
    at = layers.layer_of(layer)
    found = observed.by_weights_library(layer)[1], observed.by_weights(layer).W
    pairs: list[Any] = []
    for W_bar in found:
        ratio = numeric.wide(W_bar) / sd
        pairs += [(W_bar, geometry.weight_gradient_by_angles(layer, at, at.rho), terms)]
        pairs += [(ratio[0], ratio[1], (terms / sd)[:2])]
    if case.eps == 0:
        alone, terms = _pair_and_third(case, 0.0)
        stopped = numeric.wide(observed.by_weights_library(alone)[1])[:2]
        pairs.append((stopped, 0 * stopped, terms))
    return sides(*pairs)


class _Stretched(NamedTuple):
    """∂C/∂W with BN and without: as it is, with Δ stretched, with u stretched."""

    plain: tuple[np.ndarray, np.ndarray]
    delta: tuple[np.ndarray, np.ndarray]
    u: tuple[np.ndarray, np.ndarray]


def _stretched(case: Case) -> _Stretched:
    a = np.asarray(_STRETCH, case.dtype)
    cases = case, case._replace(y_bar=a * case.y_bar), case._replace(u=a * case.u)
    return _Stretched(
        *(
            (
                numeric.wide(observed.by_weights_library(one)[1]),
                numeric.wide(geometry.geometry_of(one).baseline.W),
            )
            for one in cases
        )
    )


def _by_variances(case: Case) -> Sides:
    found, a = _stretched(case), _STRETCH
    return sides(
        *((a**2 * plain, seen) for plain, seen in zip(found.plain, found.delta, strict=True)),
        *((a**2 * plain, seen) for plain, seen in zip(found.plain, found.u, strict=True)),
    )


@identity(
    "E.11",
    "S0/S1: with BN “the adjustment is proportional to variance”",
    "∂C/∂W_ji = B γ_i σ(Δ_i) σ(u_j)/σ_i [cos θ3 − cos θ1 cos θ2],  ∂C/∂W ← a ∂C/∂W where Δ ← a Δ,  "
    "∂C/∂W ← ∂C/∂W where u ← a u,  ∂C/∂W ← a ∂C/∂W where u ← a u, without BN",
    "S0/S1 §3",
    holds="eps = 0",
    scale="|u|ᵀ |γ r Δ|, |u|ᵀ |Δ|",
    refuted=_by_variances,
    margin=0.1,
    correction="What S0/S1 call variances are standard deviations (G.2). And at ε = 0 the gradient "
    "of the normalized network does not grow with its inputs at all, as σ_i grows with them "
    "(BN.5); for the same Δ the baseline's does.",
)
def _by_standard_deviations(case: Case) -> Sides:
    at, found, a = layers.layer_of(case), _stretched(case), _STRETCH
    normalized = layers.gradient_terms(case, at)
    baseline = np.abs(numeric.wide(case.u)).T @ np.abs(case.y_bar)
    formula = geometry.weight_gradient_by_angles(case, at, 1.0)
    by_product = numeric.wide(case.u).T @ numeric.wide(case.y_bar)
    return sides(
        (found.plain[0], formula, normalized),
        (found.plain[1], by_product, baseline),
        (found.delta[0], a * formula, a * normalized),
        (found.delta[1], a * by_product, a * baseline),
        (found.u[0], formula, normalized),
        (found.u[1], a * by_product, a * baseline),
    )
