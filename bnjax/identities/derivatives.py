"""D.1–D.7: derivatives of batch normalization in what it normalizes."""

from typing import Any

import numpy as np

from bnjax.identities import numeric, observed
from bnjax.identities.cases import Case
from bnjax.identities.entries import Identity, Sides, paired, recorder, sides

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)


def kernel_matrix(at: numeric.Layer, gamma: Any) -> np.ndarray:
    """Write D.2 down: (B, B, n)."""
    B = len(at.x_hat)
    outer = at.x_hat[:, None] * at.x_hat[None]
    return gamma * at.r * (np.eye(B)[:, :, None] - 1 / B - outer / B)


@identity(
    "D.1",
    "how the variance depends on one sample",
    "∂σ²/∂x_s = (2/B) (x_s − μ)",
    "S0/S1; S3",
    scale="(2/B) |x − μ|",
)
def _variance(case: Case) -> Sides:
    x = numeric.wide(case.x)
    formula = 2 / case.batch * (x - x.mean(0))
    seen = observed.by_rule(case), observed.by_plain(case)
    return sides(*((one.var_x, formula) for one in seen))


@identity(
    "D.2",
    "the kernel: the batch's samples mix, neurons do not",
    "∂y_si/∂x_s'i = γ_i r_i [δ_ss' − 1/B − x̂_si x̂_s'i / B]",
    "S0/S1 eq. 3",
    scale="|γ r|",
)
def _kernel(case: Case) -> Sides:
    at = numeric.layer(case.x, case.eps)
    formula = kernel_matrix(at, case.gamma)
    full = np.einsum("sti,ik->sitk", formula, np.eye(case.width))
    terms = case.gamma * at.r
    return sides(
        (observed.by_jacobian(case).x, full, terms),
        (observed.by_library_jacobian(case).kernel, formula, terms),
    )


@identity(
    "D.3",
    "the kernel is symmetric, and a projector only at ε = 0",
    "eigenvalues in units of γ r: 0 (direction 1), ε/(σ² + ε) (direction x̂), 1 (B − 2 times)",
    "S0/S1 eq. 3; ours",
    scale="1; B for K x̂",
)
def _spectrum(case: Case) -> Sides:
    at = numeric.layer(case.x, case.eps)
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
    "pull-back and push-forward are one operator",
    "∂C/∂x = K(Δ),  ẏ = K(ẋ),  K(t) = γ r [t − ⟨t⟩ − x̂ ⟨t x̂⟩]",
    "S0/S1 eq. 3",
    scale="|γ r t|",
)
def _one_operator(case: Case) -> Sides:
    at = numeric.layer(case.x, case.eps)
    pulled, pushed = (numeric.kernel(t, at, case.gamma) for t in (case.y_bar, case.x_dot))
    terms = case.gamma * at.r * case.y_bar
    return sides(
        (observed.by_rule(case).x_bar, pulled, terms),
        (observed.by_plain(case).x_bar, pulled, terms),
        (observed.by_library_jacobian(case).product, pulled, terms),
        (observed.by_jacobian(case).y_dot, pushed, case.gamma * at.r * case.x_dot),
    )


@identity(
    "D.5",
    "scale and shift learn from the whole batch",
    "∂C/∂γ = Σ_s Δ_s x̂_s,  ∂C/∂β = Σ_s Δ_s",
    "S0/S1 eq. 1; Ioffe & Szegedy",
    scale="Σ_s |Δ x̂|, Σ_s |Δ|",
)
def _scale_and_shift(case: Case) -> Sides:
    x_hat = numeric.layer(case.x, case.eps).x_hat
    gamma_bar, beta_bar = (case.y_bar * x_hat).sum(0), numeric.wide(case.y_bar).sum(0)
    terms = np.abs(case.y_bar * x_hat).sum(0), np.abs(case.y_bar).sum(0)
    seen = observed.by_rule(case), observed.by_plain(case)
    return sides(
        *((one.gamma_bar, gamma_bar, terms[0]) for one in seen),
        *((one.beta_bar, beta_bar, terms[1]) for one in seen),
    )


def _by_complex_step(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Differentiate C = Σ ȳ y in σ² and in μ, on which σ² depends: Im C(· + i h)/h, exactly."""
    at, x, step = numeric.layer(case.x, case.eps), numeric.wide(case.x), 1e-30

    def cost(mean: Any, var: Any) -> np.ndarray:
        return (case.y_bar * (case.gamma * (x - mean) / np.sqrt(var + case.eps))).sum(0)

    mean = at.mean + 1j * step
    in_var = cost(at.mean, at.var + 1j * step)
    in_mean = cost(mean, ((x - mean) ** 2).mean(0))
    return np.imag(in_var) / step, np.imag(in_mean) / step


def staged(case: Case) -> dict[str, np.ndarray]:
    """Write D.6 down, stage by stage; `vanishing` is the second term of μ'."""
    at = numeric.layer(case.x, case.eps)
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
    "the chain rule in stages, with the vanishing term (Ioffe & Szegedy) or without it (S3)",
    "x̂' = γ Δ,  (σ²)' = −½ r³ Σ x̂'(x − μ),  μ' = −r Σ x̂' + (σ²)' (−2/B) Σ (x − μ),  "
    "x' = r x̂' + (σ²)' 2(x − μ)/B + μ'/B",
    "S3; Ioffe & Szegedy",
    scale="Σ_s of each stage's |terms|",
)
def _stages(case: Case) -> Sides:
    at = numeric.layer(case.x, case.eps)
    found = staged(case)
    library = observed.by_library_jacobian(case)
    deviation = np.abs(numeric.wide(case.x) - at.mean)
    size = np.abs(found["x_hat_bar"])
    terms = (size, at.r**3 * (size * deviation).sum(0) / 2, at.r * size.sum(0))
    formula = (found["x_hat_bar"], found["var_bar"], found["mean_bar"])
    by_kernel = numeric.kernel(case.y_bar, at, case.gamma)
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
    "the moments are outputs too",
    "∂C/∂x = K(Δ) + μ̄/B + σ̄² · 2(x − μ)/B",
    "ours",
    scale="|γ r Δ| + |μ̄| + |σ̄² (x − μ)|",
)
def _moments(case: Case) -> Sides:
    at = numeric.layer(case.x, case.eps)
    deviation = numeric.wide(case.x) - at.mean
    formula = numeric.kernel(case.y_bar, at, case.gamma)
    formula += case.mean_bar / case.batch + case.var_bar * 2 * deviation / case.batch
    terms = np.abs(case.gamma * at.r * case.y_bar) + np.abs(case.mean_bar)
    terms = terms + np.abs(case.var_bar * deviation)
    seen = observed.by_rule(case), observed.by_plain(case)
    return sides(*((one.x_bar_moments, formula, terms) for one in seen))
