"""The exact gradient of a large batch from micro-batches, beside the large batch and its remat.

Cost, moments and gradient under one jit each: the temporary memory that each compiled program needs
beside its arguments and results, and times, interleaved in one process. All but the last compute
the same gradient; in the last one each micro-batch normalizes itself, as people do it.

    python benchmarks/accumulation.py --memory
    python benchmarks/accumulation.py --memory --target h100   # compiled for one, not run
    python benchmarks/accumulation.py --rounds 20 --json
    python benchmarks/accumulation.py --difference   # of "separate" from the large batch, on digits

For a target it needs `pip install '.[accelerators]'`. On a CPU jax.checkpoint saves little: XLA
merges what it recomputes with what it has.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import interleave, machine, summarize, table
from jax.sharding import SingleDeviceSharding

from bnjax import Network, activations, batch_norm, bn_apply, cost, costs, init, training
from bnjax.training.accumulation import exact_gradient, separate_gradients

# sizes, samples of the large batch, micro-batches
CASES: tuple[tuple[tuple[int, ...], int, int], ...] = (
    ((64, 100, 100, 10), 4096, 16),
    ((256, *(512,) * 3, 10), 16384, 32),
    ((256, *(512,) * 9, 10), 16384, 32),
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


def compiled(
    sizes: tuple[int, ...], samples: int, K: int, device: Any
) -> tuple[dict[str, Any], tuple]:
    """Compile all programs, for a device that may be elsewhere; return them and their arguments."""
    # smooth: where rounding moves a sample across the kink of a ReLU, gradients differ by 1e-3
    net = Network(sizes, activation="silu", cost="softmax_cross_entropy")
    params, state = init(net, jax.random.key(0))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(samples, sizes[0])), jnp.float32)
    targets = jax.nn.one_hot(rng.integers(sizes[-1], size=samples), sizes[-1])
    args = params, state, x, targets
    shapes = args
    if device is not None:
        there = SingleDeviceSharding(device)
        shapes = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=there), args
        )
    built = {name: jax.jit(f).lower(*shapes).compile() for name, f in programs_of(net, K).items()}
    return built, args


def gradient_errors(programs: dict[str, Any], args: tuple) -> dict[str, float]:
    """Return each gradient's distance from the large batch's, relative, as one vector."""

    def flat(name: str) -> np.ndarray:
        leaves = jax.tree.leaves(programs[name](*args)[1])
        return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in leaves])

    wanted = flat(LARGE)
    errors = {name: np.linalg.norm(flat(name) - wanted) for name in programs}
    return {name: float(error / np.linalg.norm(wanted)) for name, error in errors.items()}


def difference() -> None:
    """Print how far separate micro-batches are from their large batch, on handwritten digits."""
    digits = np.load(Path(__file__).parent.parent / "examples" / "digits.npz")
    order = np.random.default_rng(0).permutation(len(digits["labels"]))
    x = (digits["images"][order].reshape(len(order), -1) / 16).astype(np.float32)
    labels = digits["labels"][order]
    targets, N, rest = np.eye(10, dtype=np.float32)[labels], 512, slice(1500, None)
    net, optimizer = Network((64, 100, 100, 100, 10), cost="softmax_cross_entropy"), optax.sgd(0.5)
    large = jax.jit(partial(by_large_batch, net))
    separate = jax.jit(partial(separate_gradients, net))
    print("| samples each | gradient off by | cosine | test accuracy after 60 steps of 512 |")
    print("|-------------:|----------------:|-------:|-------------------------------------:|")
    trained = None
    for b in (N, 128, 64, 32, 16, 8, 4, 2):

        def parts(rows, b=b):
            return (a[rows].reshape(N // b, b, -1) for a in (x, targets))

        step = training.make_accumulating_step(net, optimizer, sync_statistics=b == N)
        step, state = jax.jit(step), training.init(net, optimizer, jax.random.key(0))
        rng = np.random.default_rng(0)
        for number in range(60):
            state, _ = step(state, *parts(rng.permutation(1500)[:N]))
            trained = state if trained is None and number == 9 else trained
        assert trained is not None
        _, wanted = large(trained.params, trained.state, x[:N], targets[:N])
        _, found, _ = separate(trained.params, trained.state, *parts(slice(N)), None)
        wanted, found = (
            np.concatenate([np.ravel(a) for a in jax.tree.leaves(g)]) for g in (wanted, found)
        )
        off = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        cosine = found @ wanted / np.linalg.norm(wanted) / np.linalg.norm(found)
        logits, _ = bn_apply(net, state.params, state.state, x[rest], train=False)
        right = np.mean(np.argmax(logits, 1) == labels[rest])
        print(f"| {b:12} | {off:15.3f} | {cosine:6.3f} | {100 * right:34.1f} % |")


def timed(program: Any, args: tuple) -> Callable[[], None]:
    return lambda: jax.block_until_ready(program(*args))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="rounds to time (10)")
    parser.add_argument("--memory", action="store_true", help="memory and errors only, no times")
    parser.add_argument("--target", help="compile for v5e, v6e or h100: memory only")
    parser.add_argument("--difference", action="store_true", help="see above")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.difference:
        return difference()
    device = None
    if options.target:
        import _targets

        device = _targets.devices(options.target)[0]
    results: list[dict[str, Any]] = []
    if not options.json:
        print(machine())
    for sizes, samples, K in CASES:
        programs, args = compiled(sizes, samples, K, device)
        memory = {name: p.memory_analysis().temp_size_in_bytes for name, p in programs.items()}
        errors = {} if device is not None else gradient_errors(programs, args)
        found = {"sizes": sizes, "samples": samples, "micro_batches": K}
        found |= {"temp_bytes": memory, "error": errors}
        if not options.json:
            print(f"\n{len(sizes) - 2} normalizations of {sizes[1]}, {samples} samples in {K}\n")
            for name, size in memory.items():
                of = size / memory[LARGE]
                error = f"  error {errors[name]:.1e}" if errors else ""
                print(f"{name:26} {size / 2**20:9.2f} MiB {of:6.3f}{error}")
        if not options.memory and device is None:
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
