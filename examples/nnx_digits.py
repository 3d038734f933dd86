"""Train a CNN with flax.nnx on 1797 handwritten digits, in under a minute on two cores.

pip install '.[flax]'
python examples/nnx_digits.py
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

from bnjax.layers.nnx import BatchNorm  # instead of: from flax.nnx import BatchNorm


class CNN(nnx.Module):
    """Two convolutions, each normalized, and a linear layer."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), use_bias=False, rngs=rngs)
        self.norm1 = BatchNorm(16, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = BatchNorm(32, momentum=0.9, rngs=rngs)
        self.linear = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        pool = partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2))
        x = pool(nnx.relu(self.norm1(self.conv1(x))))
        x = pool(nnx.relu(self.norm2(self.conv2(x))))
        return self.linear(x.reshape(len(x), -1))


def load_data():
    """Return images (N, 8, 8, 1) and labels (N,), shuffled: (train, test)."""
    digits = np.load(Path(__file__).with_name("digits.npz"))
    order = np.random.default_rng(0).permutation(len(digits["labels"]))
    x = (digits["images"][order, ..., None] / 16).astype(np.float32)
    labels = digits["labels"][order]
    return (x[:1500], labels[:1500]), (x[1500:], labels[1500:])


def make_optimizer(model):
    """Return Adam for a model's parameters."""
    return nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, x, labels):
    """Update parameters and running statistics with one batch."""

    def cost(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

    loss, grads = nnx.value_and_grad(cost)(model)
    optimizer.update(model, grads)
    return loss


@nnx.jit
def predict(model, x):
    """Return the logits."""
    return model(x)


def accuracy(model, x, labels):
    """Return the part of the images that are classified correctly, with the running statistics."""
    return float(
        (predict(nnx.view(model, use_running_average=True), x).argmax(-1) == labels).mean()
    )


def main(epochs=10, batch_size=100):
    """Train, evaluate, save and load."""
    (x, labels), test = load_data()
    model = CNN(nnx.Rngs(0))
    optimizer = make_optimizer(model)
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng(epoch).permutation(len(x))
        for batch in order.reshape(-1, batch_size):
            loss = train_step(model, optimizer, x[batch], labels[batch])
        print(f"epoch {epoch}: loss {loss:.4f}, test accuracy {accuracy(model, *test):.3f}")

    fresh = CNN(nnx.Rngs(1))
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(folder, "digits"), nnx.state(model))
        checkpointer.wait_until_finished()
        nnx.update(fresh, checkpointer.restore(Path(folder, "digits"), nnx.state(fresh)))
    models = (nnx.view(m, use_running_average=True) for m in (model, fresh))
    assert jnp.array_equal(*(predict(m, test[0]) for m in models))
    print(f"saved and loaded: test accuracy {accuracy(fresh, *test):.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
