"""E.2–E.5, E.8, E.12, E.14: what the lecture notes S3 and the exercise S4 get wrong."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import norm
from bnjax.identities import layers, numeric, observed
from bnjax.identities import population as statistics
from bnjax.identities.cases import Case
from bnjax.identities.derivatives import staged
from bnjax.identities.entries import Identity, Sides, recorder, sides
from bnjax.identities.quick import quick

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)

_EPS = 1.0  # an ε that shows, E.12


def _copied(case: Case) -> Sides:
    found = staged(case)
    return sides((found["mean_bar"] + found["vanishing"], found["var_bar"]))


@identity(
    "E.2",
    "S3: “These do not agree with Hui et al., nor Ioffe & Szegedy (2015).”",
    "Σ_s (x_s − μ) = 0,  x̄ = K(ȳ)",
    "S3",
    scale="Σ_s of each stage's |terms|",
    refuted=_copied,
    correction="S3 says that its backward pass does not agree with Ioffe & Szegedy's. It does, "
    "once the gradients of γ and β are summed over the batch (E.8): the term that S3 leaves out is "
    "zero (D.6). What S3 copies as their ∂l/∂σ² is their ∂l/∂μ.",
)
def _chains_agree(case: Case) -> Sides:
    at, found = numeric.normalized_layer(case.x, case.eps), staged(case)
    library = observed.by_library_jacobian(case)
    size = np.abs(found["x_hat_bar"]) * at.r
    return sides(
        (found["s3"], found["ioffe"], size),
        (library.chain_s3.x_bar, library.chain.x_bar, size),
        (library.chain_s3.x_bar, observed.by_plain(case).x_bar, size),
        (found["mean_bar"] + found["vanishing"], library.chain.mean_bar, size.sum(0)),
    )


def _biased_twice(case: Case) -> Sides:
    data = numeric.wide(case.batches)
    return sides((data.var(1).mean(0) / (case.batch - 1), data.var(1, ddof=1).mean(0)))


@identity(
    "E.3",
    "S3, once: the variance for inference has the factor 1/(B − 1)",
    "σ²_BN = Σ_k ν_k/(ν_k − 1) σ_k² / N_B,  σ²_BN ≠ Σ_k 1/(ν_k − 1) σ_k² / N_B",
    "S3",
    scale="σ²",
    refuted=_biased_twice,
    correction="In one line S3 has the factor 1/(B − 1) for the variance for inference. The factor "
    "is B/(B − 1) (P.2), as S3 itself has it later.",
)
def _factor(case: Case) -> Sides:
    return statistics.variance(case)


def _of_the_input(case: Case) -> Sides:
    x, o = numeric.wide(case.u) @ case.W, numeric.wide(case.u[:, : case.width])
    claimed = (x - o.mean(0)) / np.sqrt(o.var(0) + case.eps)
    return sides((claimed, layers.layer_of(case).x_hat))


@identity(
    "E.4",
    "S4: the statistics are those of the layer's input o, one for each input",
    "x = u W,  μ_i = ⟨x_i⟩,  σ_i² = ⟨(x_i − μ_i)²⟩",
    "S4",
    scale="|y|",
    refuted=_of_the_input,
    correction="S4 takes the statistics of the layer's input o (here u), one for each input. They "
    "are those of W o (here x), one for each neuron, like γ and β (BN.2). S4 also writes σ for σ².",
)
def _of_the_sum(case: Case) -> Sides:
    here, at = case._replace(x=case.u @ case.W), layers.layer_of(case)
    seen = observed.by_rule(here)
    return sides(
        (seen.y, numeric.wide(case.gamma) * at.x_hat + case.beta),
        (seen.mean, at.mean, here.x),
        (seen.var, at.var),
    )


def _observed_jacobian(case: Case) -> Sides:
    found = observed.by_weights(case)
    return sides((found.frozen_jacobian, found.jacobian, found.frozen_jacobian))


@identity(
    "E.5",
    "S4 (4): the Jacobian of the layer with respect to W is diag(γ r) e_i oᵀ",
    "∂y_si/∂W_ji = γ_i r_i [u_sj − ⟨u_j⟩ − x̂_si ⟨u_j x̂_i⟩],  "
    "∂y_si/∂W_ji = γ_i r_i u_sj where μ, σ² are constant",
    "S4 (4)",
    scale="|γ r u|",
    refuted=_observed_jacobian,
    correction="S4 (4) lets the reader “observe” a Jacobian with respect to W. It is the one with "
    "the statistics held constant, as in evaluation (D.13). In training they change with W (D.8).",
)
def _two_jacobians(case: Case) -> Sides:
    return layers.both_jacobians(case)


def _one_instance(case: Case) -> Sides:
    x_hat = numeric.normalized_layer(case.x, case.eps).x_hat
    seen = observed.by_plain(case)
    return sides((case.y_bar[0] * x_hat[0], seen.gamma_bar), (case.y_bar[0], seen.beta_bar))


@identity(
    "E.8",
    "S3: the gradients of γ and β are those of one instance",
    "γ̄ = Σ_s ȳ_s x̂_s,  β̄ = Σ_s ȳ_s",
    "S3",
    scale="Σ_s |ȳ x̂|, Σ_s |ȳ|",
    refuted=_one_instance,
    correction="S3 gives the gradients of γ and β for one instance, and says so. For a batch they "
    "are sums over its samples (D.5).",
)
def _summed(case: Case) -> Sides:
    x_hat = numeric.normalized_layer(case.x, case.eps).x_hat
    seen = observed.by_plain(case)
    each = case.y_bar * x_hat
    return sides(
        (sum(each), seen.gamma_bar, np.abs(each).sum(0)),
        (sum(numeric.wide(case.y_bar)), seen.beta_bar, np.abs(case.y_bar).sum(0)),
    )


def _with_sd(case: Case) -> np.ndarray:
    """Normalize by the library with γ = σ and β = μ."""
    at = numeric.normalized_layer(case.x, case.eps)
    gamma, beta = np.sqrt(at.var).astype(case.dtype), at.mean.astype(case.dtype)
    return numeric.wide(observed.by_rule(case._replace(gamma=gamma, beta=beta)).y)


def _restored(case: Case) -> Sides:
    return sides((case.x, _with_sd(case._replace(eps=_EPS))))


@identity(
    "E.12",
    "S3; Ioffe & Szegedy 2015: γ = √Var[x], β = E[x] restore x",
    "y = μ + ρ (x − μ) where γ = σ, β = μ,  y = x where γ = (σ² + ε)^(1/2), β = μ",
    "S3; Ioffe & Szegedy 2015",
    scale="|x|",
    refuted=_restored,
    margin=1e-3,
    correction="S3 follows Ioffe & Szegedy, who restore x with γ = √Var[x]. That does so at ε = 0 "
    "only; otherwise the deviations come back shortened by ρ. (σ² + ε)^(1/2) restores them for "
    "every ε (BN.4).",
)
def _shortened(case: Case) -> Sides:
    pairs: list[Any] = []
    for one in (case, case._replace(eps=_EPS)):
        at = numeric.normalized_layer(one.x, one.eps)
        shortened = at.mean + at.rho * (numeric.wide(one.x) - at.mean)
        gamma, beta = (1 / at.r).astype(one.dtype), at.mean.astype(one.dtype)
        restored = observed.by_rule(one._replace(gamma=gamma, beta=beta)).y
        pairs += [(_with_sd(one), shortened, one.x), (restored, one.x)]
    return sides(*pairs)


@quick()
def _pulled_to_x_hat(x_hat: Any, gamma: Any, beta: Any, y_bar: Any) -> Array:
    """Pull ȳ back to x̂, by the library's scale and shift."""
    zero, one = jnp.zeros_like(gamma), jnp.ones_like(gamma)

    def y(x_hat: Array) -> Array:
        return norm.normalize(x_hat, zero, one, gamma, beta, eps=0.0)

    return jax.vjp(y, x_hat)[1](y_bar)[0]


def _by_the_slope(case: Case) -> Sides:
    at = numeric.normalized_layer(case.x, case.eps)
    slope = numeric.slope("sigmoid", case.gamma * at.x_hat + case.beta)
    return sides((slope * case.y_bar, observed.by_library_jacobian(case).chain.x_hat_bar))


@identity(
    "E.14",
    "S3, once: dẑ/du = f′, that is ∂y/∂x̂ = g'",
    "∂y_si/∂x̂_si = γ_i,  ∂C/∂x̂ = γ Δ",
    "S3",
    scale="|γ|, |γ Δ|",
    refuted=_by_the_slope,
    margin=0.1,
    correction="Under “high level” S3 pulls back from ẑ to u, here from y to x̂, with the slope of "
    "the activation. That slope leads from u_next to y (D.14); from y to x̂ it is γ (D.6), as S3 "
    "has it in its summary.",
)
def _by_gamma(case: Case) -> Sides:
    x_hat = numeric.normalized_layer(case.x, case.eps).x_hat.astype(case.dtype)
    chains = observed.by_library_jacobian(case)
    pulled = _pulled_to_x_hat(x_hat, case.gamma, case.beta, case.y_bar)
    found = chains.chain.x_hat_bar, chains.chain_s3.x_hat_bar, pulled
    return sides(*((one, case.gamma * numeric.wide(case.y_bar)) for one in found))
