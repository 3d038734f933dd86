"""Explain three ResNets, trained on 1797 handwritten digits, in a few minutes on two cores.

pip install '.[cli,flax]'
python examples/explain_resnet.py

The first is the functional one of resnet.py, the second has no normalization, the third is written
with flax.nnx. `geometry.Recorder` looks at each while it is trained, and writes what it sees to a
file; at the end the gradients that are put together from angles are compared with those of
`jax.grad`. Two pages say what the looks show: resnet.html compares the first two, which have the
same layers, and nnx.html is about the third.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import resnet
from flax import nnx

from bnjax import geometry, population
from bnjax.layers.nnx import BatchNorm

BATCH = 100
LOOK_AT = 50  # samples of a batch: the fewer, the cheaper is a look


def cost_of(logits, labels):
    """Return the mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def functional():
    """Return the loss, the parameters and the running statistics of the ResNet of resnet.py."""

    def loss(params, state, x, labels):
        logits, moments = resnet.forward(params, state, x, train=True)
        state = {name: population.update(state[name], m) for name, m in moments.items()}
        return cost_of(logits, labels), state

    return loss, *resnet.init(jax.random.key(0))


def baseline():
    """Return the same without normalization: convolutions with a bias."""

    def loss(params, state, x, labels):
        logits, _ = resnet.forward(params, {}, x, train=True)
        return cost_of(logits, labels), state

    params, _ = resnet.init(jax.random.key(0))
    for name, p in params.items():
        if "kernel" in p:
            params[name] = {"kernel": p["kernel"], "bias": p["beta"]}
    return loss, params, {}


class Block(nnx.Module):
    """Two normalized convolutions, and the way around them."""

    def __init__(self, n_in, n_out, stride, rngs):
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        self.conv1 = conv(n_in, n_out, (3, 3), stride)
        self.norm1 = BatchNorm(n_out, rngs=rngs)
        self.conv2 = conv(n_out, n_out, (3, 3))
        self.norm2 = BatchNorm(n_out, rngs=rngs)
        self.skip = None if n_in == n_out else conv(n_in, n_out, (1, 1), stride)

    def __call__(self, x):
        inner = nnx.relu(self.norm1(self.conv1(x)))
        inner = self.norm2(self.conv2(inner))
        return nnx.relu(inner + (x if self.skip is None else self.skip(x)))


class ResNet(nnx.Module):
    """Three blocks and a linear layer."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(1, 16, (3, 3), use_bias=False, rngs=rngs)
        self.norm = BatchNorm(16, rngs=rngs)
        self.block1 = Block(16, 16, 1, rngs)
        self.block2 = Block(16, 32, 2, rngs)
        self.block3 = Block(32, 64, 2, rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.stem(x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.head(x.mean((1, 2)))


def flax():
    """Return the loss, the parameters and all else of the ResNet in flax.nnx."""
    graph, params, state = nnx.split(ResNet(nnx.Rngs(0)), nnx.Param, ...)

    def loss(params, state, x, labels):
        model = nnx.merge(graph, params, state, copy=True)
        cost = cost_of(model(x), labels)
        return cost, nnx.state(model, nnx.Not(nnx.Param))

    return loss, params, state


def compare(loss, params, *batch):
    """Return the largest difference to `jax.grad` of the gradients put together from angles.

    It is relative to each layer's largest gradient.
    """
    observed = geometry.observe_function(loss, params, *batch, has_aux=True, plain=True)
    grads, _ = jax.jit(jax.grad(loss, has_aux=True))(params, *batch)
    leaves = jax.tree_util.tree_leaves_with_path(grads)
    paths = {f"params{jax.tree_util.keystr(k).removesuffix('.value')}": a for k, a in leaves}
    worst = 0.0
    for layer in observed.layers:
        found = geometry.gradients(layer.angles).W
        wanted = paths[layer.name].reshape(found.shape)
        worst = max(worst, float(jnp.max(jnp.abs(found - wanted)) / jnp.max(jnp.abs(wanted))))
    return worst


def train(loss, params, state, recorder, *, epochs, rate):
    """Train with AdamW, and look at every 15th step; return the parameters and the last cost."""
    (images, labels), _ = resnet.load_data()
    steps = epochs * (len(images) // BATCH)
    optimizer = optax.adamw(optax.cosine_onecycle_schedule(steps, rate), weight_decay=1e-3)

    @jax.jit
    def train_step(params, state, opt_state, x, labels):
        (cost, state), grads = jax.value_and_grad(loss, has_aux=True)(params, state, x, labels)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, cost

    opt_state, rng, step, cost = optimizer.init(params), np.random.default_rng(0), 0, np.nan
    for _ in range(epochs):
        x = resnet.shifted(images, rng)
        for batch in rng.permutation(len(x)).reshape(-1, BATCH):
            some = batch[:LOOK_AT]
            recorder.look(step, params, state, x[some], labels[some])
            params, state, opt_state, cost = train_step(
                params, state, opt_state, x[batch], labels[batch]
            )
            step += 1
    recorder.look(step, params, state, x[some], labels[some])
    return params, state, float(cost)


def main(epochs=8, folder="explained"):
    """Train and record all, check the numbers, and write the pages."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    (images, labels), _ = resnet.load_data()
    models = {"the ResNet": (functional, 0.02), "the plain ResNet": (baseline, 0.002)}
    models |= {"the nnx ResNet": (flax, 0.02)}
    recordings = {}
    for title, (model, rate) in models.items():
        loss, params, state = model()
        path = folder / f"{model.__name__}.jsonl"
        with geometry.Recorder(loss, path, every=15, start=0, has_aux=True) as recorder:
            params, state, cost = train(loss, params, state, recorder, epochs=epochs, rate=rate)
        worst = compare(loss, params, state, images[:BATCH], labels[:BATCH])
        print(f"{title}: last cost {cost:.4f}, gradients within {worst:.0e} of jax.grad's")
        assert worst < 1e-4  # rounding
        recordings[title] = geometry.Recording.read(path)
        for found in geometry.faults(recordings[title]):
            print(f"  {found}")
    *both, nnx_resnet = recordings
    pages = {"resnet.html": both, "nnx.html": [nnx_resnet]}
    for name, titles in pages.items():
        report = geometry.report(*(recordings[title] for title in titles), titles=titles)
        report.write(folder / name)
        print(f"{folder / name}: {report.short[0].says if report.short else 'nothing stands out'}")
    return recordings


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
