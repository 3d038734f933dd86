"""BL: the baseline network (S0/S1 §1)."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bnjax import activations, costs, network, training
from bnjax.identities import numeric, observed
from bnjax.identities.cases import Case, float64, mixed
from bnjax.identities.entries import Identity, Sides, paired, recorder, sides
from bnjax.identities.quick import quick

ENTRIES: list[Identity] = []
identity = recorder(ENTRIES)

RATE = 0.5  # η


def forward(params: Any, u: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Run the baseline in NumPy: (u, y) of every layer."""
    layers, u = [], numeric.wide(u)
    for W, b in float64(params):
        y = np.einsum("sj,ji->si", u, W) + b
        layers.append((u, y))
        u = mixed(y)
    return layers


def sizes(case: Case, flow: observed.Flow) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Bound the terms of the baseline's Δ and ∂C/∂W."""
    error = 1.0 / case.batch + np.zeros_like(case.targets)
    return numeric.magnitudes(
        flow.u, flow.x, flow.g_prime, case.baseline_params, error, case.eps, norm=False
    )


@identity(
    "BL.1",
    "a layer is linear plus bias, then activated; the last u is the prediction",
    "y = u W + b,  u_next = g(y)",
    "S0/S1 §1",
    scale="|y| + |b|",
)
def _forward(case: Case) -> Sides:
    logits = _apply(case.baseline, case.baseline_params, case.u)
    y, b = forward(case.baseline_params, case.u)[-1][1], case.baseline_params[-1].b
    return sides((logits, y, np.abs(y) + np.abs(b)))


_apply = quick("net")(network.apply)


class _Costs(NamedTuple):
    cost: list[Array]
    weighted: list[Array]
    error: list[Array]
    weighted_error: list[Array]
    weighted_grad: list[Array]


@quick()
def _costs(y: Any, targets: Any, where: Any) -> _Costs:
    def cost(name: str, where: Any, y: Array) -> Array:
        return costs.mean(costs.get(name).per_sample(y, targets), where)

    each = list(costs.COSTS)
    weighted = [jax.value_and_grad(partial(cost, name, where))(y) for name in each]
    return _Costs(
        [cost(name, None, y) for name in each],
        [value for value, _ in weighted],
        [costs.output_error(name, y, targets) for name in each],
        [costs.output_error(name, y, targets, where) for name in each],
        [grad for _, grad in weighted],
    )


def _predictions(y: Any) -> dict[str, np.ndarray]:
    y = numeric.wide(y)
    return {
        "sigmoid_cross_entropy": numeric.sigmoid(y),
        "softmax_cross_entropy": np.exp(y) / np.exp(y).sum(1, keepdims=True),
        "squared_error": y,
    }


def _targets(case: Case) -> np.ndarray:
    return case.targets / case.targets.sum(1, keepdims=True)  # softmax needs Σ_k φ_k = 1


@identity(
    "BL.2",
    "a cost is the (weighted) mean over samples of a sum over outputs",
    "C = −(1/B) Σ_s Σ_k [φ log u + (1 − φ) log(1 − u)];  Σ_s w_s C_s / Σ_s w_s",
    "S0/S1 §1",
    scale="C",
)
def _cost(case: Case) -> Sides:
    phi = numeric.wide(_targets(case))
    per_sample = {
        "sigmoid_cross_entropy": lambda u: -(phi * np.log(u) + (1 - phi) * np.log(1 - u)).sum(1),
        "softmax_cross_entropy": lambda u: -(phi * np.log(u)).sum(1),
        "squared_error": lambda u: ((u - phi) ** 2).sum(1) / 2,
    }
    u = _predictions(case.x)
    each = [per_sample[name](u[name]) for name in costs.COSTS]
    w = numeric.wide(case.weights[:, 0])
    found = _costs(case.x, _targets(case), case.weights[:, 0])
    return sides(
        *zip(found.cost, [c.mean() for c in each], strict=True),
        *zip(found.weighted, [(w * c).sum() / w.sum() for c in each], strict=True),
    )


@identity(
    "BL.3",
    "the output error is prediction minus label, for every cost with its own link",
    "Δᴸ = ∂C/∂uᴸ ⊙ g'(yᴸ) = (uᴸ − φ)/B",
    "S0/S1 §1",
    scale="(|u| + |φ|)/B",
)
def _output_error(case: Case) -> Sides:
    phi = numeric.wide(_targets(case))
    u = _predictions(case.x)
    found = _costs(case.x, _targets(case), case.weights[:, 0])
    w = numeric.wide(case.weights)
    plain = [(u[name] - phi) / case.batch for name in costs.COSTS]
    weighted = [(u[name] - phi) * w / w.sum() for name in costs.COSTS]
    terms = [(np.abs(u[name]) + phi) / case.batch for name in costs.COSTS]
    a = u["sigmoid_cross_entropy"]
    chain = -(phi / a - (1 - phi) / (1 - a)) / case.batch * (a * (1 - a))
    return sides(
        *paired(found.error, plain, terms),
        *paired(found.weighted_error, weighted, terms),
        *paired(found.weighted_grad, weighted, terms),
        (chain, plain[0], terms[0]),
    )


@identity(
    "BL.4",
    "the baseline's error recursion",
    "Δˡ = (Δˡ⁺¹ Wᵀ) ⊙ g'(yˡ),  W of layer l+1",
    "S0/S1 §1",
    scale="|g'| |Δᴸ| |W|ᵀ ...",
)
def _recursion(case: Case) -> Sides:
    flow = observed.by_baseline_flow(case)
    above = zip(flow.delta[1:], case.baseline_params[1:], flow.g_prime[:-1], strict=True)
    formula = [numeric.wide(delta) @ layer.W.T * g_prime for delta, layer, g_prime in above]
    terms = sizes(case, flow)[0]
    by_hand = [layer.delta for layer in observed.by_hand_baseline(case)[2]]
    return sides(
        *paired(flow.delta[:-1], formula, terms[:-1]),
        *paired(by_hand, flow.delta, terms),
    )


@identity(
    "BL.5",
    "the baseline's gradients",
    "∂C/∂W = uᵀ Δ,  ∂C/∂b = Σ_s Δ_s",
    "S0/S1 §1",
    scale="|u|ᵀ |Δ|",
)
def _gradients(case: Case) -> Sides:
    flow = observed.by_baseline_flow(case)
    deltas, terms = sizes(case, flow)
    W = [
        numeric.wide(u).T @ numeric.wide(delta) for u, delta in zip(flow.u, flow.delta, strict=True)
    ]
    b = [numeric.wide(delta).sum(0) for delta in flow.delta]
    pairs = []
    by_rule, by_hand = observed.by_baseline_library(case)[1], observed.by_hand_baseline(case)[1]
    for grads in (flow.grads, by_rule, by_hand):
        pairs += paired([layer.W for layer in grads], W, terms)
        pairs += paired([layer.b for layer in grads], b, [case.batch * d for d in deltas])
    return sides(*pairs)


class _Descent(NamedTuple):
    """Gradient descent, in optax's shape, but not optax's."""

    init: Any = lambda params: ()
    update: Any = lambda grads, state, params=None: (
        jax.tree.map(lambda grad: -RATE * grad, grads),
        state,
    )


@quick("net")
def _steps(net: Any, params: Any, inputs: Any, targets: Any, where: Any) -> Any:
    step = training.make_step(net, _Descent())  # pyright: ignore[reportArgumentType]
    start = training.TrainState(params, (), (), jnp.zeros((), jnp.int32))
    return jax.vmap(lambda w: step(start, inputs, targets, w)[0].params)(where)


def steps(case: Case) -> tuple[np.ndarray, network.Dense]:
    """Take one step of the library's training, with one sample, with some, and with all of them.

    Returns:
        The samples' weights, (3, B), and the one layer after each step.
    """
    net = network.Network(case.baseline.sizes[:2], norm=False)
    regimes = np.ones((3, case.batch), case.dtype)
    regimes[0, 1:], regimes[1, case.batch - 1 :] = 0, 0
    return regimes, _steps(net, case.baseline_params[:1], case.u, case.targets, regimes)[0]


@identity(
    "BL.6",
    "a step goes against the gradient, of one sample, a mini-batch or all of them",
    "W ← W − η ∂C/∂W,  b ← b − η ∂C/∂b",
    "S0/S1 §1, S3",
    scale="|W|, |b|",
)
def _descent(case: Case) -> Sides:
    W, b = float64(case.baseline_params)[0]
    u = numeric.wide(case.u)
    regimes, after = steps(case)
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
    "the mini-batches' gradients average to the full one; not so with batch normalization",
    "BL: (1/K) Σ_B ∂C_B/∂θ = ∂C/∂θ for equal batches;  BN: ≠",
    "S3",
    scale="|∂C/∂θ|",
    refuted=_not_for_bn,
)
def _minibatches(case: Case) -> Sides:
    grads = _batch_gradients(case.W, case.gamma, case.batches, eps=case.eps)
    return sides((grads[0], grads[1]))


@identity(
    "BL.8",
    "upper layers learn as a network of their own, fed with what the lower ones put out",
    "C = F2(F1(u, θ1), θ2):  ∂C/∂θ2 = ∂F2(v, θ2)/∂θ2 at v = F1(u, θ1)",
    "S3; Ioffe & Szegedy",
    scale="|u|ᵀ |Δ|",
)
def _stand_alone(case: Case) -> Sides:
    flow = observed.by_baseline_flow(case)
    upper = network.Network(
        case.baseline.sizes[1:], activation=case.baseline.activation, norm=False
    )
    params = case.baseline_params[1:]
    _, alone, _, _ = observed.library_flow(upper, params, (), flow.u[1], case.targets)
    deltas, terms = sizes(case, flow)
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
    "the sigmoid saturates: far from zero nothing is learnt",
    "g' = g (1 − g) ≤ 1/4,  g'(a) < e^(−|a|) → 0",
    "S3",
    scale="g'(0) = 1/4",
)
def _saturation(case: Case) -> Sides:
    a = 12 * case.y_bar * np.abs(case.x)  # from near zero to far out
    a[0] = 0
    found = numeric.wide(_sigmoid_prime(a))
    g = numeric.sigmoid(a)
    bound = np.minimum(0.25, np.exp(-np.abs(numeric.wide(a))))
    return sides(
        (found, g * (1 - g), 0.25),
        (np.maximum(found, bound), bound, 0.25),
    )


_sigmoid_prime = quick()(activations.get("sigmoid").g_prime)
