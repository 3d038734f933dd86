"""BL.6–BL.10: gradient descent, on mini-batches and through the layers (S0/S1 §1, S3)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import activations, network, training
from bnjax.identities import draws, flows, numeric, observed
from bnjax.identities.baseline import baseline_terms
from bnjax.identities.cases import Case, float64
from bnjax.identities.entries import Identity, Sides, paired, recorder, sides
from bnjax.identities.quick import quick

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)

RATE = 0.5  # η
_SAMPLES = 5  # of which every batch is drawn, BL.10


class _Descent(NamedTuple):
    """Gradient descent in optax's shape, but not optax's own."""

    init: Any = lambda params: ()
    update: Any = lambda grads, state, params=None: (
        jax.tree.map(lambda grad: -RATE * grad, grads),
        state,
    )


@quick("net")
def _descent_steps(net: Any, params: Any, inputs: Any, targets: Any, where: Any) -> Any:
    step = training.make_step(net, _Descent())  # pyright: ignore[reportArgumentType]
    start = training.TrainState(params, (), (), jnp.zeros((), jnp.int32))
    return jax.vmap(lambda w: step(start, inputs, targets, w)[0].params)(where)


def descent_steps(case: Case) -> tuple[np.ndarray, network.Dense]:
    """Run one training step of the library with one sample, with some, and with all of them.

    Returns:
        The samples' weights, (3, B), and the one layer after each step.
    """
    net = network.Network(case.baseline.sizes[:2], norm=False)
    regimes = np.ones((3, case.batch), case.dtype)
    regimes[0, 1:], regimes[1, case.batch - 1 :] = 0, 0
    return regimes, _descent_steps(net, case.baseline_params[:1], case.u, case.targets, regimes)[0]


@identity(
    "BL.6",
    "A step of gradient descent, on one sample, on a mini-batch or on all samples",
    "W ← W − η ∂C/∂W,  b ← b − η ∂C/∂b,  Θ ← Θ − η ∂C/∂Θ",
    "S0/S1 §1; S3",
    scale="|W|, |b|",
    implementation=("bnjax.training.make_step", "bnjax.training.make_epoch"),
)
def _descent(case: Case) -> Sides:
    W, b = float64(case.baseline_params)[0]
    u = numeric.wide(case.u)
    regimes, after = descent_steps(case)
    delta = numeric.sigmoid(u @ W + b) - case.targets
    delta = regimes[:, :, None] / regimes.sum(1)[:, None, None] * delta
    return sides(
        (after.W, W - RATE * np.einsum("sj,ksi->kji", u, delta)),
        (after.b, b - RATE * delta.sum(1)),
    )


@quick("eps")
def _batch_gradients(W: Any, gamma: Any, batches: Any, *, eps: float) -> tuple[Array, ...]:
    """Differentiate ⟨softplus(y)⟩ of one layer: per mini-batch and over all, BL and BN."""
    K, B, n_in = batches.shape

    def baseline(W: Array, u: Array) -> Array:
        return jnp.mean(jax.nn.softplus(u @ W))

    def normalized(W: Array, u: Array) -> Array:
        return jnp.mean(jax.nn.softplus(observed.bn(u @ W, gamma[None], 0.5, eps)[0]))

    everything = batches.reshape(K * B, n_in)
    return tuple(
        grad
        for function in (baseline, normalized)
        for grad in (
            jnp.mean(jax.vmap(jax.grad(function), (None, 0))(W, batches), 0),
            jax.grad(function)(W, everything),
        )
    )


def _not_for_bn(case: Case) -> Sides:
    grads = _batch_gradients(case.W, case.gamma, case.batches, eps=case.eps)
    return sides((grads[2], grads[3]))


@identity(
    "BL.7",
    "The gradients of equal mini-batches average to the full one; with BN they do not",
    "∂C/∂Θ = Σ_k ∂C_k/∂Θ / N_B without BN,  ∂C/∂Θ ≠ Σ_k ∂C_k/∂Θ / N_B with BN",
    "S3",
    scale="|∂C/∂Θ|",
    refuted=_not_for_bn,
)
def _minibatches(case: Case) -> Sides:
    grads = _batch_gradients(case.W, case.gamma, case.batches, eps=case.eps)
    return sides((grads[0], grads[1]))


@identity(
    "BL.8",
    "The upper layers learn like a network that is fed with the output of the lower ones",
    "C = F₂(F₁(u, Θ₁), Θ₂),  ∂C/∂Θ₂ = ∂F₂(v, Θ₂)/∂Θ₂ where v = F₁(u, Θ₁)",
    "S3; Ioffe & Szegedy 2015",
    scale="|u|ᵀ |Δ|",
)
def _stand_alone(case: Case) -> Sides:
    flow = flows.by_baseline_flow(case)
    upper = network.Network(
        case.baseline.sizes[1:], activation=case.baseline.activation, norm=False
    )
    params = case.baseline_params[1:]
    _, alone, _, _ = flows.library_flow(upper, params, (), flow.u[1], case.targets)
    deltas, terms = baseline_terms(case, flow)
    return sides(
        *paired([one.W for one in alone], [one.W for one in flow.grads[1:]], terms[1:]),
        *paired(
            [one.b for one in alone],
            [one.b for one in flow.grads[1:]],
            [case.batch * d for d in deltas[1:]],
        ),
    )


@identity(
    "BL.9",
    "The sigmoid saturates: its slope vanishes far from zero",
    "g'(y) = g(y) (1 − g(y)) ≤ 1/4 for the sigmoid,  g'(y) < exp(−|y|) for the sigmoid,  "
    "g'(y) → 0 where |y| → ∞",
    "S3",
    scale="g'(0) = 1/4",
    implementation=("bnjax.activations.get", "bnjax.geometry.saturation"),
)
def _saturation(case: Case) -> Sides:
    y = 12 * case.y_bar * np.abs(case.x)  # from near zero to far out
    y[0] = 0
    found = numeric.wide(_saturating_slope(y))
    g = numeric.sigmoid(y)
    bound = np.minimum(0.25, np.exp(-np.abs(numeric.wide(y))))
    return sides(
        (found, g * (1 - g), 0.25),
        (np.maximum(found, bound), bound, 0.25),
    )


_saturating_slope = quick()(activations.get("sigmoid").g_prime)


@quick("net")
def _drawn_gradients(
    net: Any, params: Any, state: Any, inputs: Any, targets: Any, *drawn: Any
) -> list[Array]:
    """Differentiate the library's cost of the batches (draws, B): ∂C_k/∂W, (draws, n_in, n)."""

    def gradient(indices: Array) -> Array:
        def cost(params: Any) -> Array:
            return network.cost(net, params, state, inputs[indices], targets[indices])[0]

        return jax.grad(cost)(params)[0].W

    return [jax.vmap(gradient)(indices) for indices in drawn]


def _sample_gradients(case: Case, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compute ∂C_s/∂W of the baseline's first layer with the sigmoid's cost, sample by sample."""
    u, (W, b) = numeric.wide(inputs), float64(case.baseline_params)[0]
    return np.einsum("sj,si->sji", u, numeric.sigmoid(u @ W + b) - targets)


def _biased_with_bn(case: Case) -> Sides:
    net = network.Network(case.net.sizes[:2], norm_output=True, eps=case.eps)
    inputs = draws.samples(case)[:_SAMPLES]
    targets = np.resize(case.targets, (_SAMPLES, case.width))
    state = flows.initial_state(case)[:1]
    batches, full = _drawn_gradients(
        *(net, case.params[:1], state, inputs, targets),
        *(draws.every_batch(_SAMPLES).without, np.arange(_SAMPLES)[None]),
    )
    return sides((numeric.wide(batches).mean(0), full[0]))


@identity(
    "BL.10",
    "The gradient of a random mini-batch is right on average; with BN it is not",
    "E[∂C_k/∂Θ] = ∂C/∂Θ without BN,  E[∂C_k/∂Θ] ≠ ∂C/∂Θ with BN,  "
    "Var[∂C_k/∂Θ] = Var[∂C_s/∂Θ]/B drawn with replacement, without BN,  "
    "Var[∂C_k/∂Θ] = Var[∂C_s/∂Θ]/B (N − B)/(N − 1) drawn without replacement, without BN",
    "S3",
    scale="|u| |Δ|, Var[∂C_s/∂Θ]/B; 6 standard errors of a simulation",
    refuted=_biased_with_bn,
    derivation="""
        without BN the cost is a mean over samples:  ∂C_k/∂Θ = Σ_s ∂C_s/∂Θ / B     (BL.2)
        ==> ∂C_k/∂Θ is to ∂C_s/∂Θ as μ_k to x, and ∂C/∂Θ is the mean of ∂C_s/∂Θ
        ==> E[∂C_k/∂Θ] = ∂C/∂Θ, which S3 writes E[ĝ] = g                           (P.8)
        ==> Var[∂C_k/∂Θ] = Var[∂C_s/∂Θ]/B, without replacement (N − B)/(N − 1) of it
        with BN C_s depends on the other samples of its batch, through μ_k and σ_k²
    """,
)
def _random_minibatches(case: Case) -> Sides:
    data = draws.samples(case)
    targets = np.resize(case.targets, (len(data), case.width))
    alone = _sample_gradients(case, data, targets)
    batch = len(data) // 3
    ways = draws.every_batch(_SAMPLES), draws.random_batches(len(data), batch)
    net = network.Network(case.baseline.sizes[:2], norm=False)
    found = _drawn_gradients(
        *(net, case.baseline_params[:1], (), data, targets), *map(np.concatenate, ways)
    )
    every, some = (
        np.split(numeric.wide(grads), [len(way.with_replacement)])
        for grads, way in zip(found, ways, strict=True)
    )
    pairs: list[Any] = []
    few = alone[:_SAMPLES]
    for grads, variance in zip(every, draws.variance_of_mean(few, draws.DRAWN), strict=True):
        pairs += [(grads.mean(0), few.mean(0), np.abs(few)), (grads.var(0), variance)]
    for grads, variance in zip(some, draws.variance_of_mean(alone, batch), strict=True):
        error = np.sqrt(variance / draws.DRAWS)
        pairs.append(draws.within(grads.mean(0), alone.mean(0), error))
    return sides(*pairs)
