"""D.1–D.7: derivatives of batch normalization with respect to x, γ and β."""

from typing import Any

import numpy as np

from bnjax.identities import numeric, observed
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, paired, recorder, sides

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)


def kernel_matrix(at: numeric.NormalizedLayer, gamma: Any) -> np.ndarray:
    """Compute D.2: (B, B, n)."""
    B = len(at.x_hat)
    outer = at.x_hat[:, None] * at.x_hat[None]
    return gamma * at.r * (np.eye(B)[:, :, None] - 1 / B - outer / B)


@identity(
    "D.1",
    "The derivative of the variance with respect to one sample",
    "∂σ²/∂x_s = (2/B) (x_s − μ)",
    "S0/S1 §2; S3",
    scale="(2/B) |x − μ|",
    derivation="""
        σ² = Σ_s' (x_s' − μ)² / B,  ∂μ/∂x_s = 1/B   (BN.2)
        ==> ∂σ²/∂x_s = (2/B) Σ_s' (x_s' − μ) (δ_ss' − 1/B)
                     = (2/B) (x_s − μ) − (2/B²) Σ_s' (x_s' − μ)
        Σ_s' (x_s' − μ) = 0                         (BN.2)
        ==> ∂σ²/∂x_s = (2/B) (x_s − μ)
    """,
)
def _variance(case: Case) -> Sides:
    x = numeric.wide(case.x)
    formula = 2 / case.batch * (x - x.mean(0))
    seen = observed.by_rule(case), observed.by_plain(case)
    return sides(*((one.var_x, formula) for one in seen))


@identity(
    "D.2",
    "The kernel, the Jacobian of y in x: it mixes samples, but not neurons",
    "∂y_si/∂x_s'i = γ_i r_i [δ_ss' − 1/B − x̂_si x̂_s'i / B],  ∂y_si/∂x_s'i' = 0 where i' ≠ i",
    "S0/S1 eq. 3",
    scale="|γ r|",
    derivation="""
        of one neuron:  y_s = γ (x_s − μ) r + β,  r = (σ² + ε)^(−1/2)   (BN.2, BN.3)
        ∂μ/∂x_s' = 1/B                                                  (BN.2)
        ∂r/∂x_s' = −½ r³ ∂σ²/∂x_s' = −r³ (x_s' − μ)/B                   (D.1)
        ==> ∂y_s/∂x_s' = γ r (δ_ss' − 1/B) − γ r³ (x_s − μ) (x_s' − μ)/B
        ==> ∂y_s/∂x_s' = γ r [δ_ss' − 1/B − x̂_s x̂_s' / B]               (BN.2)
        of two neurons:  y_i depends on x_i alone                       (BN.2, BN.3)
        ==> ∂y_si/∂x_s'i' = 0 where i' ≠ i
    """,
    implementation=("bnjax.jacobian.kernel",),
)
def _kernel(case: Case) -> Sides:
    at = numeric.normalized_layer(case.x, case.eps)
    formula = kernel_matrix(at, case.gamma)
    full = np.einsum("sti,ik->sitk", formula, np.eye(case.width))
    terms = case.gamma * at.r
    return sides(
        (observed.by_jacobian(case).x, full, terms),
        (observed.by_library_jacobian(case).kernel, formula, terms),
    )


@identity(
    "D.3",
    "The kernel is symmetric, and in units of γ r a projection at ε = 0 only",
    "⟨v K(t)⟩ = ⟨K(v) t⟩,  K(1) = 0,  K(x̂) = γ r ε/(σ² + ε) x̂,  "
    "K(t) = γ r t where ⟨t⟩ = ⟨t x̂⟩ = 0,  K(K(t)) = γ r K(t) where ε = 0",
    "S0/S1 eq. 3; own derivation",
    scale="1; B for K x̂",
    derivation="""
        γ r [δ_ss' − 1/B − x̂_s x̂_s' / B] is the same with s and s' exchanged   (D.2)
        ==> ⟨v K(t)⟩ = ⟨K(v) t⟩,  for K(t) = γ r [t − ⟨t⟩ − x̂ ⟨t x̂⟩]           (D.4)
        ⟨1⟩ = 1,  ⟨x̂⟩ = 0,  ⟨x̂²⟩ = σ²/(σ² + ε)                                 (BN.2)
        ==> K(1) = γ r [1 − 1 − x̂ ⟨x̂⟩] = 0
        ==> K(x̂) = γ r [x̂ − 0 − x̂ ⟨x̂²⟩] = γ r ε/(σ² + ε) x̂
        ⟨t⟩ = ⟨t x̂⟩ = 0 for all t of a space of B − 2 dimensions
        ==> K(t) = γ r t there
        ==> eigenvalues in units of γ r:  0,  ε/(σ² + ε)  and  1 (B − 2 times)
        ε = 0:  they are 0, 0 and 1
        ==> K(K(t)) = γ r K(t)
    """,
    implementation=("bnjax.jacobian.kernel_eigenvalues",),
)
def _spectrum(case: Case) -> Sides:
    at = numeric.normalized_layer(case.x, case.eps)
    full = numeric.wide(observed.by_jacobian(case).x)
    unit = np.einsum("siti->ist", full) / (case.gamma * at.r)[:, None, None]
    small = case.eps / (at.var + case.eps)
    values = np.vstack([0 * small, small, np.ones((case.batch - 2, case.width))])
    along = np.einsum("ist,ti->si", unit, at.x_hat)
    pairs: list[Any] = [
        (unit, unit.swapaxes(1, 2), 1),
        (np.linalg.eigvalsh(unit).T, values, 1),
        (observed.by_library_jacobian(case).values, values, 1),
        (unit.sum(2), np.zeros((case.width, case.batch)), 1),
        (along, small * at.x_hat, case.batch),
    ]
    if case.eps == 0:
        pairs.append((unit @ unit, unit, 1))
    return sides(*pairs)


@identity(
    "D.4",
    "The pull-back and the push-forward are one operator, K",
    "K(t) = γ r [t − ⟨t⟩ − x̂ ⟨t x̂⟩],  ẏ = K(ẋ),  x̄ = K(ȳ)",
    "S0/S1 eq. 3",
    scale="|γ r t|",
    derivation="""
        ẏ_s = Σ_s' (∂y_s/∂x_s') ẋ_s'
            = γ r [ẋ_s − Σ_s' ẋ_s' / B − x̂_s Σ_s' x̂_s' ẋ_s' / B]     (D.2)
        ==> ẏ = γ r [ẋ − ⟨ẋ⟩ − x̂ ⟨ẋ x̂⟩] = K(ẋ)
        x̄_s' = Σ_s ȳ_s ∂y_s/∂x_s' = Σ_s (∂y_s'/∂x_s) ȳ_s             (D.2)
        ==> x̄ = γ r [ȳ − ⟨ȳ⟩ − x̂ ⟨ȳ x̂⟩] = K(ȳ)
        With unequal weights K is not symmetric, and x̄ = w K(ȳ⁺/w)   (D.17)
    """,
    implementation=("bnjax.kernel.K", "bnjax.jacobian.kernel_product"),
)
def _one_operator(case: Case) -> Sides:
    at = numeric.normalized_layer(case.x, case.eps)
    pulled, pushed = (numeric.times_kernel(t, at, case.gamma) for t in (case.y_bar, case.x_dot))
    terms = case.gamma * at.r * case.y_bar
    return sides(
        (observed.by_rule(case).x_bar, pulled, terms),
        (observed.by_plain(case).x_bar, pulled, terms),
        (observed.by_library_jacobian(case).product, pulled, terms),
        (observed.by_jacobian(case).along_x.y_dot, pushed, case.gamma * at.r * case.x_dot),
    )


@identity(
    "D.5",
    "The gradients of γ and β are sums over the batch; their tangents add to ẏ",
    "γ̄ = Σ_s ȳ_s x̂_s,  β̄ = Σ_s ȳ_s,  ẏ = K(ẋ) + γ̇ x̂ + β̇",
    "S0/S1 eq. 1; Ioffe & Szegedy 2015",
    scale="Σ_s |ȳ x̂|, Σ_s |ȳ|, |γ r ẋ| + |γ̇ x̂| + |β̇|",
    derivation="""
        ∂y_s/∂γ = x̂_s,  ∂y_s/∂β = 1, for one neuron   (D.15, D.16)
        ==> γ̄ = Σ_s ȳ_s x̂_s,  β̄ = Σ_s ȳ_s
        ẏ_s = Σ_s' (∂y_s/∂x_s') ẋ_s' + (∂y_s/∂γ) γ̇ + (∂y_s/∂β) β̇
        ==> ẏ = K(ẋ) + γ̇ x̂ + β̇                        (D.4)
    """,
    implementation=(
        "bnjax.rules.vjp.normalize_by_vjp",
        "bnjax.rules.jvp.normalize_by_jvp",
        "bnjax.backprop.value_and_grad",
    ),
)
def _scale_and_shift(case: Case) -> Sides:
    at = numeric.normalized_layer(case.x, case.eps)
    gamma_bar, beta_bar = (case.y_bar * at.x_hat).sum(0), numeric.wide(case.y_bar).sum(0)
    terms = np.abs(case.y_bar * at.x_hat).sum(0), np.abs(case.y_bar).sum(0)
    seen = observed.by_rule(case), observed.by_plain(case)
    x_dot, gamma_dot, beta_dot = observed.dots_of(case)
    y_dot = numeric.times_kernel(x_dot, at, case.gamma) + gamma_dot * at.x_hat + beta_dot
    y_terms = np.abs(case.gamma * at.r * x_dot) + np.abs(gamma_dot * at.x_hat) + np.abs(beta_dot)
    pushed = observed.by_rule_tangents(case), observed.by_jacobian(case).along_all
    return sides(
        *((one.gamma_bar, gamma_bar, terms[0]) for one in seen),
        *((one.beta_bar, beta_bar, terms[1]) for one in seen),
        *((one.y_dot, y_dot, y_terms) for one in pushed),
    )


def _by_complex_step(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Differentiate C = Σ ȳ y in σ², and in μ through σ² too: Im C(· + i h)/h, exactly."""
    at, x, step = numeric.normalized_layer(case.x, case.eps), numeric.wide(case.x), 1e-30

    def cost(mean: Any, var: Any) -> np.ndarray:
        return (case.y_bar * (case.gamma * (x - mean) / np.sqrt(var + case.eps))).sum(0)

    mean = at.mean + 1j * step
    in_var = cost(at.mean, at.var + 1j * step)
    in_mean = cost(mean, ((x - mean) ** 2).mean(0))
    return np.imag(in_var) / step, np.imag(in_mean) / step


def staged(case: Case) -> dict[str, np.ndarray]:
    """Compute D.6 stage by stage; `vanishing` is the second term of ∂C/∂μ."""
    at = numeric.normalized_layer(case.x, case.eps)
    deviation = numeric.wide(case.x) - at.mean
    x_hat_bar = numeric.wide(case.gamma) * case.y_bar
    var_bar = -0.5 * at.r**3 * (x_hat_bar * deviation).sum(0)
    mean_bar = -at.r * x_hat_bar.sum(0)
    vanishing = var_bar * (-2 / case.batch) * deviation.sum(0)
    direct = x_hat_bar * at.r + var_bar * 2 * deviation / case.batch
    return {
        "x_hat_bar": x_hat_bar,
        "var_bar": var_bar,
        "mean_bar": mean_bar,
        "vanishing": vanishing,
        "s3": direct + mean_bar / case.batch,
        "ioffe": direct + (mean_bar + vanishing) / case.batch,
    }


@identity(
    "D.6",
    "The chain rule in stages, with a vanishing term (Ioffe & Szegedy) or without (S3)",
    "∂C/∂x̂ = γ Δ,  ∂C/∂σ² = −½ r³ Σ_s (x_s − μ) ∂C/∂x̂_s,  "
    "∂C/∂μ = −r Σ_s ∂C/∂x̂_s − (2/B) ∂C/∂σ² Σ_s (x_s − μ),  Σ_s (x_s − μ) = 0,  "
    "∂C/∂x = r ∂C/∂x̂ + (2/B) (x − μ) ∂C/∂σ² + ∂C/∂μ / B",
    "S3; Ioffe & Szegedy 2015",
    scale="Σ_s of each stage's |terms|",
    derivation="""
        C is a function of x̂_s = (x_s − μ) (σ² + ε)^(−1/2), and y = γ x̂ + β   (BN.2, BN.3)
        ==> ∂C/∂x̂ = γ Δ
        ==> ∂C/∂σ² = Σ_s ∂C/∂x̂_s ∂x̂_s/∂σ² = −½ r³ Σ_s (x_s − μ) ∂C/∂x̂_s
        ==> ∂C/∂μ = Σ_s ∂C/∂x̂_s ∂x̂_s/∂μ + ∂C/∂σ² ∂σ²/∂μ
                  = −r Σ_s ∂C/∂x̂_s − (2/B) ∂C/∂σ² Σ_s (x_s − μ)
        Σ_s (x_s − μ) = 0                                                     (BN.2)
        ∂x̂_s/∂x_s = r,  ∂σ²/∂x_s = (2/B) (x_s − μ),  ∂μ/∂x_s = 1/B            (D.1)
        ==> ∂C/∂x = r ∂C/∂x̂ + (2/B) (x − μ) ∂C/∂σ² + ∂C/∂μ / B
                  = γ r [Δ − x̂ ⟨Δ x̂⟩ − ⟨Δ⟩] = K(Δ)                            (D.4)
    """,
    implementation=("bnjax.backprop.staged_chain",),
)
def _stages(case: Case) -> Sides:
    at = numeric.normalized_layer(case.x, case.eps)
    found = staged(case)
    library = observed.by_library_jacobian(case)
    deviation = np.abs(numeric.wide(case.x) - at.mean)
    size = np.abs(found["x_hat_bar"])
    terms = (size, at.r**3 * (size * deviation).sum(0) / 2, at.r * size.sum(0))
    formula = (found["x_hat_bar"], found["var_bar"], found["mean_bar"])
    by_kernel = numeric.times_kernel(case.y_bar, at, case.gamma)
    x_terms = size * at.r
    return sides(
        *paired(_by_complex_step(case), formula[1:], terms[1:]),
        *paired(library.chain[:3], formula, terms),
        *paired(library.chain_s3[:3], formula, terms),
        (found["vanishing"], 0 * at.r, 2 * terms[1] * deviation.mean(0)),
        *((one, by_kernel, x_terms) for one in (found["s3"], found["ioffe"])),
        *((one.x_bar, by_kernel, x_terms) for one in (library.chain, library.chain_s3)),
        (observed.by_plain(case).x_bar, found["s3"], x_terms),
    )


@identity(
    "D.7",
    "The moments are outputs too: what their cotangents add to x̄, and their tangents",
    "x̄ ← x̄ + (w/n) [μ̄ + 2 σ̄² (x − μ)],  μ̇ = ⟨ẋ⟩,  σ̇² = 2 ⟨(x − μ) ẋ⟩",
    "own derivation",
    scale="|γ r ȳ| + |μ̄| + |σ̄² (x − μ)|, |ẋ|, |(x − μ) ẋ|",
    derivation="""
        ∂μ/∂x_s = w_s/n                               (BN.2, D.17)
        ∂σ²/∂x_s = (2 w_s/n) (x_s − μ)                (D.1, D.17)
        C depends on x through y, which gives x̄, and through μ and σ² besides
        ==> x̄_s ← x̄_s + μ̄ ∂μ/∂x_s + σ̄² ∂σ²/∂x_s
        ==> x̄ ← x̄ + (w/n) [μ̄ + 2 σ̄² (x − μ)]
        ==> μ̇ = Σ_s (∂μ/∂x_s) ẋ_s = ⟨ẋ⟩               (D.17)
        ==> σ̇² = Σ_s (∂σ²/∂x_s) ẋ_s = 2 ⟨(x − μ) ẋ⟩   (D.17)
    """,
    implementation=("bnjax.rules.vjp.normalize_by_vjp", "bnjax.rules.jvp.normalize_by_jvp"),
)
def _moments(case: Case) -> Sides:
    at = numeric.normalized_layer(case.x, case.eps)
    deviation = numeric.wide(case.x) - at.mean
    formula = numeric.times_kernel(case.y_bar, at, case.gamma)
    formula += case.mean_bar / case.batch + case.var_bar * 2 * deviation / case.batch
    terms = np.abs(case.gamma * at.r * case.y_bar) + np.abs(case.mean_bar)
    terms = terms + np.abs(case.var_bar * deviation)
    seen = observed.by_rule(case), observed.by_plain(case)
    x_dot = numeric.wide(case.x_dot)
    pushed = observed.by_rule_tangents(case), observed.by_jacobian(case).along_x
    return sides(
        *((one.x_bar_moments, formula, terms) for one in seen),
        *((one.mean_dot, x_dot.mean(0), x_dot) for one in pushed),
        *((one.var_dot, 2 * (deviation * x_dot).mean(0), 2 * deviation * x_dot) for one in pushed),
    )
