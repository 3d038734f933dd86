"""Train a convolutional network on the digits, in equinox with bnjax's batch normalization.

pip install '.[equinox]'
python examples/equinox_digits.py

It takes a few seconds: it trains, evaluates, saves, and loads what it saved.
"""

import tempfile
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import optax

from bnjax.layers.equinox import BatchNorm  # instead of: from equinox.nn import BatchNorm

BATCH, EPOCHS = 64, 5
optimizer = optax.sgd(0.1, momentum=0.9)


class Net(eqx.Module):
    """A network of two normalized convolutions."""

    convolutions: list[eqx.nn.Conv2d]
    norms: list[BatchNorm]
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.convolutions = [
            eqx.nn.Conv2d(1, 16, 3, padding=1, use_bias=False, key=keys[0]),
            eqx.nn.Conv2d(16, 32, 3, stride=2, padding=1, use_bias=False, key=keys[1]),
        ]
        self.norms = [BatchNorm(n, "batch", momentum=0.9, mode="batch") for n in (16, 32)]
        self.head = eqx.nn.Linear(32, 10, key=keys[2])

    def __call__(self, image, state):
        """Return the logits of one image of shape (1, 8, 8), and the new running statistics."""
        x = image
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x, state = norm(convolution(x), state)
            x = jax.nn.relu(x)
        return self.head(x.mean((1, 2))), state


def digits():
    """Return (images, labels) to train with, and (images, labels) to evaluate with."""
    data = np.load(Path(__file__).with_name("digits.npz"))
    images = (data["images"][:, None] / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], data["labels"][order]
    return (images[360:], labels[360:]), (images[:360], labels[:360])


def start():
    """Return model, running statistics and the optimizer's state before the first step."""
    model, state = eqx.nn.make_with_state(Net)(jax.random.key(0))
    return model, state, optimizer.init(eqx.filter(model, eqx.is_inexact_array))


def batched(model, state, images):
    """Return the logits of a batch, and the new running statistics."""
    return jax.vmap(model, (0, None), (0, None), axis_name="batch")(images, state)


@eqx.filter_jit
def step(model, state, opt_state, images, labels):
    """Take one step; return the three new states, and the cost."""

    def cost(model):
        logits, new = batched(model, state, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new

    (cost, state), grads = eqx.filter_value_and_grad(cost, has_aux=True)(model)
    updates, opt_state = optimizer.update(grads, opt_state)
    return eqx.apply_updates(model, updates), state, opt_state, cost


@eqx.filter_jit
def accuracy(model, state, images, labels):
    """Return the share of images that are recognized, with running statistics."""
    logits, _ = batched(eqx.nn.inference_mode(model), state, images)
    return (logits.argmax(-1) == labels).mean()


def main():
    """Train, evaluate, save and load."""
    (images, labels), test = digits()
    model, state, opt_state = start()
    rng = np.random.default_rng(0)
    for epoch in range(EPOCHS):
        order = rng.permutation(len(images))
        costs = []
        for i in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[i : i + BATCH]
            *states, cost = step(model, state, opt_state, images[batch], labels[batch])
            model, state, opt_state = states
            costs.append(float(cost))
        print(
            f"epoch {epoch + 1} of {EPOCHS}: cost {np.mean(costs):.4f}, "
            f"accuracy {accuracy(model, state, *test):.3f} on {len(test[1])} other images",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "digits.eqx"
        eqx.tree_serialise_leaves(file, (model, state))
        loaded = eqx.tree_deserialise_leaves(file, start()[:2])
    print(f"saved and loaded: accuracy {accuracy(*loaded, *test):.3f}")


if __name__ == "__main__":
    main()
