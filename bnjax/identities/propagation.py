"""G.5–G.7: how far an error propagates, where learning stops, where it leads (S0/S1 §3)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import norm
from bnjax.identities import flows, layers, numeric, observed
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, paired, recorder, sides
from bnjax.identities.geometry import geometry_of, layer_geometry
from bnjax.identities.quick import quick

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)

_STEPS = 600  # of G.7: then cos θ1 is within rounding of its limit
_RATE = 1.0  # η of G.7, in units of 1/B


@identity(
    "G.5",
    "An error propagates as far as it is not aligned with x̂",
    "∂C/∂x_i = γ_i r_i σ(Δ_i) [Δ̂_i − ρ_i cos θ1 x̂_i],  "
    "Δˡ_j = g'(yˡ_j) ⊙ Σ_i W_ji γ_i r_i σ(Δ_i) [Δ̂_i − ρ_i cos θ1 x̂_i], i of layer l+1,  "
    "|Δ̂_i − ρ_i cos θ1 x̂_i| = √B |sin θ1| where ε = 0",
    "S0/S1 §3 (ρ = 1); own derivation",
    scale="|g'| |γ r Δ| |W|ᵀ ... |Δᴸ|; B for the bracket",
    derivation="""
        ∂C/∂x_i = γ_i r_i [Δ_i − ⟨Δ_i⟩ − x̂_i ⟨Δ_i x̂_i⟩]                 (D.4)
        Δ_i − ⟨Δ_i⟩ = σ(Δ_i) Δ̂_i,  ⟨Δ_i x̂_i⟩ = σ(Δ_i) ρ_i cos θ1        (BN.2, G.1)
        ==> ∂C/∂x_i = γ_i r_i σ(Δ_i) [Δ̂_i − ρ_i cos θ1 x̂_i]
        Δˡ = g'(yˡ) ⊙ [K(Δˡ⁺¹) Wᵀ],  K(Δˡ⁺¹)_i = ∂C/∂x_i of layer l+1   (D.11)
        ==> Δˡ_j = g'(yˡ_j) ⊙ Σ_i W_ji γ_i r_i σ(Δ_i) [Δ̂_i − ρ_i cos θ1 x̂_i]
        ε = 0:  ρ_i = 1,  |Δ̂_i|² = |x̂_i|² = B,  ⟨Δ̂_i x̂_i⟩ = cos θ1      (G.1)
        ==> |Δ̂_i − cos θ1 x̂_i|² = B (1 − 2 cos² θ1 + cos² θ1) = B sin² θ1
    """,
    implementation=("bnjax.geometry.propagated",),
)
def _propagation(case: Case) -> Sides:
    flow, (terms, _) = flows.by_flow(case), layers.normalized_terms(case)
    formula = []
    for above in range(1, len(case.params)):
        W, gamma, _ = case.params[above]
        x, (sd, delta_hat) = flow.x[above], numeric.hat(flow.delta[above])
        at = numeric.normalized_layer(x, case.eps)
        cos1 = np.diag(numeric.cosines(flow.delta[above], x))
        bracket = delta_hat - at.rho * cos1 * at.x_hat
        formula.append(flow.g_prime[above - 1] * ((gamma * at.r * sd * bracket) @ W.T))
    by_hand = [one.delta for one in flows.by_hand(case)[2]]
    pairs: list[Any] = [
        *paired(flow.delta[:-1], formula, terms[:-1]),
        *paired(by_hand[:-1], formula, terms[:-1]),
    ]
    at = numeric.normalized_layer(case.x, case.eps)
    passed = np.sqrt((numeric.times_kernel(case.y_bar, at, case.gamma) ** 2).sum(0))
    by_geometry = layer_geometry(case.u, case.x, case.y_bar, case.gamma, eps=case.eps).propagated
    size = np.abs(case.gamma * at.r) * np.sqrt((numeric.wide(case.y_bar) ** 2).sum(0))
    pairs.append((by_geometry.length, passed, size))
    if case.eps == 0:
        (_, delta_hat), (_, x_hat) = numeric.hat(case.y_bar), numeric.hat(case.x)
        cos1 = (delta_hat * x_hat).mean(0)
        length = ((delta_hat - cos1 * x_hat) ** 2).sum(0)
        pairs.append((length, case.batch * (1 - cos1**2), case.batch))
        pairs.append((by_geometry.bracket**2, length, case.batch))
    return sides(*pairs)


@identity(
    "G.6",
    "Where learning stops: error aligned with x̂ (γ takes over), or input aligned with x̂",
    "sin θ1 = 0 ⇒ ∂C/∂W_ji = 0 for all j,  sin θ1 = 0 ⇒ |∂C/∂γ_i| = B σ(Δ_i),  "
    "sin θ2 = 0 ⇒ ∂C/∂W_ji = 0,  "
    "σ(Δ_i) σ(u_j) cos θ3 = −⟨Δ_i⟩⟨u_j⟩ ⇒ ∂C/∂W_ji = 0 without BN",
    "S0/S1 §3",
    holds="eps = 0",
    scale="|u|ᵀ |γ r Δ|, B σ(Δ)",
    derivation="""
        three vectors:  |cos θ3 − cos θ1 cos θ2| ≤ |sin θ1| |sin θ2|
        ∂C/∂W_ji = B γ_i r_i σ(Δ_i) σ(u_j) [cos θ3 − cos θ1 cos θ2] where ε = 0    (G.2)
        ==> ∂C/∂W_ji = 0 where sin θ1 = 0, for all j, or where sin θ2 = 0
        ∂C/∂γ_i = B σ(Δ_i) cos θ1 where ε = 0, and |cos θ1| = 1 where sin θ1 = 0   (G.4)
        ==> |∂C/∂γ_i| = B σ(Δ_i) where sin θ1 = 0
        ∂C/∂W_ji = B σ(Δ_i) σ(u_j) cos θ3 + B ⟨Δ_i⟩⟨u_j⟩ without BN                (G.3)
        ==> ∂C/∂W_ji = 0 where σ(Δ_i) σ(u_j) cos θ3 = −⟨Δ_i⟩⟨u_j⟩
    """,
    implementation=("bnjax.geometry.stopped", "bnjax.geometry.synced", "bnjax.geometry.reasons"),
)
def _stops(case: Case) -> Sides:
    # errors aligned with x̂, up to their mean
    at = layers.layer_of(case)
    amplitude = numeric.wide(case.var_bar)
    aligned = case._replace(y_bar=(case.mean_bar + amplitude * at.x_hat).astype(case.dtype))
    _, W_bar, gamma_bar, _ = observed.by_weights_library(aligned)
    by_geometry = geometry_of(aligned).grads
    # inputs aligned with one another, hence with every x̂
    line = case.x[:, :1] * np.append(case.factor, np.float32(1)).astype(case.dtype)
    synced = case._replace(u=line, W=np.abs(case.W))
    zero = np.zeros_like(case.W)
    # baseline: ⟨Δ u⟩ = 0 although neither vanishes
    u = numeric.wide(case.u)
    delta = numeric.wide(case.y_bar[:, 0])
    delta = delta - u[:, 0] * (delta @ u[:, 0]) / (u[:, 0] @ u[:, 0])
    sd_u, sd_delta = numeric.hat(u[:, :1])[0], numeric.hat(delta[:, None])[0]
    balance = sd_u * sd_delta * numeric.cosines(u[:, :1], delta[:, None])[0]
    return sides(
        *((one, zero, layers.gradient_terms(aligned, at)) for one in (W_bar, by_geometry.W)),
        *((np.abs(one), case.batch * np.abs(amplitude)) for one in (gamma_bar, by_geometry.gamma)),
        *(
            (one, zero, layers.gradient_terms(synced, layers.layer_of(synced)))
            for one in (observed.by_weights_library(synced)[1], geometry_of(synced).grads.W)
        ),
        (balance, -delta.mean() * u[:, :1].mean(0), np.abs(delta).max() * np.abs(u[:, 0]).max()),
    )


@quick()
def _descended(u: Any, W: Any, gamma: Any, delta: Any) -> Array:
    """Run gradient descent on W at ε = 0, by the library's rule, with the error held fixed."""

    def cost(W: Array) -> Array:
        return jnp.sum(delta * norm.batch_norm(u @ W, gamma, eps=0.0)[0])

    rate = _RATE / u.shape[0]
    return jax.lax.fori_loop(0, _STEPS, lambda _, W: W - rate * jax.grad(cost)(W), W)


def _error_outside_of_the_inputs(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return two inputs (B, 2), and errors (B, n) that they explain in part.

    The inputs' correlation is 0.6, the errors' multiple correlation 0.3 to 0.9: with nearly equal
    inputs, or errors that they hardly explain, descent would take longer.
    """
    u, t = numeric.wide(case.u), numeric.wide(case.y_bar)
    first = numeric.hat(u[:, :1])[1]
    rest = u[:, 1:2] - u[:, 1:2].mean(0)
    second = numeric.hat(rest - first * (first * rest).mean(0))[1]
    t = t - t.mean(0)
    outside = numeric.hat(t - first * (first * t).mean(0) - second * (second * t).mean(0))[1]
    inside = np.cos(3 * case.bias) * first + np.sin(3 * case.bias) * second
    explained = 0.6 * np.abs(case.mean_bar)
    error = explained * inside + np.sqrt(1 - explained**2) * outside
    inputs = np.hstack([first, 0.6 * first + 0.8 * second]) + u[:, :2].mean(0)
    return inputs.astype(case.dtype), (case.mean_bar + case.var_bar * error).astype(case.dtype)


class _Alignment(NamedTuple):
    """cos θ1 before and after gradient descent, and R_i by least squares, (n,) each."""

    before: np.ndarray
    after: np.ndarray
    limit: np.ndarray


def _alignment(case: Case) -> _Alignment:
    u, delta = _error_outside_of_the_inputs(case)
    sd, delta_hat = numeric.hat(delta)
    start = np.stack([case.factor, case.x_dot[0]])
    start *= np.sqrt(np.abs(case.gamma) * sd / (start**2).sum(0))  # no neuron much slower
    W = _descended(u, start.astype(case.dtype), case.gamma, delta)
    before, after = (np.diag(numeric.cosines(delta, numeric.wide(u) @ one)) for one in (start, W))
    _, u_hat = numeric.hat(u)
    fitted = u_hat @ np.linalg.lstsq(u_hat, delta_hat, rcond=None)[0]
    return _Alignment(before, after, np.sqrt((fitted**2).mean(0)))


def _no_error_left(case: Case) -> Sides:
    return sides((np.ones(case.width), np.abs(_alignment(case).after), 1))


@identity(
    "G.7",
    "Gradient descent on W turns x̂ against a fixed error, as far as the inputs reach",
    "cos θ1 → −R_i where γ_i > 0,  cos θ1 → R_i where γ_i < 0,  |cos θ1| ≤ R_i,  "
    "sin θ1 ≠ 0 where R_i < 1",
    "S0/S1 §3; own derivation",
    holds="eps = 0",
    scale="1",
    batch=4,
    refuted=_no_error_left,
    margin=0.05,
    derivation="""
        Σ_s Δ_si y_si = B γ_i σ(Δ_i) cos θ1 + β_i Σ_s Δ_si at ε = 0           (BN.3, G.1)
        ==> descent on W_i with Δ held fixed lowers γ_i cos θ1
        x_i − μ_i is in the span of the deviations u_j − ⟨u_j⟩                (BN.1)
        ==> |cos θ1| ≤ R_i, the cosine of Δ̂_i and its projection on the span
        it ends where cos θ3 = cos θ1 cos θ2 for all j                        (G.2)
        ==> Δ̂_i − cos θ1 x̂_i is orthogonal to the span
        ==> cos θ1 x̂_i is the projection of Δ̂_i, and |cos θ1| = R_i
        of its two signs the one with γ_i cos θ1 < 0 is the minimum
        ==> cos θ1 → −R_i where γ_i > 0, and R_i where γ_i < 0
    """,
)
def _turned(case: Case) -> Sides:
    before, after, limit = _alignment(case)
    return sides(
        (after, -np.sign(case.gamma) * limit, 1),
        (np.maximum(np.abs(before), limit), limit, 1),
    )
