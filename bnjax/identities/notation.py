"""The notation of the equations: every symbol with its one meaning, and how a formula is written.

A formula is a list of statements, set apart by "," and two spaces: `statements` splits it.
"""

import re
from typing import NamedTuple


class Symbol(NamedTuple):
    """One row of the table of symbols.

    Attributes:
        symbol: The symbol, or several that belong together.
        code: Its name in the code, where it has one.
        shape: Its shape, where it is an array.
        meaning: What it stands for.
    """

    symbol: str
    code: str
    shape: str
    meaning: str


SYMBOLS: dict[str, tuple[Symbol, ...]] = {
    "Indices and sizes": (
        Symbol("s, s'", "", "", "index of a sample of the mini-batch"),
        Symbol("j, j'", "", "", "index of an input of the layer"),
        Symbol("i, i'", "", "", "index of a neuron (an output, a channel) of the layer"),
        Symbol("l, L", "", "", "layer, written as a superscript ˡ; L is the last one"),
        Symbol("k, k'", "", "", "index of a mini-batch, from 1"),
        Symbol("B", "batch", "", "samples in the mini-batch (M_B in S0–S2)"),
        Symbol("N_B", "", "", "number of mini-batches"),
        Symbol("N", "", "", "samples in the whole data set, Σ_k n_k"),
        Symbol("n_in, n_out", "n_in, n_out", "", "inputs and neurons of the layer"),
    ),
    "Sums over the samples": (
        Symbol(
            "w",
            "where",
            "(B,)",
            "sample weights ≥ 0; 1 without weights, 0 and 1 for a mask; constant",
        ),
        Symbol("n", "count", "(n_out,)", "Σ_s w_s; without weights: B"),
        Symbol(
            "ν",
            "effective_count",
            "(n_out,)",
            "effective count (Σ_s w_s)²/Σ_s w_s²; equal weights: B; a mask: n",
        ),
        Symbol("t, v", "t", "(B, n_out)", "any two quantities with one value per sample"),
        Symbol("⟨t⟩", "", "(n_out,)", "weighted mean Σ_s w_s t_s / n; equal weights: Σ_s t_s / B"),
        Symbol("1", "ones", "(B,)", "the vector of ones"),
        Symbol("O", "", "(B, B)", "the matrix of ones"),
        Symbol("I", "", "", "the identity matrix"),
        Symbol("δ_ss', δ_ii'", "", "", "1 where the two indices are equal, else 0"),
    ),
    "A layer": (
        Symbol("u", "u", "(B, n_in)", "input of the layer, output of the layer before"),
        Symbol("W", "W", "(n_in, n_out)", "weights"),
        Symbol("b", "b", "(n_out,)", "bias, in the baseline network"),
        Symbol("x", "x", "(B, n_out)", "what is normalized, u W"),
        Symbol(
            "Λ, Λ'",
            "",
            "",
            "x = Λ(u, W): a product or a convolution; Λ'(u, t): its pull-back to W at t",
        ),
        Symbol("μ", "mean", "(n_out,)", "mean of x over the samples"),
        Symbol(
            "σ², σ", "var", "(n_out,)", "biased variance of x over the samples; its square root"
        ),
        Symbol("ε", "eps", "()", "constant ≥ 0 that is added to σ²"),
        Symbol("r", "inv_std", "(n_out,)", "(σ² + ε)^(−1/2); 0 where σ² + ε = 0"),
        Symbol("x̂", "x_hat", "(B, n_out)", "normalized x, (x − μ) r"),
        Symbol("γ, β", "gamma, beta", "(n_out,)", "scale and shift"),
        Symbol("y", "y", "(B, n_out)", "what is activated: γ x̂ + β, or u W + b in the baseline"),
        Symbol("BN(x)", "batch_norm", "(B, n_out)", "y as a function of x"),
        Symbol("g, g'", "g, g_prime", "", "activation function and its derivative"),
        Symbol("u_next", "", "(B, n_out)", "output of the layer, g(y)"),
        Symbol("c", "", "(n_out,)", "a constant, one per neuron"),
    ),
    "Cost and derivatives": (
        Symbol("φ", "targets", "(B, n_out)", "labels"),
        Symbol("C, C_s, C_k", "cost", "()", "cost; of sample s; of mini-batch k"),
        Symbol("Θ, Θ₁, Θ₂", "params", "", "all parameters; of the lower and of the upper layers"),
        Symbol("F₁, F₂", "", "", "the lower layers as a function; the upper layers and the cost"),
        Symbol("η", "rate", "()", "learning rate"),
        Symbol("Δ", "delta", "(B, n_out)", "error: ∂C/∂y, so that Δ = ȳ"),
        Symbol(
            "x̄, ȳ, γ̄, β̄, μ̄, σ̄²",
            "x_bar, y_bar, …",
            "as x, y, …",
            "cotangents: x̄ = ∂C/∂x, …, σ̄² = ∂C/∂σ²",
        ),
        Symbol("ȳ⁺", "", "(B, n_out)", "ȳ where w > 0, else 0"),
        Symbol("ẋ, ẏ, γ̇, β̇, μ̇, σ̇²", "x_dot, y_dot, …", "as x, y, …", "tangents; σ̇² is that of σ²"),
        Symbol(
            "K(t)", "kernel.K", "(B, n_out)", "the kernel applied to t, γ r [t − ⟨t⟩ − x̂ ⟨t x̂⟩]"
        ),
        Symbol("M, M_i", "", "(B, B)", "the kernel of neuron i as a matrix, in units of γ r"),
    ),
    "Inside the code of a rule": (
        Symbol("ξ", "shift", "(n_out,)", "a float near μ, or 0"),
        Symbol("e", "remainder", "(n_out,)", "μ − ξ, small: ξ + e holds μ in two floats"),
        Symbol("a", "unit", "(n_out,)", "a power of two, in BN.5 any number > 0; see `moments`"),
        Symbol("z", "moments.deviation", "(B, n_out)", "a (x − ξ), so that a (x − μ) = z − a e"),
        Symbol("a² σ²", "SplitMoments.var", "(n_out,)", "variance of z"),
        Symbol("q", "Residuals.inv_std", "(n_out,)", "r/a, so that x̂ = q (z − a e)"),
        Symbol("p", "p", "(B,)", "w/n; their sum is 1"),
        Symbol("c₁, c₂", "Projections", "(n_out,)", "what K adds to γ r t is c₁ + c₂ (z − a e)"),
    ),
    "Statistics for inference": (
        Symbol("μ_k, σ_k², n_k, ν_k", "Moments", "(n_out,)", "μ, σ², n and ν of mini-batch k"),
        Symbol("μ_BN, σ²_BN", "mean, var", "(n_out,)", "mean and variance for inference"),
        Symbol("r_BN", "", "(n_out,)", "(σ²_BN + ε)^(−1/2)"),
        Symbol("m_k", "", "(n_out,)", "running mean after k mini-batches, m_0 = 0"),
        Symbol("d", "decay", "()", "weight on the old value of a running statistic"),
        Symbol(
            "E[x], Var[x]", "", "(n_out,)", "mean and variance (÷ N) of x over the whole data set"
        ),
        Symbol(
            "E[σ_k²], Var[σ_k²]",
            "",
            "(n_out,)",
            "mean and variance of a statistic over all mini-batches that can be drawn",
        ),
        Symbol("W', b'", "W, b", "as W, b", "weights and bias of the folded layer"),
        Symbol(
            "λ, τ",
            "Correction",
            "(n_out,)",
            "correction of a batch to given statistics (r and d in the paper); constant",
        ),
        Symbol("λ_max, τ_max", "r_max, d_max", "()", "bounds: of λ and 1/λ, of τ; ∞ for none"),
    ),
    "Sample space": (
        Symbol("σ(t)", "sd_u, sd_delta", "(n_out,)", "standard deviation of t over the samples"),
        Symbol(
            "t̂, v̂, û, Δ̂",
            "",
            "as t, v, u, Δ",
            "(t − ⟨t⟩)/σ(t), without ε; x̂ alone is defined with ε",
        ),
        Symbol("|t|", "", "", "length of a vector with one entry per sample; absolute value"),
        Symbol("Corr(t, v)", "", "", "correlation of t and v over the samples"),
        Symbol(
            "ρ",
            "rho",
            "(n_out,)",
            "(σ²/(σ² + ε))^(1/2), 1 at ε = 0; x̂ is ρ times the exactly normalized x",
        ),
        Symbol("θ1", "cos1", "(n_out,)", "angle between Δ_i and x_i"),
        Symbol("θ2", "cos2", "(n_in, n_out)", "angle between u_j and x_i"),
        Symbol("θ3", "cos3", "(n_in, n_out)", "angle between Δ_i and u_j"),
        Symbol("R", "", "(n_out,)", "multiple correlation of Δ_i on all inputs u_j"),
    ),
}

# words that a formula may hold
_FORMULA_WORDS = frozenset(
    "acts all and are by changes clip constant cos cross diag drawn else entropy error exp for "
    "layer log neuron of replacement sigmoid sin softmax squared the where with without".split()
)
_INDEX = re.compile(
    r"_(\([^)]*\)|(?!(?:next|in|out|B)\b)[A-Za-z0-9']+)"
)  # u_next, n_in, n_out, N_B are names
_KNOWN_INDEX = re.compile(r"\([kk'−1]+\)|max|(?:[sijk]'?|[012]|BN)+")
_GLYPH = re.compile(
    r"[A-Za-z]{2,}|\w_(?:next|in|out|B)\b|[^\W\d_ˡᴸᵀ¹²³⁴½Σ∂][\u0300-\u036f]*(?:[₁₂]|(?<=θ)\d|(?<=[gWb])')?"
)


def statements(formula: str) -> tuple[str, ...]:
    """Split a formula into its statements, which "," or ";" and two or more spaces set apart.

    Example:
        >>> statements("x̂ = 0, y = β where w = 0,  n = Σ_s w_s")
        ('x̂ = 0, y = β where w = 0', 'n = Σ_s w_s')
    """
    return tuple(" ".join(part.split()) for part in re.split(r"[,;]\s{2,}", formula.strip()))


def glyphs(formula: str) -> tuple[str, ...]:
    """Return the symbols in a formula, each once, without indices and superscripts.

    An index or a word that no formula may hold is returned too, so that it is missed in the table.

    Example:
        >>> glyphs("x̄ ← x̄ + (w/n) [μ̄ + 2 σ̄² (x_s − μ_q)]")
        ('x̄', 'w', 'n', 'μ̄', 'σ̄', 'x', 'μ', '_q')
    """
    found = [one for one in _GLYPH.findall(_INDEX.sub("", formula)) if one not in _FORMULA_WORDS]
    wrong = [f"_{one}" for one in _INDEX.findall(formula) if not _KNOWN_INDEX.fullmatch(one)]
    return tuple(dict.fromkeys(found + wrong))


def known_glyphs() -> frozenset[str]:
    """Return every symbol of the table, in the form of `glyphs`."""
    rows = (row.symbol for group in SYMBOLS.values() for row in group)
    return frozenset(glyph for row in rows for glyph in glyphs(row))
