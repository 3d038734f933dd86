"""Time training: one epoch in bnjax, flax nnx with optax, and PyTorch; and many networks at once.

digits: the network 64-100-100-100-10: sigmoid, batch norm before the activation of the hidden
layers, the last layer plain with a bias; cost: sigmoid cross-entropy, summed over the outputs and
averaged over the batch; plain SGD; batches of 60 out of 1437 samples in new order every epoch, the
last, smaller batch included.

large: the same with 784-512-512-10 and batches of 128 out of 60000 made samples; beside it the
matrix products of an epoch alone, which nobody can avoid.

sweep: 32 networks on the digits' data, one after the other and side by side by `vmap`.

All start from the same weights. After a few epochs bnjax computes the cost of everyone's
parameters, so that all can be seen to train the same thing. Then epochs are timed in one process,
interleaved. A library that is not installed is left out and named. With --check, a ratio that is
missed is named and the exit code is 1; judged is the best round over the best round, which other
work on the machine disturbs least.

PyTorch gets one thread on digits: with two, layers this small cost it 3 to 10 times the time on
two busy cores. On the large network it gets all.

    python benchmarks/train.py
    python benchmarks/train.py --task large --rounds 10 --check
    python benchmarks/train.py --task digits --rounds 200 --json
    python benchmarks/train.py --task digits --against HEAD~1
"""

import argparse
import json
import os
import sys
import time
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import interleave, machine, summarize, table
from _trainers import (
    Task,
    Trainer,
    bnjax_epoch,
    bnjax_fit,
    bnjax_steps,
    flax_trainers,
    products,
    torch_trainers,
)
from _versions import checkout, load

from bnjax import network, training
from bnjax.app import data as datasets
from bnjax.network import Network, NormDense, Params

BASELINE = "bnjax, fit"
PLAIN = "bnjax, fit without norm"
EPOCH = "bnjax, make_epoch"
PER_STEP = "bnjax, one step per call"
PRODUCTS = "the matrix products alone"
NNX = "flax nnx, nnx.jit with cached_partial"
NNX_SPLIT = "flax nnx, jax.jit with split and merge"
LOADER = "PyTorch, DataLoader"
SLICED = "PyTorch, sliced tensors"


class Goal(NamedTuple):
    """A ratio of two rows' times that is to be at least, or at most, so much."""

    over: str
    under: str
    least: float = 0.0
    most: float = float("inf")


GOALS = {
    "digits": (
        Goal(LOADER, BASELINE, least=6.0),
        Goal(NNX, BASELINE, least=1.6),
        Goal(BASELINE, EPOCH, most=1.0),
        Goal(BASELINE, NNX_SPLIT, most=0.9),
        Goal(BASELINE, PLAIN, most=1.25),
    ),
    "large": (
        Goal(SLICED, BASELINE, least=1.4),
        Goal(PER_STEP, BASELINE, least=1.1),
        Goal(PRODUCTS, BASELINE, least=0.8),
        Goal(BASELINE, PLAIN, most=1.08),
    ),
}
SWEPT_AT_ONCE = 10.0  # on a GPU


def digits(learning_rate: float) -> Task:
    data = datasets.load("digits", cost="sigmoid_cross_entropy", scale="range")
    net = Network((data.n_in, 100, 100, 100, data.n_out))
    params, _ = network.init(net, jax.random.key(0))
    x, targets = (array.astype(np.float32) for array in (data.x_train, data.targets_train))
    return Task(net, 60, learning_rate, x, targets, params)


def large(learning_rate: float, samples: int) -> Task:
    """Make data of MNIST's shape: classes that a few random directions tell apart."""
    net = Network((784, 512, 512, 10))
    rng = np.random.default_rng(0)
    x = rng.random((samples, 784), np.float32) - np.float32(0.5)
    labels = np.argmax(x @ rng.normal(size=(784, 10)).astype(np.float32), axis=1)
    params, _ = network.init(net, jax.random.key(0))
    return Task(net, 128, learning_rate, x, np.eye(10, dtype=np.float32)[labels], params)


def make_trainers(
    name: str, task: Task, threads: int, against: str | None
) -> tuple[dict[str, Trainer], list[str]]:
    """Make all ways to train whose library is there; name the others."""
    if against is not None:
        with checkout(against) as folder:
            before = load(folder)
        net = before.Network(task.net.sizes)
        trainers = {BASELINE: bnjax_fit(task, task.net)}
        return trainers | {f"{BASELINE}, at {against}": bnjax_fit(task, net, before)}, []
    plain = Network(task.net.sizes, norm=False)
    trainers = {
        BASELINE: bnjax_fit(task, task.net),
        PLAIN: bnjax_fit(task, plain),
        EPOCH: bnjax_epoch(task),
        PER_STEP: bnjax_steps(task),
        PRODUCTS: products(task),
    }
    missing = []
    for library, make in (
        ("flax", flax_trainers),
        ("torch", partial(torch_trainers, threads=threads)),
    ):
        try:
            made = make(task)
        except ModuleNotFoundError as error:
            if error.name != library:
                raise
            missing.append(library)
            continue
        if name == "large":  # a second per epoch and form: the fastest of each library
            made.pop(LOADER, None)
            made.pop(NNX, None)
        trainers |= made
    return trainers, missing


def training_cost(task: Task, params: Params) -> float:
    """Let bnjax judge: the cost of the whole training set, normalized as one batch."""
    net = Network(task.net.sizes, norm=isinstance(params[0], NormDense))
    _, state = network.init(net, jax.random.key(0))
    x, targets = jnp.asarray(task.x), jnp.asarray(task.targets)
    return float(network.cost(net, params, state, x, targets)[0])


def check_costs(costs: dict[str, float], start: float) -> None:
    """Stop unless all normalized networks have learnt, and about as much: orders differ.

    Raises:
        SystemExit: Somebody trains something else.
    """
    normalized = [cost for name, cost in costs.items() if name != PLAIN]
    if max(normalized) > min(2 * min(normalized), start / 2):
        raise SystemExit(f"not the same training: from {start} the costs came to {costs}")


def judge(goals: tuple[Goal, ...], seconds: dict[str, list[float]]) -> list[dict]:
    """Hold the measured ratios against the goals; a library that is missing has none."""
    found = []
    for goal in goals:
        if not {goal.over, goal.under} <= set(seconds):
            continue
        row = summarize({n: seconds[n] for n in (goal.over, goal.under)}, goal.under)[goal.over]
        ratios = {kind: row[f"{kind}_ratio"] for kind in ("median", "best")}
        met = goal.least <= ratios["best"] <= goal.most
        found.append({"goal": goal._asdict(), **ratios, "met": met})
    return found


def say(row: dict) -> str:
    goal = Goal(**row["goal"])
    wanted = f"at least {goal.least:g}" if goal.least else f"at most {goal.most:g}"
    return (
        f"{'met   ' if row['met'] else 'MISSED'} {goal.over} / {goal.under}: {row['median']:.2f} "
        f"(median), {row['best']:.2f} (best); {wanted}"
    )


def time_epochs(name: str, options: argparse.Namespace) -> tuple[dict, list[dict]]:
    """Time one task; print it unless JSON is asked for."""
    rate = options.learning_rate
    task = digits(rate or 0.5) if name == "digits" else large(rate or 0.05, options.samples)
    threads = options.torch_threads or (1 if name == "digits" else os.cpu_count())
    trainers, missing = make_trainers(name, task, threads, options.against)
    costs = {}
    epochs = options.check_epochs
    for way, trainer in trainers.items():
        if trainer.params is not None:
            for _ in range(epochs):
                trainer.epoch()
            costs[way] = training_cost(task, trainer.params())
    start = training_cost(task, task.params)
    check_costs(costs, start)
    rounds = options.rounds or (60 if name == "digits" else 8)
    seconds = interleave({way: t.epoch for way, t in trainers.items()}, rounds)
    goals = judge(GOALS[name], seconds)
    result = {"missing": missing, "start_cost": start, "costs": costs, "goals": goals}
    result["seconds"] = summarize(seconds, BASELINE)
    if options.json:
        return result, goals
    if missing:
        print(f"left out, not installed: {', '.join(missing)}")
    sizes = "-".join(map(str, task.net.sizes))
    print(f"\n{sizes}, {len(task.x)} samples, batches of {task.batch_size}")
    print(f"\ntraining cost after {epochs} epochs, from {start:.3f} at the start:")
    for way, cost in costs.items():
        print(f"  {cost:.4f}  {way}")
    print()
    table(seconds, BASELINE, title="one epoch")
    print()
    for row in goals:
        print(say(row))
    return result, goals


def time_sweep(options: argparse.Namespace) -> tuple[dict, list[dict]]:
    """Time a network's epoch in a sweep of 32, one after the other and side by side."""
    task = digits(0.5)
    rates, keys = jnp.linspace(0.1, 2.0, 8), jax.random.split(jax.random.key(0), 4)
    rows = []
    for name, net in (("bn", task.net), ("baseline", Network(task.net.sizes, norm=False))):
        found = {}
        for at_once in (1, 8, 32):
            clock: list[tuple[int, float]] = []

            def report(done: int, of: int, clock: list = clock) -> None:
                clock.append((done, time.perf_counter()))

            chosen = (task.x, task.targets)
            sizes = {"epochs": 20, "batch_size": task.batch_size, "at_once": at_once}
            training.sweep(net, optax.sgd, rates, keys, *chosen, report=report, **sizes)
            # between reports: without compiling, and the best, as of rounds
            found[at_once] = min(
                (ended - began) / (last - first)
                for (first, began), (last, ended) in pairwise(clock)
            )
        rows.append({"network": name, "seconds": found, "at_once_gains": found[1] / found[32]})
    goals = []
    if jax.default_backend() != "cpu":
        for row in rows:
            goal = Goal(f"{row['network']}, one by one", "32 at once", least=SWEPT_AT_ONCE)
            gain = row["at_once_gains"]
            met = gain >= SWEPT_AT_ONCE
            goals.append({"goal": goal._asdict(), "median": gain, "best": gain, "met": met})
    if not options.json:
        print("\na sweep of 32 networks on digits: best ms per network and epoch\n")
        print("| network  | one after the other | 8 at once | 32 at once |")
        print("|----------|--------------------:|----------:|-----------:|")
        for row in rows:
            one, eight, all_ = (1e3 * row["seconds"][n] for n in (1, 8, 32))
            print(f"| {row['network']:8} | {one:19.2f} | {eight:9.2f} | {all_:10.2f} |")
        for row in goals:
            print(say(row))
    return {"rows": rows, "goals": goals}, goals


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = ("digits", "large", "sweep")
    parser.add_argument("--task", choices=tasks, nargs="+", default=["digits"], help="(digits)")
    parser.add_argument("--rounds", type=int, help="epochs to time (60; large: 8)")
    parser.add_argument("--samples", type=int, default=60000, help="of the large task (60000)")
    parser.add_argument("--learning-rate", type=float, help="(digits: 0.5; large: 0.05)")
    parser.add_argument("--torch-threads", type=int, metavar="N", help="(digits: 1; large: all)")
    parser.add_argument("--check-epochs", type=int, default=5, help="before the costs (5)")
    parser.add_argument("--check", action="store_true", help="exit 1 if a ratio is missed")
    parser.add_argument("--against", metavar="REV", help="time this bnjax and that commit's, alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()

    if not options.json:
        print(machine())
    results, goals = {}, []
    for name in options.task:
        timed = time_sweep(options) if name == "sweep" else time_epochs(name, options)
        results[name] = timed[0]
        goals += timed[1]
    if options.json:
        print(json.dumps({"machine": machine(), "options": vars(options), **results}))
    missed = [row for row in goals if not row["met"]]
    if options.check and missed:
        sys.exit("\n".join(say(row) for row in missed))


if __name__ == "__main__":
    main()
