"""Time one epoch of the digits network in bnjax, flax nnx with optax, and PyTorch.

The network 64-100-100-100-10: sigmoid, batch norm before the activation of the hidden layers, the
last layer plain with a bias; cost: sigmoid cross-entropy, summed over the outputs and averaged over
the batch; plain SGD; batches of 60 out of 1437 samples in new order every epoch, the last, smaller
batch included. All start from the same weights. After a few epochs bnjax computes the cost of
everyone's parameters, so that all can be seen to train the same thing. Then epochs are timed in
one process, interleaved. A library that is not installed is left out and named.

PyTorch gets one thread: with two, layers this small cost it 3 to 10 times the time on two busy
cores.

    python benchmarks/train.py
    python benchmarks/train.py --rounds 200 --json
"""

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import interleave, machine, summarize, table

from bnjax import network, training
from bnjax.app import data as datasets
from bnjax.network import Dense, Network, NormDense, Params

BASELINE = "bnjax, one program"
PLAIN = "bnjax, one program, without norm"


class Task(NamedTuple):
    """What everyone trains."""

    net: Network
    batch_size: int
    learning_rate: float
    x: np.ndarray
    targets: np.ndarray
    params: Params  # everyone's first

    def batches(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Deal the samples' indices for one epoch on the host."""
        order = rng.permutation(len(self.x)).astype(np.int32)
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]


class Trainer(NamedTuple):
    """One way to train: `epoch` waits until the parameters are there; `params` hands them out."""

    epoch: Callable[[], None]
    params: Callable[[], Params]


def make_task(hidden: tuple[int, ...], batch_size: int, learning_rate: float) -> Task:
    data = datasets.load("digits", cost="sigmoid_cross_entropy", scale="range")
    net = Network((data.n_in, *hidden, data.n_out))
    params, _ = network.init(net, jax.random.key(0))
    x, targets = (array.astype(np.float32) for array in (data.x_train, data.targets_train))
    return Task(net, batch_size, learning_rate, x, targets, params)


def bnjax_epoch(task: Task, net: Network) -> Trainer:
    """Train with one compiled program per epoch; the shuffle is a second, small one."""
    optimizer = optax.sgd(task.learning_rate)
    train_state = training.init(net, optimizer, jax.random.key(0))
    run = training.make_epoch(net, optimizer)
    x, targets = jnp.asarray(task.x), jnp.asarray(task.targets)
    key, number = jax.random.key(1), 0

    @jax.jit
    def deal(number: jax.Array) -> jax.Array:
        return training.shuffle(jax.random.fold_in(key, number), len(x), task.batch_size)

    def epoch() -> None:
        nonlocal train_state, number
        number += 1
        train_state, costs = run(train_state, deal(number), x, targets)
        jax.block_until_ready((train_state, costs))

    return Trainer(epoch, lambda: train_state.params)


def bnjax_steps(task: Task) -> Trainer:
    """Train with one jitted step per batch."""
    optimizer = optax.sgd(task.learning_rate)
    train_state = training.init(task.net, optimizer, jax.random.key(0))
    step = training.make_step(task.net, optimizer)
    x, targets = jnp.asarray(task.x), jnp.asarray(task.targets)
    rng = np.random.default_rng(0)

    @partial(jax.jit, donate_argnums=0)
    def run(train_state, x, targets, indices):
        return step(train_state, x[indices], targets[indices])

    def epoch() -> None:
        nonlocal train_state
        for indices in task.batches(rng):
            train_state, _ = run(train_state, x, targets, indices)
        jax.block_until_ready(train_state)

    return Trainer(epoch, lambda: train_state.params)


def flax_trainers(task: Task) -> dict[str, Trainer]:
    """Train with one compiled step per batch, in the forms that flax's guide to speed shows.

    The data lie on the device, and a batch is gathered inside of the step.
    """
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, sizes: tuple[int, ...], rngs: nnx.Rngs) -> None:
            shapes = list(zip(sizes[:-1], sizes[1:], strict=True))
            self.hidden = nnx.List(
                nnx.Linear(*shape, use_bias=False, rngs=rngs) for shape in shapes[:-1]
            )
            self.norms = nnx.List(
                nnx.BatchNorm(size, momentum=0.9, epsilon=1e-5, rngs=rngs) for size in sizes[1:-1]
            )
            self.last = nnx.Linear(*shapes[-1], rngs=rngs)

        def __call__(self, u: jax.Array) -> jax.Array:
            for linear, norm in zip(self.hidden, self.norms, strict=True):
                u = nnx.sigmoid(norm(linear(u)))
            return self.last(u)

    x, targets = jnp.asarray(task.x), jnp.asarray(task.targets)

    def start() -> tuple[Model, nnx.Optimizer]:
        model = Model(task.net.sizes, nnx.Rngs(0))
        for linear, layer in zip([*model.hidden, model.last], task.params, strict=True):
            linear.kernel[...] = jnp.array(layer.W)  # a copy: it will be donated
        return model, nnx.Optimizer(model, optax.sgd(task.learning_rate), wrt=nnx.Param)

    def params(model: Model) -> Params:
        norms = (
            NormDense(linear.kernel[...], norm.scale[...], norm.bias[...])
            for linear, norm in zip(model.hidden, model.norms, strict=True)
        )
        return *norms, Dense(model.last.kernel[...], model.last.bias[...])

    def step(model, optimizer, x, targets, indices):
        def objective(model):
            each = optax.sigmoid_binary_cross_entropy(model(x[indices]), targets[indices])
            return jnp.mean(jnp.sum(each, axis=-1))

        cost, grads = nnx.value_and_grad(objective)(model)
        optimizer.update(model, grads)
        return cost

    def lifted() -> Trainer:
        model, optimizer = start()
        rng = np.random.default_rng(0)
        run = nnx.cached_partial(nnx.jit(step, donate_argnums=(0, 1)), model, optimizer)

        def epoch() -> None:
            for indices in task.batches(rng):
                run(x, targets, indices)
            jax.block_until_ready(nnx.state((model, optimizer)))

        return Trainer(epoch, lambda: params(model))

    def functional() -> Trainer:
        graph, state = nnx.split(start())
        # a flat list: nnx's own containers would be traversed in Python at every call
        leaves, structure = jax.tree.flatten(state)
        del state
        rng = np.random.default_rng(0)

        @partial(jax.jit, donate_argnums=0)
        def run(leaves, x, targets, indices):
            model, optimizer = nnx.merge(graph, jax.tree.unflatten(structure, leaves))
            cost = step(model, optimizer, x, targets, indices)
            return jax.tree.leaves(nnx.state((model, optimizer))), cost

        def epoch() -> None:
            nonlocal leaves
            for indices in task.batches(rng):
                leaves, _ = run(leaves, x, targets, indices)
            jax.block_until_ready(leaves)

        return Trainer(
            epoch, lambda: params(nnx.merge(graph, jax.tree.unflatten(structure, leaves))[0])
        )

    return {
        "flax nnx, nnx.jit with cached_partial": lifted(),
        "flax nnx, jax.jit with split and merge": functional(),
    }


def torch_trainers(task: Task, threads: int) -> dict[str, Trainer]:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x, targets = torch.from_numpy(task.x), torch.from_numpy(task.targets)

    def start() -> tuple[nn.Sequential, torch.optim.Optimizer]:
        sizes, modules = task.net.sizes, []
        for n_in, n_out in zip(sizes[:-2], sizes[1:-1], strict=True):
            modules += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.Sigmoid()]
        model = nn.Sequential(*modules, nn.Linear(*sizes[-2:]))
        with torch.no_grad():
            for linear, layer in zip(model[::3], task.params, strict=True):
                linear.weight.copy_(torch.tensor(np.asarray(layer.W).T))
            model[-1].bias.zero_()
        return model, torch.optim.SGD(model.parameters(), lr=task.learning_rate)

    def trainer(batches: Callable) -> Trainer:
        model, optimizer = start()
        cross_entropy = nn.BCEWithLogitsLoss(reduction="sum")

        def epoch() -> None:
            for x, targets in batches():
                optimizer.zero_grad()
                cost = cross_entropy(model(x), targets) / len(x)
                cost.backward()
                optimizer.step()

        def params() -> Params:
            arrays = [jnp.asarray(p.detach().numpy()) for p in model.parameters()]
            norms = (
                NormDense(arrays[i].T, arrays[i + 1], arrays[i + 2])
                for i in range(0, len(arrays) - 2, 3)
            )
            return *norms, Dense(arrays[-2].T, arrays[-1])

        return Trainer(epoch, params)

    def slices() -> Iterator:
        order = torch.randperm(len(x))
        for indices in order.split(task.batch_size):
            yield x[indices], targets[indices]

    loader = DataLoader(TensorDataset(x, targets), batch_size=task.batch_size, shuffle=True)
    return {
        "PyTorch, DataLoader": trainer(loader.__iter__),
        "PyTorch, sliced tensors": trainer(slices),
    }


def make_trainers(task: Task, torch_threads: int) -> tuple[dict[str, Trainer], list[str]]:
    """Make all ways to train whose library is there; name the others."""
    plain = Network(task.net.sizes, norm=False)
    trainers = {
        BASELINE: bnjax_epoch(task, task.net),
        PLAIN: bnjax_epoch(task, plain),
        "bnjax, one step per call": bnjax_steps(task),
    }
    missing = []
    for library, make in (
        ("flax", flax_trainers),
        ("torch", partial(torch_trainers, threads=torch_threads)),
    ):
        try:
            trainers |= make(task)
        except ModuleNotFoundError as error:
            if error.name != library:
                raise
            missing.append(library)
    return trainers, missing


def training_cost(task: Task, params: Params) -> float:
    """Let bnjax judge: the cost of the whole training set, normalized as one batch."""
    net = Network(task.net.sizes, norm=isinstance(params[0], NormDense))
    _, state = network.init(net, jax.random.key(0))
    x, targets = jnp.asarray(task.x), jnp.asarray(task.targets)
    return float(network.cost(net, params, state, x, targets)[0])


def check(costs: dict[str, float], start: float) -> None:
    """Stop unless all normalized networks have learnt, and about as much: orders differ.

    Raises:
        SystemExit: Somebody trains something else.
    """
    normalized = [cost for name, cost in costs.items() if name != PLAIN]
    if max(normalized) > min(2 * min(normalized), start / 2):
        raise SystemExit(f"not the same training: from {start} the costs came to {costs}")


def ratios(rows: dict[str, dict[str, float]]) -> list[dict]:
    """Tell how much longer the peers need in their faster form, with the ratio aimed at."""
    goals = []
    for prefix, goal in (("PyTorch, DataLoader", 5.0), ("flax nnx", 1.5)):
        peers = [name for name in rows if name.startswith(prefix)]
        if peers:
            name = min(peers, key=lambda name: rows[name]["median"])
            kinds = ("median_ratio", "best_ratio")
            goals.append({"peer": name, "goal": goal} | {kind: rows[name][kind] for kind in kinds})
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60, help="epochs to time (60)")
    parser.add_argument("--hidden", type=int, nargs="+", default=[100, 100, 100], metavar="N")
    parser.add_argument("--batch-size", type=int, default=60)
    parser.add_argument("--learning-rate", type=float, default=0.5)
    parser.add_argument("--torch-threads", type=int, default=1, metavar="N")
    parser.add_argument("--check-epochs", type=int, default=5, help="epochs before the costs (5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()

    task = make_task(tuple(options.hidden), options.batch_size, options.learning_rate)
    trainers, missing = make_trainers(task, options.torch_threads)
    costs = {}
    for name, trainer in trainers.items():
        for _ in range(options.check_epochs):
            trainer.epoch()
        costs[name] = training_cost(task, trainer.params())
    start = training_cost(task, task.params)
    check(costs, start)
    seconds = interleave({name: t.epoch for name, t in trainers.items()}, options.rounds)
    rows = summarize(seconds, BASELINE)
    goals = ratios(rows)

    if options.json:
        result = {
            "machine": machine(),
            "options": vars(options),
            "missing": missing,
            "start_cost": start,
            "costs": costs,
            "seconds": rows,
            "goals": goals,
        }
        print(json.dumps(result))
        return
    print(machine())
    if missing:
        print(f"left out, not installed: {', '.join(missing)}")
    sizes = "-".join(map(str, task.net.sizes))
    print(f"{sizes}, {len(task.x)} samples, batches of {task.batch_size}")
    print(f"\ntraining cost after {options.check_epochs} epochs, from {start:.3f} at the start:")
    for name, cost in costs.items():
        print(f"  {cost:.4f}  {name}")
    print()
    table(seconds, BASELINE, title="one epoch")
    print()
    for row in goals:
        print(
            f"{row['peer']}: {row['median_ratio']:.2f}x the time of {BASELINE} (median), "
            f"{row['best_ratio']:.2f}x (best); goal {row['goal']:g}x"
        )


if __name__ == "__main__":
    main()
