"""The ways to train that `train.py` times: bnjax, flax nnx with optax, and PyTorch."""

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bnjax
from bnjax import network, training
from bnjax.network import Dense, Network, NormDense, Params


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
    """One way to train: `epoch` waits until the parameters are there; `params` hands them out.

    `params` is None for what trains nothing, and is only timed.
    """

    epoch: Callable[[], None]
    params: Callable[[], Params] | None


def bnjax_epoch(task: Task) -> Trainer:
    """Train with one compiled program per epoch; the shuffle is a second, small one."""
    optimizer = optax.sgd(task.learning_rate)
    train_state = training.init(task.net, optimizer, jax.random.key(0))
    run = training.make_epoch(task.net, optimizer)
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


def bnjax_fit(task: Task, net: Network, library: ModuleType = bnjax) -> Trainer:
    """Train by `training.fit` of this or another bnjax, one epoch per call, shuffled in it."""
    optimizer = optax.sgd(task.learning_rate)
    start = library.training.init(net, optimizer, jax.random.key(0))
    run = library.training.fit(
        net,
        optimizer,
        start,
        task.x,
        task.targets,
        epochs=10**9,
        batch_size=task.batch_size,
        key=jax.random.key(1),
    )
    params = start.params

    def epoch() -> None:
        nonlocal params
        progress = next(run)
        params = progress.train_state.params
        jax.block_until_ready((progress.train_state, progress.costs))

    def own() -> Params:  # another bnjax has classes of its own
        return tuple(getattr(network, type(layer).__name__)(*layer) for layer in params)

    return Trainer(epoch, own)


def products(task: Task) -> Trainer:
    """Do nothing but the matrix products of an epoch of full batches.

    Per layer u W, uᵀ Δ and, but for the first, Δ Wᵀ: what every network of these sizes must do.
    """
    x, steps = jnp.asarray(task.x), len(task.x) // task.batch_size
    weights = [layer.W for layer in task.params]
    key, number = jax.random.key(1), 0

    @partial(jax.jit, donate_argnums=0)
    def run(grads, weights, order, x):
        def batch(grads, indices):
            inputs = [x[indices]]
            for W in weights:
                inputs.append(inputs[-1] @ W)
            delta, found = inputs.pop(), []
            for u, W in zip(inputs[::-1], weights[::-1], strict=True):
                found.append(u.T @ delta)
                if u is not inputs[0]:
                    delta = delta @ W.T
            return found[::-1], None

        return jax.lax.scan(batch, grads, order)[0]

    grads = [jnp.zeros_like(W) for W in weights]

    def epoch() -> None:
        nonlocal grads, number
        number += 1
        order = training.shuffle(jax.random.fold_in(key, number), len(x), task.batch_size)
        grads = jax.block_until_ready(run(grads, weights, order[:steps], x))

    return Trainer(epoch, None)


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
