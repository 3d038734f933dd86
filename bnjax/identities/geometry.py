"""G: sample-space geometry (S0/S1 §3), for neuron i and input j."""

from typing import Any, NamedTuple

import numpy as np

from bnjax import geometry
from bnjax.identities import baseline, layers, numeric, observed
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, paired, recorder, sides
from bnjax.identities.quick import quick

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)


class Angles(NamedTuple):
    """The geometry of one layer (G.1): cosines (n,), (n_in, n), (n_in, n); amplitudes."""

    cos1: np.ndarray
    cos2: np.ndarray
    cos3: np.ndarray
    sd_delta: np.ndarray
    sd_u: np.ndarray


def angles(u: Any, x: Any, delta: Any) -> Angles:
    """Measure the angles of G.1 in NumPy."""
    return Angles(
        np.diag(numeric.cosines(delta, x)),
        numeric.cosines(u, x),
        numeric.cosines(u, delta),
        numeric.hat(delta)[0],
        numeric.hat(u)[0],
    )


class Library(NamedTuple):
    """What `geometry` says of one layer, with normalization and without."""

    angles: geometry.Angles
    propagated: geometry.Propagated
    grads: Any  # NormDense
    baseline: Any  # Dense


@quick("eps")
def _library(u: Any, x: Any, delta: Any, gamma: Any, *, eps: float) -> Library:
    angles = geometry.layer_angles(u, x, delta, gamma, eps=eps)
    # the angles are the same; without normalization there is no more to them
    bare = angles._replace(rho=None, eps_share=None, scale=None)
    return Library(
        angles, geometry.propagated(angles), geometry.gradients(angles), geometry.gradients(bare)
    )


def library(case: Case) -> Library:
    """Look at the case's layer u W by `geometry`."""
    return _library(case.u, case.u @ case.W, case.y_bar, case.gamma, eps=case.eps)


@identity(
    "G.1",
    "normalized quantities are vectors of length √B; correlations are cosines",
    "⟨â⟩ = 0,  |â| = √B,  Corr(a, b) = â·b̂/B;  "
    "cos θ1 = Corr(Δ_i, x_i), cos θ2 = Corr(u_j, x_i), cos θ3 = Corr(Δ_i, u_j)",
    "S0/S1 §3",
    scale="√B, B, 1",
)
def _angles(case: Case) -> Sides:
    B, n = case.batch, case.width
    at = numeric.layer(case.x, case.eps)
    sd, x_hat = numeric.hat(case.x)
    by_library = (numeric.wide(observed.by_rule(case).y) - case.beta) / case.gamma
    found = angles(case.u, case.x, case.y_bar)
    by_geometry = _library(case.u, case.x, case.y_bar, case.gamma, eps=case.eps).angles
    vectors = numeric.wide(np.hstack([case.u, case.x, case.y_bar]))
    corr: Any = np.corrcoef(vectors, rowvar=False)
    return sides(
        (x_hat.mean(0), np.zeros(n), 1),
        ((x_hat**2).sum(0), np.full(n, B)),
        (by_library, at.rho * x_hat, B**0.5),
        (sd, np.std(numeric.wide(case.x), 0)),
        (found.cos1, np.diag(corr[2 * n + 1 :, n + 1 : 2 * n + 1]), 1),
        (found.cos2, corr[: n + 1, n + 1 : 2 * n + 1], 1),
        (found.cos3, corr[: n + 1, 2 * n + 1 :], 1),
        (by_geometry.cos1, found.cos1, 1),
        (by_geometry.cos2, found.cos2, 1),
        (by_geometry.cos3, found.cos3, 1),
        (by_geometry.sd_delta, found.sd_delta),
        (by_geometry.sd_u, found.sd_u),
    )


def weight_gradient(case: Case, at: numeric.Layer, rho: Any) -> np.ndarray:
    """Write G.2 down; rho = 1 is the source's."""
    a = angles(case.u, numeric.wide(case.u) @ case.W, case.y_bar)
    amplitude = case.batch * case.gamma * at.r * a.sd_delta * a.sd_u[:, None]
    return amplitude * (a.cos3 - rho**2 * a.cos1 * a.cos2)


@identity(
    "G.2",
    "the normalized weights' gradient: what Δ and u share beside x̂",
    "∂C/∂W_ji = B γ_i σ(Δ_i) σ(u_j) r_i [cos θ3 − ρ_i² cos θ1 cos θ2]",
    "S0/S1 eq. 4, 5 (ρ = 1); ours",
    scale="|u|ᵀ |γ r Δ|",
)
def _weight_gradient(case: Case) -> Sides:
    at = layers.layer(case)
    formula, terms = weight_gradient(case, at, at.rho), layers.gradient_terms(case, at)
    return sides(
        (observed.by_weights(case).W, formula, terms),
        (observed.by_weights_library(case)[1], formula, terms),
        (library(case).grads.W, formula, terms),
    )


@identity(
    "G.3",
    "the baseline's gradient takes the averages into account, too",
    "∂C/∂W_ji = B σ(Δ_i) σ(u_j) cos θ3 + B ⟨Δ_i⟩⟨u_j⟩",
    "S0/S1 eq. 5",
    scale="|u|ᵀ |Δ|",
)
def _baseline_gradient(case: Case) -> Sides:
    flow = observed.by_baseline_flow(case)
    formula = []
    for u, delta in zip(flow.u, flow.delta, strict=True):
        u, delta = numeric.wide(u), numeric.wide(delta)
        amplitude = numeric.hat(u)[0][:, None] * numeric.hat(delta)[0]
        shared = amplitude * numeric.cosines(u, delta) + np.outer(u.mean(0), delta.mean(0))
        formula.append(case.batch * shared)
    terms = baseline.sizes(case, flow)[1]
    by_rule = observed.by_baseline_library(case)[1]
    first = flow.u[0], flow.x[0], flow.delta[0], case.gamma
    by_geometry = _library(*first, eps=case.eps).baseline
    return sides(
        *paired([one.W for one in flow.grads], formula, terms),
        *paired([one.W for one in by_rule], formula, terms),
        (by_geometry.W, formula[0], terms[0]),
        (by_geometry.b, flow.grads[0].b, case.batch * baseline.sizes(case, flow)[0][0]),
    )


@identity(
    "G.4",
    "γ learns where the error is aligned with x̂",
    "∂C/∂γ_i = B σ(Δ_i) ρ_i cos θ1",
    "S0/S1 eq. 6 (ρ = 1); ours",
    scale="Σ_s |Δ|",
)
def _scale_gradient(case: Case) -> Sides:
    at = numeric.layer(case.x, case.eps)
    found = angles(case.u, case.x, case.y_bar)
    by_geometry = _library(case.u, case.x, case.y_bar, case.gamma, eps=case.eps).grads
    formula = case.batch * found.sd_delta * at.rho * found.cos1
    flow, (deltas, _) = observed.by_flow(case), layers.sizes(case)
    through = [
        case.batch * a.sd_delta * numeric.layer(x, case.eps).rho * a.cos1
        for u, x, delta in zip(flow.u, flow.x, flow.delta, strict=True)
        for a in [angles(u, x, delta)]
    ]
    terms = [case.batch * delta for delta in deltas]
    size = np.abs(case.y_bar).sum(0)
    return sides(
        (observed.by_rule(case).gamma_bar, formula, size),
        (observed.by_plain(case).gamma_bar, formula, size),
        (by_geometry.gamma, formula, size),
        (by_geometry.beta, observed.by_plain(case).beta_bar, size),
        *paired([one.gamma for one in flow.grads], through, terms),
        *paired([one.gamma for one in observed.by_hand(case)[1]], through, terms),
    )


@identity(
    "G.5",
    "errors pass where they are not aligned with x̂",
    "Δˡ_i = g'(yˡ_i) ⊙ Σ_k W_ik γ_k r_k σ(Δ_k) [Δ̂_k − ρ_k cos θ1_k x̂_k], all of layer l+1;  "
    "ε = 0: |[...]| = √B |sin θ1|",
    "S0/S1 §3 (ρ = 1); ours",
    scale="|g'| |γ r Δ| |W|ᵀ ... |Δᴸ|; B for the bracket",
)
def _propagation(case: Case) -> Sides:
    flow, (terms, _) = observed.by_flow(case), layers.sizes(case)
    formula = []
    for above in range(1, len(case.params)):
        W, gamma, _ = case.params[above]
        x, (sd, delta_hat) = flow.x[above], numeric.hat(flow.delta[above])
        at = numeric.layer(x, case.eps)
        cos1 = np.diag(numeric.cosines(flow.delta[above], x))
        bracket = delta_hat - at.rho * cos1 * at.x_hat
        formula.append(flow.g_prime[above - 1] * ((gamma * at.r * sd * bracket) @ W.T))
    by_hand = [one.delta for one in observed.by_hand(case)[2]]
    pairs: list[Any] = [
        *paired(flow.delta[:-1], formula, terms[:-1]),
        *paired(by_hand[:-1], formula, terms[:-1]),
    ]
    at = numeric.layer(case.x, case.eps)
    passed = np.sqrt((numeric.kernel(case.y_bar, at, case.gamma) ** 2).sum(0))
    by_geometry = _library(case.u, case.x, case.y_bar, case.gamma, eps=case.eps).propagated
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
    "where learning stops: aligned errors, aligned ('synced') inputs; then γ takes over",
    "sin θ1_i = 0 ⇒ ∂C/∂W_ji = 0 for all j, |∂C/∂γ_i| = B σ(Δ_i);  sin θ2_ji = 0 ⇒ ∂C/∂W_ji = 0;"
    "  BL: σ(Δ) σ(u) cos θ3 = −⟨Δ⟩⟨u⟩ ⇒ ∂C/∂W_ji = 0",
    "S0/S1 §3",
    holds="eps = 0",
    scale="|u|ᵀ |γ r Δ|, B σ(Δ)",
)
def _stops(case: Case) -> Sides:
    # errors aligned with x̂, up to their mean
    at = layers.layer(case)
    amplitude = numeric.wide(case.var_bar)
    aligned = case._replace(y_bar=(case.mean_bar + amplitude * at.x_hat).astype(case.dtype))
    _, W_bar, gamma_bar, _ = observed.by_weights_library(aligned)
    by_geometry = library(aligned).grads
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
            (one, zero, layers.gradient_terms(synced, layers.layer(synced)))
            for one in (observed.by_weights_library(synced)[1], library(synced).grads.W)
        ),
        (balance, -delta.mean() * u[:, :1].mean(0), np.abs(delta).max() * np.abs(u[:, 0]).max()),
    )
