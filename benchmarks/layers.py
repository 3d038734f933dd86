"""A CNN's training step with a framework's own normalization layer, and with bnjax's.

Run: python benchmarks/layers.py [--frameworks linen keras ...] [--batch 128] [--rounds 30]
                                 [--rule jvp|vjp] [--saved] [--json]

Both steps are compiled, in one process, and timed in turn: "best" is the ratio of the best times,
"median" the median over rounds of the ratio within a round. "saved" is what the forward pass keeps
for the backward pass, outside jit, each array counted once.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import _cnns
import jax
import jax.numpy as jnp
import numpy as np
from _timing import interleave, machine

SIZE = 32  # of the images, in pixels
STEP = 0.01


def training_step(cnn: _cnns.CNN, x: jax.Array, labels: jax.Array) -> Callable[[], None]:
    """Return what does one compiled step of gradient descent, and waits for it."""

    @jax.jit
    def step(params, state):
        (cost, state), grads = jax.value_and_grad(cnn.loss, has_aux=True)(params, state, x, labels)
        return jax.tree.map(lambda p, g: p - STEP * g, params, grads), state, cost

    return lambda: jax.block_until_ready(step(cnn.params, cnn.state))


def saved_bytes(cnn: _cnns.CNN, x: jax.Array, labels: jax.Array) -> int:
    """Return the bytes of all arrays that the pull-back of the cost holds."""
    loss = partial(cnn.loss, state=cnn.state, x=x, labels=labels)
    _, pull_back, _ = jax.vjp(lambda params: loss(params), cnn.params, has_aux=True)
    arrays = {leaf.unsafe_buffer_pointer(): leaf.nbytes for leaf in jax.tree.leaves(pull_back)}
    return sum(arrays.values())


def measure(framework: str, options: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(options.batch, SIZE, SIZE, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(_cnns.CLASSES, size=options.batch))
    cnns = _cnns.both(framework, x, options.rule)
    row: dict[str, Any] = {"framework": framework}
    row |= {f"saved_{name}": saved_bytes(cnn, x, labels) for name, cnn in cnns.items()}
    if options.saved:
        return row
    seconds = interleave(
        {name: training_step(cnn, x, labels) for name, cnn in cnns.items()}, options.rounds
    )
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    best = {name: min(times) for name, times in seconds.items()}
    return row | {
        "theirs_ms": 1e3 * best["theirs"],
        "ours_ms": 1e3 * best["ours"],
        "best_ratio": best["ours"] / best["theirs"],
        "median_ratio": statistics.median(ratios),
    }


def show(row: dict[str, Any]) -> None:
    saved = [row[f"saved_{name}"] / 2**20 for name in ("theirs", "ours")]
    memory = f"{saved[0]:.1f} | {saved[1]:.1f} | {saved[1] / saved[0]:.2f} |"
    times = "| | |"
    if "ours_ms" in row:
        times = (
            f"{row['theirs_ms']:.1f} | {row['ours_ms']:.1f} | {row['best_ratio']:.3f} | "
            f"{row['median_ratio']:.3f}"
        )
    print(f"| {row['framework']} | {times} | {memory}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frameworks", nargs="+", choices=_cnns.FRAMEWORKS)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rule", choices=("jvp", "vjp"), default="jvp", help="of our layers")
    parser.add_argument("--saved", action="store_true", help="count bytes only, time nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    chosen = options.frameworks or _cnns.installed()
    if not options.json:
        print(f"{machine()}; batch {options.batch}, rule {options.rule}\n")
        print("| | theirs, ms | ours, ms | best | median | theirs saves, MiB | ours | ratio |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    rows = []
    for framework in chosen:
        rows.append(measure(framework, options))
        if not options.json:
            show(rows[-1])
    if options.json:
        settings = {"batch": options.batch, "rule": options.rule, "rounds": options.rounds}
        print(json.dumps({"machine": machine(), **settings, "rows": rows}))


if __name__ == "__main__":
    main()
