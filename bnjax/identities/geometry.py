"""G.1–G.4: sample-space geometry (S0/S1 §3), for neuron i and input j."""

from typing import Any, NamedTuple

import numpy as np

from bnjax import geometry
from bnjax.identities import baseline, flows, layers, numeric, observed
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, paired, recorder, sides
from bnjax.identities.quick import quick

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)


class NumpyAngles(NamedTuple):
    """The geometry of one layer (G.1): cosines (n,), (n_in, n), (n_in, n); amplitudes."""

    cos1: np.ndarray
    cos2: np.ndarray
    cos3: np.ndarray
    sd_delta: np.ndarray
    sd_u: np.ndarray


def numpy_angles(u: Any, x: Any, delta: Any) -> NumpyAngles:
    """Compute the angles of G.1 in NumPy."""
    return NumpyAngles(
        np.diag(numeric.cosines(delta, x)),
        numeric.cosines(u, x),
        numeric.cosines(u, delta),
        numeric.hat(delta)[0],
        numeric.hat(u)[0],
    )


class LayerGeometry(NamedTuple):
    """One layer by `geometry`, with normalization and without."""

    angles: geometry.Angles
    propagated: geometry.Propagated
    grads: Any  # NormDense
    baseline: Any  # Dense


@quick("eps")
def layer_geometry(u: Any, x: Any, delta: Any, gamma: Any, *, eps: float) -> LayerGeometry:
    """Compute the angles and gradients of a layer by `geometry`."""
    angles = geometry.layer_angles(u, x, delta, gamma, eps=eps)
    # the angles are the same without normalization
    bare = angles._replace(rho=None, eps_share=None, scale=None)
    return LayerGeometry(
        angles, geometry.propagated(angles), geometry.gradients(angles), geometry.gradients(bare)
    )


def geometry_of(case: Case) -> LayerGeometry:
    """Compute the angles and gradients of the case's layer u W by `geometry`."""
    return layer_geometry(case.u, case.u @ case.W, case.y_bar, case.gamma, eps=case.eps)


@identity(
    "G.1",
    "Normalized vectors have the length √B in sample space, and correlations are cosines",
    "t̂ = (t − ⟨t⟩)/σ(t),  ⟨t̂⟩ = 0,  |t̂| = √B,  Corr(t, v) = ⟨t̂ v̂⟩,  "
    "cos θ1 = Corr(Δ_i, x_i),  cos θ2 = Corr(u_j, x_i),  cos θ3 = Corr(Δ_i, u_j)",
    "S0/S1 §3",
    scale="√B, B, 1",
    implementation=("bnjax.geometry.layer_angles",),
)
def _angles(case: Case) -> Sides:
    B, n = case.batch, case.width
    at = numeric.normalized_layer(case.x, case.eps)
    sd, x_hat = numeric.hat(case.x)
    by_library = (numeric.wide(observed.by_rule(case).y) - case.beta) / case.gamma
    found = numpy_angles(case.u, case.x, case.y_bar)
    by_geometry = layer_geometry(case.u, case.x, case.y_bar, case.gamma, eps=case.eps).angles
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


def weight_gradient_by_angles(case: Case, at: numeric.NormalizedLayer, rho: Any) -> np.ndarray:
    """Compute G.2; the source has rho = 1."""
    a = numpy_angles(case.u, numeric.wide(case.u) @ case.W, case.y_bar)
    amplitude = case.batch * case.gamma * at.r * a.sd_delta * a.sd_u[:, None]
    return amplitude * (a.cos3 - rho**2 * a.cos1 * a.cos2)


@identity(
    "G.2",
    "The weight gradient of the normalized network, from angles",
    "∂C/∂W_ji = B γ_i r_i σ(Δ_i) σ(u_j) [cos θ3 − ρ_i² cos θ1 cos θ2],  ρ_i² = σ_i²/(σ_i² + ε)",
    "S0/S1 eq. 4, 5 (ρ = 1); own derivation",
    scale="|u|ᵀ |γ r Δ|",
    derivation="""
        ∂C/∂W_ji = B γ_i r_i [⟨Δ_i u_j⟩ − ⟨Δ_i⟩⟨u_j⟩ − ⟨Δ_i x̂_i⟩⟨u_j x̂_i⟩]              (D.9)
        ⟨Δ_i u_j⟩ − ⟨Δ_i⟩⟨u_j⟩ = ⟨(Δ_i − ⟨Δ_i⟩) (u_j − ⟨u_j⟩)⟩
        ==> ⟨Δ_i u_j⟩ − ⟨Δ_i⟩⟨u_j⟩ = σ(Δ_i) σ(u_j) cos θ3                               (G.1)
        x̂_i = (x_i − μ_i) r_i has the mean 0 and the standard deviation σ_i r_i = ρ_i   (BN.2)
        ==> ⟨Δ_i x̂_i⟩ = σ(Δ_i) ρ_i cos θ1,  ⟨u_j x̂_i⟩ = σ(u_j) ρ_i cos θ2               (G.1)
        ==> ∂C/∂W_ji = B γ_i r_i σ(Δ_i) σ(u_j) [cos θ3 − ρ_i² cos θ1 cos θ2]
    """,
    implementation=("bnjax.geometry.weight_parts", "bnjax.geometry.gradients"),
)
def _gradient_by_angles(case: Case) -> Sides:
    at = layers.layer_of(case)
    formula, terms = weight_gradient_by_angles(case, at, at.rho), layers.gradient_terms(case, at)
    return sides(
        (observed.by_weights(case).W, formula, terms),
        (observed.by_weights_library(case)[1], formula, terms),
        (geometry_of(case).grads.W, formula, terms),
    )


@identity(
    "G.3",
    "The weight gradient of the baseline network, from angles: the means contribute too",
    "∂C/∂W_ji = B σ(Δ_i) σ(u_j) cos θ3 + B ⟨Δ_i⟩⟨u_j⟩",
    "S0/S1 eq. 5",
    scale="|u|ᵀ |Δ|",
    derivation="""
        ∂C/∂W_ji = Σ_s u_sj Δ_si = B ⟨Δ_i u_j⟩                 (BL.5)
        ⟨Δ_i u_j⟩ = ⟨(Δ_i − ⟨Δ_i⟩) (u_j − ⟨u_j⟩)⟩ + ⟨Δ_i⟩⟨u_j⟩
        ==> ∂C/∂W_ji = B σ(Δ_i) σ(u_j) cos θ3 + B ⟨Δ_i⟩⟨u_j⟩   (G.1)
    """,
    implementation=("bnjax.geometry.weight_parts", "bnjax.geometry.gradients"),
)
def _baseline_gradient(case: Case) -> Sides:
    flow = flows.by_baseline_flow(case)
    formula = []
    for u, delta in zip(flow.u, flow.delta, strict=True):
        u, delta = numeric.wide(u), numeric.wide(delta)
        amplitude = numeric.hat(u)[0][:, None] * numeric.hat(delta)[0]
        shared = amplitude * numeric.cosines(u, delta) + np.outer(u.mean(0), delta.mean(0))
        formula.append(case.batch * shared)
    terms = baseline.baseline_terms(case, flow)[1]
    by_rule = flows.by_baseline_library(case)[1]
    first = flow.u[0], flow.x[0], flow.delta[0], case.gamma
    by_geometry = layer_geometry(*first, eps=case.eps).baseline
    return sides(
        *paired([one.W for one in flow.grads], formula, terms),
        *paired([one.W for one in by_rule], formula, terms),
        (by_geometry.W, formula[0], terms[0]),
        (by_geometry.b, flow.grads[0].b, case.batch * baseline.baseline_terms(case, flow)[0][0]),
    )


@identity(
    "G.4",
    "γ learns as far as the error is aligned with x̂",
    "∂C/∂γ_i = B σ(Δ_i) ρ_i cos θ1",
    "S0/S1 eq. 6 (ρ = 1); own derivation",
    scale="Σ_s |Δ|",
    derivation="""
        ∂C/∂γ_i = Σ_s Δ_si x̂_si = B ⟨Δ_i x̂_i⟩   (D.5)
        ⟨Δ_i x̂_i⟩ = σ(Δ_i) ρ_i cos θ1           (BN.2, G.1)
        ==> ∂C/∂γ_i = B σ(Δ_i) ρ_i cos θ1
    """,
    implementation=("bnjax.geometry.gradients",),
)
def _scale_gradient(case: Case) -> Sides:
    at = numeric.normalized_layer(case.x, case.eps)
    found = numpy_angles(case.u, case.x, case.y_bar)
    by_geometry = layer_geometry(case.u, case.x, case.y_bar, case.gamma, eps=case.eps).grads
    formula = case.batch * found.sd_delta * at.rho * found.cos1
    flow, (deltas, _) = flows.by_flow(case), layers.normalized_terms(case)
    through = [
        case.batch * a.sd_delta * numeric.normalized_layer(x, case.eps).rho * a.cos1
        for u, x, delta in zip(flow.u, flow.x, flow.delta, strict=True)
        for a in [numpy_angles(u, x, delta)]
    ]
    terms = [case.batch * delta for delta in deltas]
    size = np.abs(case.y_bar).sum(0)
    return sides(
        (observed.by_rule(case).gamma_bar, formula, size),
        (observed.by_plain(case).gamma_bar, formula, size),
        (by_geometry.gamma, formula, size),
        (by_geometry.beta, observed.by_plain(case).beta_bar, size),
        *paired([one.gamma for one in flow.grads], through, terms),
        *paired([one.gamma for one in flows.by_hand(case)[1]], through, terms),
    )
