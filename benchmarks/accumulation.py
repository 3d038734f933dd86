"""The exact gradient of a large batch from micro-batches, beside the large batch and its remat.

Cost, moments and gradient under one jit each: the temporary memory that each compiled program needs
beside its arguments and results, and times, interleaved in one process. All but the last compute
the same gradient; in the last one each micro-batch normalizes itself, as people do it.

    python benchmarks/accumulation.py --memory
    python benchmarks/accumulation.py --rounds 20 --json
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _timing import interleave, machine, summarize, table

from bnjax import Network, activations, batch_norm, cost, costs, init
from bnjax.training.accumulation import exact_gradient, separate_gradients

# sizes, samples of the large batch, micro-batches
CASES: tuple[tuple[tuple[int, ...], int, int], ...] = (
    ((64, 100, 100, 10), 4096, 16),
    ((256, *(512,) * 4, 10), 16384, 32),
    ((256, *(512,) * 16, 10), 16384, 32),
)
LARGE = "large batch"


def by_large_batch(net: Network, params, state, x, targets):
    return jax.value_and_grad(lambda p: cost(net, p, state, x, targets), has_aux=True)(params)


def by_remat(net: Network, every: int, params, state, x, targets):
    """Compute the large batch's gradient, with the input of every so many layers saved."""
    g = activations.get(net.activation).g

    @jax.checkpoint
    def run(layers, u):
        found = []
        for layer in layers:
            y, moments = batch_norm(u @ layer.W, layer.gamma, layer.beta, eps=net.eps)
            u = g(y)
            found.append(moments)
        return u, found

    def objective(params):
        u, found = x, []
        for at in range(0, len(params) - 1, every):
            u, moments = run(params[at : min(at + every, len(params) - 1)], u)
            found += moments
        y = u @ params[-1].W + params[-1].b[None]
        return costs.mean(costs.get(net.cost).per_sample(y, targets)), found

    return jax.value_and_grad(objective, has_aux=True)(params)


def by_parts(net: Network, K: int, keep_every: int | None, params, state, x, targets):
    """Compute it micro-batch by micro-batch (D.18)."""
    parts = (a.reshape(K, -1, a.shape[1]) for a in (x, targets))
    return exact_gradient(net, params, *parts, None, keep_every)


def by_separate_parts(net: Network, K: int, params, state, x, targets):
    """Compute the mean of the micro-batches' gradients, each normalized by itself."""
    parts = (a.reshape(K, -1, a.shape[1]) for a in (x, targets))
    value, grads, moments = separate_gradients(net, params, state, *parts, None)
    return (value, moments), grads


def programs_of(net: Network, K: int) -> dict[str, Callable]:
    L = sum(net.normalized)
    root = max(1, round(L**0.5))
    every = dict.fromkeys((1, root))
    return {
        LARGE: partial(by_large_batch, net),
        **{f"remat, {k} layers at once": partial(by_remat, net, k) for k in every},
        "exact, nothing kept": partial(by_parts, net, K, None),
        **{f"exact, keep_every={k}": partial(by_parts, net, K, k) for k in reversed(every)},
        "separate": partial(by_separate_parts, net, K),
    }


def compiled(sizes: tuple[int, ...], samples: int, K: int) -> tuple[dict[str, Any], tuple]:
    """Compile all programs, and check that they compute the same gradient; return both."""
    net = Network(sizes, activation="relu", cost="softmax_cross_entropy")
    params, state = init(net, jax.random.key(0))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(samples, sizes[0])), jnp.float32)
    targets = jax.nn.one_hot(rng.integers(sizes[-1], size=samples), sizes[-1])
    args = params, state, x, targets
    built = {name: jax.jit(f).lower(*args).compile() for name, f in programs_of(net, K).items()}
    return built, args


def gradient_errors(programs: dict[str, Any], args: tuple) -> dict[str, float]:
    """Return each gradient's distance from the large batch's, relative, as one vector."""

    def flat(name: str) -> np.ndarray:
        leaves = jax.tree.leaves(programs[name](*args)[1])
        return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in leaves])

    wanted = flat(LARGE)
    errors = {name: np.linalg.norm(flat(name) - wanted) for name in programs}
    return {name: float(error / np.linalg.norm(wanted)) for name, error in errors.items()}


def timed(program: Any, args: tuple) -> Callable[[], None]:
    return lambda: jax.block_until_ready(program(*args))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="rounds to time (10)")
    parser.add_argument("--memory", action="store_true", help="memory and errors only, no times")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    if not options.json:
        print(machine())
    for sizes, samples, K in CASES:
        programs, args = compiled(sizes, samples, K)
        memory = {name: p.memory_analysis().temp_size_in_bytes for name, p in programs.items()}
        errors = gradient_errors(programs, args)
        found = {"sizes": sizes, "samples": samples, "micro_batches": K}
        found |= {"temp_bytes": memory, "error": errors}
        if not options.json:
            print(f"\n{len(sizes) - 2} normalizations of {sizes[1]}, {samples} samples in {K}\n")
            for name, size in memory.items():
                of = size / memory[LARGE]
                print(f"{name:26} {size / 2**20:9.2f} MiB {of:6.3f}  error {errors[name]:.1e}")
        if not options.memory:
            rounds = {name: timed(program, args) for name, program in programs.items()}
            seconds = interleave(rounds, options.rounds)
            found["seconds"] = summarize(seconds, LARGE)
            if not options.json:
                print()
                table(seconds, LARGE, title="cost, moments, gradient")
        results.append(found)
    if options.json:
        print(json.dumps({"machine": machine(), "options": vars(options), "cases": results}))


if __name__ == "__main__":
    main()
