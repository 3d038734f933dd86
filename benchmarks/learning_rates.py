"""Sweep the learning rate of both networks on digits: what `bnjax train`'s default rests on.

The network 64-100-100-100-10 with sigmoid and sigmoid cross-entropy, SGD, batches of 60. Split,
weights and order of the samples follow from the seed as in `bnjax train --seed`, so each run here
is one that the application can repeat. All epochs of a run are one compiled program.

    python benchmarks/learning_rates.py
    python benchmarks/learning_rates.py --seeds 0 1 --learning-rates 1 3 --epochs 20 --json
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import machine
from jax import Array, lax

from bnjax import network, training
from bnjax.app import data as datasets
from bnjax.network import Network

TARGET = 0.95
BATCH_SIZE = 60


def make_run(net: Network, epochs: int) -> Callable[..., Array]:
    """Make (learning_rate, key, training set, test set) -> test accuracy after every epoch."""

    def run(
        learning_rate: Array, key: Array, train: tuple[Array, Array], test: tuple[Array, Array]
    ) -> Array:
        optimizer = optax.sgd(learning_rate)
        train_epoch = training.make_epoch(net, optimizer)
        order_key = jax.random.fold_in(key, 1)
        labels = jnp.argmax(test[1], axis=1)

        def epoch(train_state: training.TrainState, number: Array):
            shuffle_key = jax.random.fold_in(order_key, number)
            order = training.shuffle(shuffle_key, len(train[0]), BATCH_SIZE)
            train_state, _ = train_epoch(train_state, order, *train)
            params, state = train_state.params, train_state.state
            y, _ = network.bn_apply(net, params, state, test[0], train=False)
            return train_state, jnp.mean(jnp.argmax(y, axis=1) == labels)

        start = training.init(net, optimizer, key)
        return lax.scan(epoch, start, jnp.arange(1, epochs + 1))[1]

    return jax.jit(run)


def first_epoch(accuracies: np.ndarray) -> float:
    """Tell after which epoch the target was reached, counted from 1; infinity for never."""
    reached = np.flatnonzero(accuracies >= TARGET)
    return float(reached[0] + 1) if reached.size else float("inf")


def sweep(
    seeds: list[int], learning_rates: list[float], epochs: int, hidden: tuple[int, ...]
) -> list[dict]:
    """Train every network at every rate with every seed; one row per network and rate."""
    found: dict[tuple[str, float], list[np.ndarray]] = {}
    runs: dict[str, Callable[..., Array]] = {}
    for number, seed in enumerate(seeds, 1):
        data = datasets.load("digits", cost="sigmoid_cross_entropy", seed=seed, scale="range")
        train = jnp.asarray(data.x_train), jnp.asarray(data.targets_train)
        test = jnp.asarray(data.x_test), jnp.asarray(data.targets_test)
        for name in ("baseline", "bn"):
            if name not in runs:
                net = Network((data.n_in, *hidden, data.n_out), norm=name == "bn")
                runs[name] = make_run(net, epochs)
            for rate in learning_rates:
                accuracies = runs[name](rate, jax.random.key(seed), train, test)
                found.setdefault((name, rate), []).append(np.asarray(accuracies))
        print(f"seed {seed} ({number} of {len(seeds)})", file=sys.stderr)
    rows = []
    for (name, rate), accuracies in sorted(found.items()):
        final = [float(a[-1]) for a in accuracies]
        rows.append(
            {
                "network": name,
                "learning_rate": rate,
                "epochs_to_95": [first_epoch(a) for a in accuracies],
                "final_accuracy_median": statistics.median(final),
                "final_accuracy_worst": min(final),
            }
        )
    return rows


def show(rows: list[dict]) -> None:
    def count(epochs: float) -> str:
        return f"{epochs:g}" if epochs < float("inf") else "never"

    print("| network  | rate | to 95 %: median |   min |   max | never | final: median | worst |")
    print("|----------|-----:|----------------:|------:|------:|------:|--------------:|------:|")
    for row in rows:
        epochs = row["epochs_to_95"]
        print(
            f"| {row['network']:8} | {row['learning_rate']:4g} "
            f"| {count(statistics.median(epochs)):>15} | {count(min(epochs)):>5} "
            f"| {count(max(epochs)):>5} | {epochs.count(float('inf')):5d} "
            f"| {row['final_accuracy_median']:13.1%} | {row['final_accuracy_worst']:5.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(7)), metavar="SEED")
    parser.add_argument(
        "--learning-rates",
        type=float,
        nargs="+",
        default=[0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 8.0],
        metavar="RATE",
    )
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--hidden", type=int, nargs="+", default=[100, 100, 100], metavar="N")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = sweep(options.seeds, options.learning_rates, options.epochs, tuple(options.hidden))
    if options.json:
        for row in rows:  # JSON has no infinity
            row["epochs_to_95"] = [e if e < float("inf") else None for e in row["epochs_to_95"]]
        print(json.dumps({"machine": machine(), "options": vars(options), "rows": rows}))
        return
    print(machine())
    print(f"digits, {options.epochs} epochs, seeds {' '.join(map(str, options.seeds))}")
    print("to 95 %: epochs until 95 % of the test set are right; final: test accuracy at the end\n")
    show(rows)


if __name__ == "__main__":
    main()
