"""Train a convolutional network on the digits, in haiku with bnjax's batch normalization.

pip install '.[haiku]'
python examples/haiku_digits.py

It takes a few seconds: it trains, evaluates, saves, and loads what it saved.
"""

import pickle
import tempfile
from pathlib import Path

import haiku as hk
import jax
import numpy as np
import optax

from bnjax.layers.haiku import BatchNorm  # instead of: from haiku import BatchNorm

BATCH, EPOCHS = 64, 5
optimizer = optax.sgd(0.1, momentum=0.9)


@hk.transform_with_state
def net(images, is_training):
    """Return the logits of images of shape (B, 8, 8, 1)."""
    x = images
    for channels, stride in ((16, 1), (32, 2)):
        x = hk.Conv2D(channels, 3, stride, with_bias=False)(x)
        x = BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(x, is_training)
        x = jax.nn.relu(x)
    return hk.Linear(10)(x.mean((1, 2)))


def digits():
    """Return (images, labels) to train with, and (images, labels) to evaluate with."""
    data = np.load(Path(__file__).with_name("digits.npz"))
    images = (data["images"][..., None] / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], data["labels"][order]
    return (images[360:], labels[360:]), (images[:360], labels[:360])


def start(images):
    """Return parameters, running statistics and the optimizer's state before the first step."""
    params, state = net.init(jax.random.key(0), images[:BATCH], True)
    return params, state, optimizer.init(params)


@jax.jit
def step(params, state, opt_state, images, labels):
    """Take one step; return the three new states, and the cost."""

    def cost(params):
        logits, new = net.apply(params, state, None, images, True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new

    (cost, state), grads = jax.value_and_grad(cost, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), state, opt_state, cost


@jax.jit
def accuracy(params, state, images, labels):
    """Return the share of images that are recognized, with running statistics."""
    logits, _ = net.apply(params, state, None, images, False)
    return (logits.argmax(-1) == labels).mean()


def main():
    """Train, evaluate, save and load."""
    (images, labels), test = digits()
    params, state, opt_state = start(images)
    rng = np.random.default_rng(0)
    for epoch in range(EPOCHS):
        order = rng.permutation(len(images))
        costs = []
        for i in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[i : i + BATCH]
            *states, cost = step(params, state, opt_state, images[batch], labels[batch])
            params, state, opt_state = states
            costs.append(float(cost))
        print(
            f"epoch {epoch + 1} of {EPOCHS}: cost {np.mean(costs):.4f}, "
            f"accuracy {accuracy(params, state, *test):.3f} on {len(test[1])} other images",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "digits.pickle"
        file.write_bytes(pickle.dumps(jax.device_get((params, state))))
        loaded = pickle.loads(file.read_bytes())
    print(f"saved and loaded: accuracy {accuracy(*loaded, *test):.3f}")


if __name__ == "__main__":
    main()
