"""Batch normalization, forward and forward + backward, beside the peers and the streaming limit.

Run: python benchmarks/batch_norm.py [--rounds N] [--seconds S] [--shapes 0 3 ...] [--json]
                                     [--device cpu|gpu] [--forward] [--against REV] [--variants]

Everything under one jit each, interleaved in one process. With --against, only this bnjax and that
of another revision, by each rule, as the first over the second. With --variants, `renorm` and eight
ghost batches beside `batch_norm`, a loop over the groups and a vmap over them. "limit" is twice the
time of `(x * 1.5, dy * 1.5)`, the eight arrays that two passes forward and two backward must move:
a row's limit / time is the fraction of the measured copy bandwidth that it achieves.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import _layers
import jax
import jax.numpy as jnp
import numpy as np
from _timing import machine
from _versions import checkout, load

import bnjax

CASES: tuple[tuple[tuple[int, ...], int, str], ...] = (
    ((60, 100), -1, "float32"),
    ((64, 128), -1, "float32"),
    ((128, 512), -1, "float32"),
    ((1024, 1024), -1, "float32"),
    ((8192, 512), -1, "float32"),
    ((65536, 64), -1, "float32"),
    ((32, 28, 28, 128), -1, "float32"),
    ((64, 14, 14, 256), -1, "float32"),
    ((32, 128, 28, 28), 1, "float32"),
    ((8192, 512), -1, "bfloat16"),
    ((32, 28, 28, 128), -1, "bfloat16"),
)
BNJAX = "bnjax"
RULES = ("vjp", "jvp", "autodiff")


def over_vmap(x, gamma, beta, *, axis):
    """Normalize one sample per element of a vmap, as equinox does."""

    def layer(x):
        return bnjax.batch_norm(x[None], gamma, beta, axis=axis, axis_name="batch")[0][0]

    return jax.vmap(layer, axis_name="batch")(x)


def looped(x, gamma, beta, *, axis, groups=8):
    """Ghost batches by a Python loop."""
    parts = jnp.split(x, groups)
    return jnp.concatenate([_layers.ours(part, gamma, beta, axis=axis) for part in parts])


def mapped(x, gamma, beta, *, axis, groups=8):
    """Ghost batches by a vmap of the whole normalization."""
    f = jax.vmap(partial(_layers.ours, axis=axis), (0, None, None))
    return f(x.reshape(groups, -1, *x.shape[1:]), gamma, beta).reshape(x.shape)


VARIANTS = {
    BNJAX: _layers.ours,
    "bnjax.renorm": _layers.renorm,
    "bnjax, ghosts": _layers.ghosts,
    "bnjax, loop over groups": looped,
    "bnjax, vmap over groups": mapped,
}


def jax_candidates() -> tuple[dict[str, Callable[..., jax.Array]], list[str]]:
    """All that can be jitted, and the peers that are not installed."""
    candidates: dict[str, Callable[..., jax.Array]] = {
        BNJAX: _layers.ours,
        "bnjax, rule jvp": partial(_layers.ours, rule="jvp"),
        "bnjax, autodiff": partial(_layers.ours, rule="autodiff"),
        "bnjax, over a vmap": over_vmap,
    }
    missing = _layers.missing()
    for module, peers in {
        "flax": {
            "flax linen": _layers.flax_linen,
            "flax linen, two-pass": partial(_layers.flax_linen, fast=False),
        },
        "haiku": {"haiku": _layers.haiku},
        "equinox": {"equinox": _layers.equinox},
    }.items():
        if module not in missing:
            candidates |= peers
    return candidates, missing


def jax_call(f, axis, args, forward: bool) -> Callable[[], None]:
    x, dy, gamma, beta = args

    @jax.jit
    def both(x, dy, gamma, beta):
        g = partial(f, axis=axis)
        if forward:
            return g(x, gamma, beta)
        y, pull_back = jax.vjp(g, x, gamma, beta)
        return y, pull_back(dy)

    return lambda: jax.block_until_ready(both(x, dy, gamma, beta))


def torch_call(torch, axis, args, forward: bool, device: str) -> Callable[[], None]:
    def tensor(a):
        return torch.tensor(np.asarray(a, np.float32), device=device)

    half = args[0].dtype == jnp.bfloat16
    x, dy = (tensor(np.moveaxis(np.asarray(a, np.float32), axis, 1)) for a in args[:2])
    if axis != 1 and x.ndim == 4:
        x, dy = (t.to(memory_format=torch.channels_last) for t in (x, dy))
    x, dy = (t.bfloat16() if half else t for t in (x, dy))
    gamma, beta = map(tensor, args[2:])

    def call():
        inputs = [t.detach().requires_grad_(not forward) for t in (x, gamma, beta)]
        y = torch.nn.functional.batch_norm(inputs[0], None, None, *inputs[1:], training=True)
        if not forward:
            torch.autograd.grad(y, inputs, dy)
        if device != "cpu":
            torch.cuda.synchronize()

    return call


def measure(case, options, candidates, torch) -> dict[str, Any]:
    shape, axis, dtype = case
    rng = np.random.default_rng(0)
    x, dy = (
        jnp.asarray(rng.normal(3, 1, shape), dtype),
        jnp.asarray(rng.normal(size=shape), dtype),
    )
    gamma, beta = (jnp.asarray(rng.normal(1, 0.3, shape[axis]), jnp.float32) for _ in range(2))
    args = x, dy, gamma, beta
    calls = {name: jax_call(f, axis, args, options.forward) for name, f in candidates.items()}
    if torch is not None:
        device = "cpu" if jax.default_backend() == "cpu" else "cuda"
        calls["torch"] = torch_call(torch, axis, args, options.forward, device)
    by = jnp.asarray(1.5, dtype)
    stream = jax.jit(lambda x, dy: (x * by, dy * by))
    calls["stream"] = lambda: jax.block_until_ready(stream(x, dy))
    names = list(calls)
    for call in calls.values():
        for _ in range(3):
            call()
    rounds: list[list[float]] = []
    end = time.perf_counter() + options.seconds
    while time.perf_counter() < end or len(rounds) < options.rounds:
        row = dict.fromkeys(names, 0.0)
        for i in rng.permutation(len(names)):
            times = []
            for _ in range(3):
                started = time.perf_counter()
                calls[names[i]]()
                times.append(time.perf_counter() - started)
            row[names[i]] = min(times)
        rounds.append(list(row.values()))
    passes = 1.5 if options.forward else 4  # half of the arrays: x, x, y | and x, dy, x, dy, dx
    table = dict(zip(names, zip(*rounds, strict=True), strict=True))
    limit = [t * passes / 2 for t in table.pop("stream")]
    peers = [n for n in table if not n.startswith("bnjax") and n != "torch"]
    fastest = min(peers, key=lambda n: min(table[n])) if peers else None
    unit = "flax linen" if "flax linen" in table else names[0]
    rows = {
        name: {
            "best_ms": 1e3 * min(times),
            "median_ms": 1e3 * statistics.median(times),
            "to_unit": ratio(times, table[unit]),
            "to_fastest_peer": ratio(times, table[fastest]) if fastest else None,
            "to_limit": min(times) / min(limit),
        }
        for name, times in table.items()
    }
    return {
        "shape": shape,
        "axis": axis,
        "dtype": dtype,
        "rounds": len(rounds),
        "limit_ms": 1e3 * min(limit),
        "fastest_jax_peer": fastest,
        "rows": rows,
    }


def show_versions(result: dict[str, Any], what: str) -> None:
    shape = "x".join(map(str, result["shape"]))
    for rule in RULES:
        new, old = (result["rows"][f"{name}, {rule}"]["best_ms"] for name in (BNJAX, "before"))
        print(f"| {shape}, {result['dtype']} | {what} | {rule} | {new:.4f} | {new / old:.2f} |")


def ratio(times, others) -> float:
    """The median over rounds of how these times compare with those of the same round."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def show(result: dict[str, Any], what: str) -> None:
    shape = "x".join(map(str, result["shape"]))
    print(f"\n**{shape}, axis {result['axis']}, {result['dtype']}**, {what}: ", end="")
    print(f"limit {result['limit_ms']:.3f} ms, {result['rounds']} rounds\n")
    unit = "flax" if "flax linen" in result["rows"] else BNJAX
    print(f"| | best ms | median ms | / {unit} | / fastest JAX peer | / limit |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, row in result["rows"].items():
        peer = "" if row["to_fastest_peer"] is None else f"{row['to_fastest_peer']:.2f}"
        mark = " (fastest JAX peer)" if name == result["fastest_jax_peer"] else ""
        print(
            f"| {name}{mark} | {row['best_ms']:.3f} | {row['median_ms']:.3f} "
            f"| {row['to_unit']:.2f} | {peer} | {row['to_limit']:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="at least so many")
    parser.add_argument("--seconds", type=float, default=4.0, help="per case, at least")
    parser.add_argument("--shapes", type=int, nargs="*", help="which of the cases, from 0")
    parser.add_argument("--device", choices=("cpu", "gpu"), help="JAX's default otherwise")
    parser.add_argument("--forward", action="store_true", help="the forward pass only")
    parser.add_argument("--against", metavar="REV", help="a commit to be compared with, alone")
    parser.add_argument("--variants", action="store_true", help="renorm and ghosts, alone")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    if options.device:
        jax.config.update("jax_platforms", "cuda" if options.device == "gpu" else "cpu")
    candidates, missing = jax_candidates()
    try:
        import torch
    except ModuleNotFoundError:
        torch = None
        missing.append("torch")
    if options.against:
        with checkout(options.against) as folder:
            versions = {BNJAX: bnjax, "before": load(folder)}
        candidates = {
            f"{name}, {rule}": partial(_layers.ours, rule=rule, library=library)
            for name, library in versions.items()
            for rule in RULES
        }
        missing, torch = [], None
    if options.variants:
        candidates, missing, torch = VARIANTS, [], None
    what = "forward" if options.forward else "forward + backward"
    chosen = [CASES[i] for i in options.shapes] if options.shapes else CASES
    if not options.json:
        print(machine())
        if options.against:
            print(f"\n| shape, dtype | | rule | best ms | / {options.against} |")
            print("|---|---|---|---:|---:|")
        else:
            print(f"peers not installed: {', '.join(missing) or 'none'}")
    results = []
    for case in chosen:
        results.append(measure(case, options, candidates, torch))
        if not options.json:
            (show_versions if options.against else show)(results[-1], what)
    if options.json:
        print(
            json.dumps({"machine": machine(), "what": what, "missing": missing, "cases": results})
        )


if __name__ == "__main__":
    main()
