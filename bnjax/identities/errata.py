"""E: what the sources get wrong: each claim with its counter-example and the correction."""

from typing import Any

import numpy as np

from bnjax.identities import baseline, geometry, layers, numeric, observed
from bnjax.identities import population as statistics
from bnjax.identities.cases import Case, float64
from bnjax.identities.derivatives import staged
from bnjax.identities.entries import Identity, Sides, paired, recorder, sides

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)

_EPS = 1.0  # where ε must not be zero to show, E.9


def _orthogonal(case: Case) -> np.ndarray:
    """Find directions of length √B orthogonal to 1 and to x̂, one per neuron."""
    _, x_hat = numeric.hat(case.x)
    rest = numeric.wide(case.y_bar) - case.y_bar.mean(0)
    rest = rest - x_hat * (rest * x_hat).mean(0)
    return numeric.hat(rest)[1]


def _opposite(case: Case) -> Sides:
    _, x_hat = numeric.hat(case.x)
    opposite = case._replace(y_bar=-x_hat.astype(case.dtype), gamma=np.ones_like(case.gamma))
    at = numeric.layer(case.x, case.eps)
    product = numeric.wide(observed.by_library_jacobian(opposite).product) / at.r
    length = np.linalg.norm(product, axis=0)
    return sides((np.full(case.width, case.batch**0.5), length, case.batch**0.5))


@identity(
    "E.1",
    "S0/S1: 'opposite vectors propagate the error with largest magnitude': no, with none at all",
    "Δ̂ = −x̂: cos θ1 = −1, |[...]| = 0;  cos θ1 = 0: |[...]| = √B, the largest",
    "S0/S1 §3",
    holds="eps = 0",
    scale="√B",
    batch=3,
    refuted=_opposite,
    margin=0.5,
    correction="S0/S1 say that an error opposite to x̂ propagates with largest magnitude. It does "
    "not propagate at all, like an aligned one; the largest is at a right angle (G.5).",
)
def _right_angle(case: Case) -> Sides:
    at = numeric.layer(case.x, case.eps)
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


def _copied(case: Case) -> Sides:
    found = staged(case)
    return sides((found["mean_bar"] + found["vanishing"], found["var_bar"]))


@identity(
    "E.2",
    "S3: 'these do not agree with Ioffe & Szegedy': they do, once summed over the batch",
    "Σ (x − μ) = 0, so S3's x' = Ioffe & Szegedy's x' = K(Δ)",
    "S3",
    scale="Σ_s of each stage's |terms|",
    refuted=_copied,
    correction="S3 says that its backward pass does not agree with Ioffe & Szegedy's. It does: the "
    "term it leaves out is identically zero (D.6), and γ, β are summed over the batch (E.8). What "
    "it copies down as their ∂l/∂σ² is their ∂l/∂μ.",
)
def _agree(case: Case) -> Sides:
    at, found = numeric.layer(case.x, case.eps), staged(case)
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
    "S3, one line: the inference variance is the batches' mean over B − 1: B times too small",
    "σ²_BN = B/(B − 1) · (1/K) Σ_B σ_B², not 1/(B − 1) · (1/K) Σ_B σ_B²",
    "S3",
    scale="σ²",
    refuted=_biased_twice,
    correction="S3 once gives the inference variance the factor 1/(B − 1); it is B/(B − 1) (P.2), "
    "as S3 has it later.",
)
def _factor(case: Case) -> Sides:
    return statistics.variance(case)


def _of_the_input(case: Case) -> Sides:
    x, o = numeric.wide(case.u) @ case.W, numeric.wide(case.u[:, : case.width])
    claimed = (x - o.mean(0)) / np.sqrt(o.var(0) + case.eps)
    return sides((claimed, layers.layer(case).x_hat))


@identity(
    "E.4",
    "S4 takes the statistics of o; what is normalized is W o",
    "μ_i = ⟨(W o)_i⟩,  σ_i² = ⟨((W o)_i − μ_i)²⟩: in R^{n_l}, like γ and β",
    "S4",
    scale="|y|",
    refuted=_of_the_input,
    correction="S4 takes μ_B, σ_B of the layer's input o, in R^{n_{l−1}}, and writes σ_B for σ_B². "
    "The statistics are those of (W o)_i: they, γ and β live in R^{n_l}.",
)
def _of_the_sum(case: Case) -> Sides:
    here, at = case._replace(x=case.u @ case.W), layers.layer(case)
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
    "S4 (4) is the Jacobian with the statistics held constant, not that of the layer",
    "diag(γ r) e_i oᵀ = D.13 ≠ D.8",
    "S4 (4)",
    scale="|γ r u|",
    refuted=_observed_jacobian,
    correction="S4 (4) lets one 'observe' a Jacobian in W. It is the one with the statistics held "
    "constant, as in evaluation (D.13); in training the statistics move with W (D.8).",
)
def _two_jacobians(case: Case) -> Sides:
    return layers.both_jacobians(case)


def _layer_below(case: Case) -> Sides:
    flow = observed.by_flow(case)
    pairs = []
    for below in range(len(case.params) - 1):
        at = numeric.layer(flow.x[below], case.eps)
        pulled = numeric.kernel(flow.delta[below + 1], at, case.params[below].gamma)
        claimed = flow.g_prime[below] * (pulled @ case.params[below + 1].W.T)
        pairs.append((claimed, flow.delta[below]))
    return sides(*pairs)


@identity(
    "E.6",
    "S0/S1, on the way to eq. 2: γ, σ, x̂ of layer l; they are of layer l+1",
    "Δˡ = g'(yˡ) ⊙ [K(Δˡ⁺¹) Wᵀ],  K of layer l+1",
    "S0/S1 §2",
    scale="as D.11",
    batch=3,
    refuted=_layer_below,
    correction="S0/S1 write γ, σ, x̂ of layer l in the middle of the derivation of eq. 2; they are "
    "of layer l+1, as in eq. 2 itself (and once Δˡ for Δˡ⁺¹; S0 also rˡ for γˡ).",
)
def _layer_above(case: Case) -> Sides:
    return layers.recursion(case)


def _along_step(case: Case) -> tuple[float, float]:
    """Tell how fast the cost changes along a step of the library, and −|step|²/η.

    The rate is Im C(W + i h step)/h, in NumPy: exact, and no derivative is written down.
    """
    W, b = float64(case.baseline_params)[0]
    after = baseline.steps(case)[1]
    step = numeric.wide(after.W[-1]) - W, numeric.wide(after.b[-1]) - b
    h = 1e-30
    y = numeric.wide(case.u) @ (W + 1j * h * step[0]) + (b + 1j * h * step[1])
    cost = (np.log1p(np.exp(y)) - case.targets * y).sum() / case.batch
    squared = sum(float((part**2).sum()) for part in step)
    return float(np.imag(cost)) / h, -squared / baseline.RATE


def _slips(case: Case) -> Sides:
    along, expected = _along_step(case)
    at, u = layers.layer(case), numeric.wide(case.u)
    no_index = (u - u.mean(0))[:, :, None] * case.gamma * at.r  # x̂ without s: its mean, 0
    return sides(
        (-along, expected),  # W + η ∂C/∂W climbs
        (no_index, layers.weight_jacobian(u, at, case.gamma), no_index),
    )


@identity(
    "E.7",
    "slips: b of the wrong layer, a lost minus sign, a lost sample index",
    "yˡ⁺¹ = g(yˡ) W + bˡ⁺¹;  W ← W − η ∂C/∂W;  x̂_s in eq. 1",
    "S0/S1 §1; S0; S2",
    scale="|step|²/η, |y|",
    refuted=_slips,
    correction="S0/S1 differentiate W g(y) + bˡ: the bias is bˡ⁺¹ (harmless, it drops out). S0 "
    "lost the minus sign of the update (BL.6). S2 lost the sample index of x̂ in eq. 1 (D.8).",
)
def _corrected_slips(case: Case) -> Sides:
    flow = observed.by_baseline_flow(case)
    y = [numeric.wide(u) @ W + b for u, (W, b) in zip(flow.u, case.baseline_params, strict=True)]
    return sides(
        _along_step(case),
        *paired(flow.y, y, y),
    )


def _one_instance(case: Case) -> Sides:
    x_hat = numeric.layer(case.x, case.eps).x_hat
    seen = observed.by_plain(case)
    return sides((case.y_bar[0] * x_hat[0], seen.gamma_bar), (case.y_bar[0], seen.beta_bar))


@identity(
    "E.8",
    "S3 gives ∂C/∂γ and ∂C/∂β of one instance, and says so; over the batch they are sums",
    "∂C/∂γ = Σ_s Δ_s x̂_s,  ∂C/∂β = Σ_s Δ_s",
    "S3",
    scale="Σ_s |Δ x̂|, Σ_s |Δ|",
    refuted=_one_instance,
    correction="S3 gives the gradients in γ and β of one instance, and says so; over the batch "
    "they are sums (D.5).",
)
def _summed(case: Case) -> Sides:
    x_hat = numeric.layer(case.x, case.eps).x_hat
    seen = observed.by_plain(case)
    each = case.y_bar * x_hat
    return sides(
        (sum(each), seen.gamma_bar, np.abs(each).sum(0)),
        (sum(numeric.wide(case.y_bar)), seen.beta_bar, np.abs(case.y_bar).sum(0)),
    )


def _for_every_eps(case: Case) -> Sides:
    case = case._replace(eps=_EPS)
    at = layers.layer(case)
    exact = at._replace(r=at.var**-0.5)
    _, u_hat = numeric.hat(case.u[:, 1:])
    negative = numeric.hat(-case.factor * numeric.wide(case.u[:, 1:]))[1]
    remaining = layers.single(case)[1]
    return sides(
        (geometry.weight_gradient(case, exact, 1.0), observed.by_weights(case).W),
        (0 * remaining, remaining),
        (u_hat, negative),
    )


@identity(
    "E.9",
    "S0/S1's insights need ε = 0, and in the one-neuron case W > 0",
    "ε > 0: G.2, G.4, G.5 with ρ < 1, M u = σ(u) û ε/(σ² + ε);  W < 0: x̂ = −û, σ(u) = σ/|W|",
    "S0/S1 §3",
    scale="as G.2, D.12; |û|, σ",
    refuted=_for_every_eps,
    correction="S0/S1's insights hold at ε = 0 only; G.2, G.4, G.5 and D.12 give them for every ε. "
    "In the one-neuron case x̂ = û and STD(u) = σ/W need W > 0; for W < 0 x̂ = −û and σ/|W|.",
)
def _with_eps(case: Case) -> Sides:
    case = case._replace(eps=_EPS)
    at = layers.layer(case)
    terms = layers.gradient_terms(case, at)
    single, _ = layers.single(case, -1.0)
    w = -numeric.wide(case.factor)
    sd, u_hat = numeric.hat(case.u[:, 1:])
    sd_x, x_hat = numeric.hat(case.u[:, 1:] * w)
    found = sides(
        (geometry.weight_gradient(case, at, at.rho), observed.by_weights(case).W, terms),
        (x_hat, -u_hat),
        (sd, sd_x / np.abs(w)),
    )
    return Sides(*(a + b for a, b in zip(found, single, strict=True)))
