"""The gradient of a whole network by hand, beside `jax.grad` through the rule and of the reference.

Cost, gradient and the batch's moments under one jit each, interleaved in one process, with the
temporary memory that each compiled program needs. By hand must take no more than by rule. On a busy
machine the median of the rounds' own ratios says more than the ratio of medians.

    python benchmarks/backprop.py
    python benchmarks/backprop.py --rounds 200 --json
"""

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _timing import interleave, machine, summarize, table

from bnjax import Network, backprop, cost, init, population

CASES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((64, 100, 100, 100, 10), 60),
    ((784, 512, 512, 10), 128),
)
RULE = "by rule"


def by_hand(net: Network) -> Callable:
    def f(params, state, x, targets):
        (value, moments), grads = backprop.value_moments_and_grad(net, params, x, targets)
        pairs = zip(state, moments, strict=True)
        return (value, tuple(population.update(s, m, decay=net.decay) for s, m in pairs)), grads

    return f


def by_jax(net: Network, rule: str) -> Callable:
    def f(params, state, x, targets):
        return jax.value_and_grad(
            lambda params: cost(net, params, state, x, targets, rule=rule), has_aux=True
        )(params)

    return f


def measure(sizes: tuple[int, ...], batch: int, kind: str, rounds: int, calls: int):
    """Compile, compare and time: seconds, temporary bytes and bytes moved, by name."""
    net = Network(sizes, norm=kind != "baseline")
    params, state = init(net, jax.random.key(0))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch, sizes[0])), jnp.float32)
    targets = jnp.asarray(rng.random((batch, sizes[-1])) > 0.5, jnp.float32)
    args = params, state, x, targets
    programs = {
        name: jax.jit(f).lower(*args).compile()
        for name, f in {
            RULE: by_jax(net, "vjp"),
            "by hand": by_hand(net),
            "by autodiff": by_jax(net, "autodiff"),
        }.items()
    }
    wanted = programs[RULE](*args)
    for name, program in programs.items():
        off = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), program(*args), wanted)
        if max(jax.tree.leaves(off)) > 1e-4:
            raise SystemExit(f"{name} computes something else: {off}")

    def timed(program) -> Callable[[], None]:
        def call() -> None:
            for _ in range(calls):
                out = program(*args)
            jax.block_until_ready(out)

        return call

    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        # in another order each time: who comes after whom matters to the caches
        order = {name: timed(programs[name]) for name in rng.permutation(list(programs)).tolist()}
        for name, (time,) in interleave(order, 1).items():
            seconds[name].append(time / calls)
    memory = {name: p.memory_analysis().temp_size_in_bytes for name, p in programs.items()}
    traffic = {name: p.cost_analysis()["bytes accessed"] for name, p in programs.items()}
    return seconds, memory, traffic


def paired(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Reduce each to the median of its ratios to the rule's time in the same round."""
    return {
        name: statistics.median(a / b for a, b in zip(times, seconds[RULE], strict=True))
        for name, times in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100, help="rounds to time (100)")
    parser.add_argument("--calls", type=int, default=5, help="gradients in a round (5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    if not options.json:
        print(machine())
    for sizes, batch in CASES:
        for kind in ("norm", "baseline"):
            seconds, memory, traffic = measure(sizes, batch, kind, options.rounds, options.calls)
            ratios = paired(seconds)
            results.append(
                {
                    "sizes": sizes,
                    "batch": batch,
                    "kind": kind,
                    "seconds": summarize(seconds, RULE),
                    "paired_ratio": ratios,
                    "temp_bytes": memory,
                    "bytes_accessed": traffic,
                }
            )
            if options.json:
                continue
            print(f"\n{'-'.join(map(str, sizes))}, batch {batch}, {kind}\n")
            table(seconds, RULE, title="cost, gradient, moments")
            for name, ratio in ratios.items():
                more = [what[name] / what[RULE] for what in (memory, traffic)]
                print(
                    f"{name}: {ratio:.3f} of the rule's time in the same round (median), "
                    f"{more[0]:.3f} of its temporary memory ({memory[name] / 1024:.0f} KiB), "
                    f"{more[1]:.3f} of the bytes it moves"
                )
    if options.json:
        print(json.dumps({"machine": machine(), "options": vars(options), "cases": results}))


if __name__ == "__main__":
    main()
