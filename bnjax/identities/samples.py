"""D.13–D.17: statistics held constant, sample by sample, and with sample weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import backprop, jacobian, network, norm
from bnjax.activations import ACTIVATIONS
from bnjax.identities import layers, numeric, observed
from bnjax.identities.cases import MIXED, Case
from bnjax.identities.entries import Identity, Sides, recorder, sides
from bnjax.identities.quick import quick

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)


@quick("net")
def _frozen(net: Any, params: Any, inputs: Any, targets: Any) -> Any:
    return backprop.value_and_grad(net, params, inputs, targets, statistics="frozen")[1]


@identity(
    "D.13",
    "With μ and σ² held constant (evaluation) the weight gradient is a different one",
    "∂y_si/∂W_ji = γ_i r_i u_sj where μ, σ² are constant,  "
    "x̄ = γ r ȳ where μ, σ² are constant,  ∂C/∂W = uᵀ (γ r Δ) where μ, σ² are constant,  "
    "∂C/∂W_ji = B γ_i r_i ⟨Δ_i u_j⟩ where μ, σ² are constant,  "
    "[uᵀ (γ r Δ) − uᵀ K(Δ)]_ji = B γ_i r_i [⟨Δ_i⟩⟨u_j⟩ + ⟨Δ_i x̂_i⟩⟨u_j x̂_i⟩]",
    "S4 (4)",
    scale="|γ r u|, |u|ᵀ |γ r Δ|",
    derivation="""
        y = γ (x − μ) r + β with constant μ and r                         (BN.2, BN.3)
        ==> ∂y_si/∂x_si = γ_i r_i, and x̄ = γ r ȳ
        ∂x_si/∂W_ji = u_sj                                                (BN.1)
        ==> ∂y_si/∂W_ji = γ_i r_i u_sj;  S4 writes diag(γ r) e_i oᵀ, with o for u_s
        ==> ∂C/∂W = uᵀ (γ r Δ),  ∂C/∂W_ji = B γ_i r_i ⟨Δ_i u_j⟩
        With the statistics as functions of x, K takes the place of γ r   (D.9)
        ==> [uᵀ (γ r Δ) − uᵀ K(Δ)]_ji = B γ_i r_i [⟨Δ_i⟩⟨u_j⟩ + ⟨Δ_i x̂_i⟩⟨u_j x̂_i⟩]
    """,
    implementation=("bnjax.jacobian.frozen_weight_jacobian", "bnjax.backprop.value_and_grad"),
)
def _frozen_statistics(case: Case) -> Sides:
    at, u, B = layers.layer_of(case), numeric.wide(case.u), case.batch
    formula = np.broadcast_to(u[:, :, None] * (case.gamma * at.r), (*u.shape, case.width))
    frozen = u.T @ (case.y_bar * case.gamma * at.r)
    terms, found = layers.gradient_terms(case, at), observed.by_weights(case)
    lost = np.outer(u.mean(0), numeric.wide(case.y_bar).mean(0))
    lost += (case.y_bar * at.x_hat).mean(0) * (u.T @ at.x_hat / B)
    net = network.Network((case.width + 1, case.width), norm_output=True, eps=case.eps)
    by_hand = _frozen(net, case.params[:1], case.u, case.targets)[0].W
    y = numeric.wide(case.gamma) * at.x_hat + case.beta
    delta = (numeric.sigmoid(y) - case.targets) / B
    size = np.abs(u).T @ np.abs(case.gamma * at.r / B + 0 * delta)
    return sides(
        (found.frozen_jacobian, layers.between_neurons(formula), formula),
        (observed.by_library_jacobian(case).frozen, formula, formula),
        (found.frozen_W, frozen, terms),
        (layers.weight_gradient_by_means(case, at) - frozen, -B * case.gamma * at.r * lost, terms),
        (found.W - found.frozen_W, -B * case.gamma * at.r * lost, terms),
        (by_hand, u.T @ (delta * case.gamma * at.r), size),
    )


@quick()
def _activations(y: Any) -> tuple[Array, Array]:
    """Compute the Jacobian of `MIXED`, sample by sample: by autodiff, by the library."""
    return jax.vmap(jax.jacfwd(MIXED.g))(y), jacobian.activation_jacobian(y, MIXED)


@identity(
    "D.14",
    "An activation acts on each neuron by itself",
    "∂g(y_s)/∂y_s = diag(g'(y_s)),  Δ = g'(y) ⊙ ∂C/∂u_next",
    "S4 (1)",
    scale="1, |∂C/∂u_next|",
    derivation="""
        u_next = g(y), entry by entry   (BL.1, BN.3)
        ==> ∂g(y_s)_i/∂y_si' = δ_ii' g'(y_si)
        ==> ∂g(y_s)/∂y_s = diag(g'(y_s))
        ==> Δ_si = ∂C/∂y_si = g'(y_si) ∂C/∂(u_next)_si
    """,
    implementation=("bnjax.jacobian.activation_jacobian", "bnjax.activations.get"),
)
def _activation(case: Case) -> Sides:
    # a column of the same numbers for each activation
    y, o_bar = (np.stack([t.ravel()] * len(ACTIVATIONS), 1) for t in (case.x, case.y_bar))
    slope = np.stack([numeric.slope(name, y[:, k]) for k, name in enumerate(ACTIVATIONS)], 1)
    formula = np.einsum("si,ik->sik", slope, np.eye(len(ACTIVATIONS)))
    forward, library = _activations(y)
    pulled = np.einsum("sik,si->sk", forward, o_bar)
    return sides((forward, formula, 1), (library, formula, 1), (pulled, slope * o_bar, o_bar))


@identity(
    "D.15",
    "The derivative of y with respect to γ",
    "∂y_s/∂γ = diag(x̂_s),  γ̄ = Σ_s x̂_s ⊙ ȳ_s",
    "S4 (2)",
    scale="|x̂|, Σ_s |x̂ ȳ|",
    derivation="""
        y_si = γ_i x̂_si + β_i   (BN.3)
        ==> ∂y_si/∂γ_i' = δ_ii' x̂_si
        ==> ∂y_s/∂γ = diag(x̂_s)
        ==> γ̄ = Σ_s diag(x̂_s) ȳ_s = Σ_s x̂_s ⊙ ȳ_s
    """,
    implementation=("bnjax.jacobian.gamma_jacobian",),
)
def _gamma(case: Case) -> Sides:
    x_hat = numeric.normalized_layer(case.x, case.eps).x_hat
    formula = np.einsum("si,ik->sik", x_hat, np.eye(case.width))
    pulled = np.einsum("sik,si->k", formula, case.y_bar)
    return sides(
        (observed.by_jacobian(case).gamma, formula),
        (observed.by_library_jacobian(case).gamma, formula),
        (observed.by_rule(case).gamma_bar, pulled, np.abs(x_hat * case.y_bar).sum(0)),
    )


@identity(
    "D.16",
    "The derivative of y with respect to β",
    "∂y_s/∂β = I,  β̄ = Σ_s ȳ_s",
    "S4 (3)",
    scale="1, Σ_s |ȳ|",
    derivation="""
        y_si = γ_i x̂_si + β_i   (BN.3)
        ==> ∂y_si/∂β_i' = δ_ii'
        ==> ∂y_s/∂β = I
        ==> β̄ = Σ_s I ȳ_s = Σ_s ȳ_s
    """,
    implementation=("bnjax.jacobian.beta_jacobian",),
)
def _beta(case: Case) -> Sides:
    formula = np.broadcast_to(np.eye(case.width), (case.batch, case.width, case.width))
    pulled = np.einsum("sik,si->k", formula, case.y_bar)
    return sides(
        (observed.by_jacobian(case).beta, formula),
        (observed.by_library_jacobian(case).beta, formula),
        (observed.by_rule(case).beta_bar, pulled, np.abs(case.y_bar).sum(0)),
    )


class Weighted(NamedTuple):
    """D.17 in NumPy: y, μ, σ², x̄, x̄ with the moments' cotangents (D.7), γ̄ and β̄."""

    y: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    x_bar: np.ndarray
    x_bar_moments: np.ndarray
    gamma_bar: np.ndarray
    beta_bar: np.ndarray


def _weighted(case: Case) -> tuple[Weighted, np.ndarray, np.ndarray]:
    x, w = numeric.wide(case.x), numeric.wide(case.weights)
    n, present = w.sum(), w > 0
    mean = (w * x).sum(0) / n
    var = (w * (x - mean) ** 2).sum(0) / n
    r = (var + case.eps) ** -0.5
    deviation = np.where(present, x - mean, 0)
    x_hat, y_bar = deviation * r, np.where(present, case.y_bar, 0)
    pulled = y_bar - w / n * y_bar.sum(0) - w * x_hat / n * (y_bar * x_hat).sum(0)
    pulled = case.gamma * r * pulled
    through = case.mean_bar + 2 * case.var_bar * deviation
    x_dot = numeric.wide(case.x_dot)
    pushed = x_dot - (w * x_dot).sum(0) / n - x_hat * (w * x_dot * x_hat).sum(0) / n
    found = Weighted(
        case.gamma * x_hat + case.beta,
        mean,
        var,
        pulled,
        pulled + w / n * through,
        (y_bar * x_hat).sum(0),
        numeric.wide(case.y_bar).sum(0),
    )
    # w K(ȳ⁺/w), whose means are weighted
    t = y_bar / np.where(present, w, 1)
    by_kernel = w * case.gamma * r
    by_kernel = by_kernel * (t - (w * t).sum(0) / n - x_hat * (w * t * x_hat).sum(0) / n)
    return found, by_kernel, np.where(present, case.gamma * r * pushed, 0)


@quick("eps")
def _pushed(x: Any, gamma: Any, w: Any, x_dot: Any, *, eps: float) -> Array:
    def y(x: Array) -> Array:
        return norm.batch_norm(x, gamma, eps=eps, where=w, rule="autodiff")[0]

    return jnp.asarray(jax.jvp(y, (x,), (x_dot,))[1])


@identity(
    "D.17",
    "With sample weights the pull-back is w K(·/w); at weight zero ȳ reaches β only",
    "⟨t⟩ = Σ_s w_s t_s / n,  n = Σ_s w_s,  x̂ = 0, y = β where w = 0,  "
    "ȳ⁺ = ȳ where w > 0, else 0,  x̄ = w K(ȳ⁺/w),  "
    "x̄ = γ r [ȳ⁺ − (w/n) (Σ_s ȳ⁺_s + x̂ Σ_s ȳ⁺_s x̂_s)],  ẏ = K(ẋ) where w > 0, else 0",
    "own derivation",
    scale="as D.4, D.5, D.7",
    derivation="""
        μ = Σ_s w_s x_s / n,  ∂μ/∂x_s' = w_s'/n,  ∂σ²/∂x_s' = (2 w_s'/n) (x_s' − μ)   (BN.2, D.1)
        as in D.2, with w_s'/n for 1/B, where w > 0:
        ==> ∂y_s/∂x_s' = γ r [δ_ss' − (w_s'/n) (1 + x̂_s x̂_s')]
        ==> ẏ_s = Σ_s' (∂y_s/∂x_s') ẋ_s' = γ r [ẋ_s − ⟨ẋ⟩ − x̂_s ⟨ẋ x̂⟩] = K(ẋ)_s       (D.4)
        where w = 0, y = β does not depend on x: ȳ counts as ȳ⁺ = 0
        ==> x̄_s' = Σ_s ȳ⁺_s ∂y_s/∂x_s'
        ==> x̄ = γ r [ȳ⁺ − (w/n) (Σ_s ȳ⁺_s + x̂ Σ_s ȳ⁺_s x̂_s)]
        t = ȳ⁺/w:  w t = ȳ⁺,  ⟨t⟩ = Σ_s ȳ⁺_s / n,  ⟨t x̂⟩ = Σ_s ȳ⁺_s x̂_s / n
        ==> x̄ = w γ r [t − ⟨t⟩ − x̂ ⟨t x̂⟩] = w K(ȳ⁺/w)                                 (D.4)
    """,
    implementation=(
        "bnjax.batch_norm",
        "bnjax.rules.vjp.normalize_by_vjp",
        "bnjax.rules.jvp.normalize_by_jvp",
    ),
)
def _sample_weights(case: Case) -> Sides:
    formula, by_kernel, pushed = _weighted(case)
    r = (formula.var + case.eps) ** -0.5
    x_terms = np.abs(case.gamma * r * case.y_bar)
    moment_terms = x_terms + np.abs(case.mean_bar) + np.abs(case.var_bar * case.x)
    x_hat = np.abs((formula.y - case.beta) / case.gamma)
    pairs: list[Any] = [
        (by_kernel, formula.x_bar, x_terms),
        (
            _pushed(case.x, case.gamma, case.weights, case.x_dot, eps=case.eps),
            pushed,
            case.gamma * r * case.x_dot,
        ),
    ]
    for rule in ("vjp", "autodiff"):
        seen = observed.by_rule(case, rule, where=case.weights)
        pairs += [
            (seen.y, formula.y),
            (seen.mean, formula.mean, case.x),
            (seen.var, formula.var),
            (seen.x_bar, formula.x_bar, x_terms),
            (seen.x_bar_moments, formula.x_bar_moments, moment_terms),
            (seen.gamma_bar, formula.gamma_bar, (x_hat * np.abs(case.y_bar)).sum(0)),
            (seen.beta_bar, formula.beta_bar, np.abs(case.y_bar).sum(0)),
        ]
    return sides(*pairs)
