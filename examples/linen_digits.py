"""Train a CNN with flax.linen on 1797 handwritten digits, in under a minute on two cores.

pip install '.[flax]'
python examples/linen_digits.py
"""

import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import serialization

from bnjax.layers.linen import BatchNorm  # instead of: from flax.linen import BatchNorm

OPTIMIZER = optax.adam(3e-3)


class CNN(nn.Module):
    """Two convolutions, each normalized, and a linear layer."""

    @nn.compact
    def __call__(self, x, train):
        for features in (16, 32):
            x = nn.Conv(features, (3, 3), use_bias=False)(x)
            x = BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        return nn.Dense(10)(x.reshape(len(x), -1))


def load_data():
    """Return images (N, 8, 8, 1) and labels (N,), shuffled: (train, test)."""
    digits = np.load(Path(__file__).with_name("digits.npz"))
    order = np.random.default_rng(0).permutation(len(digits["labels"]))
    x = (digits["images"][order, ..., None] / 16).astype(np.float32)
    labels = digits["labels"][order]
    return (x[:1500], labels[:1500]), (x[1500:], labels[1500:])


@jax.jit
def train_step(variables, opt_state, x, labels):
    """Update parameters and running statistics with one batch."""

    def cost(params):
        state = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, updated = CNN().apply(state, x, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updated["batch_stats"]

    (loss, batch_stats), grads = jax.value_and_grad(cost, has_aux=True)(variables["params"])
    updates, opt_state = OPTIMIZER.update(grads, opt_state)
    params = optax.apply_updates(variables["params"], updates)
    return {"params": params, "batch_stats": batch_stats}, opt_state, loss


@jax.jit
def predict(variables, x):
    """Return the logits, with the running statistics."""
    return CNN().apply(variables, x, train=False)


def accuracy(variables, x, labels):
    """Return the part of the images that are classified correctly."""
    return float((predict(variables, x).argmax(-1) == labels).mean())


def main(epochs=10, batch_size=100):
    """Train, evaluate, save and load."""
    (x, labels), test = load_data()
    variables = CNN().init(jax.random.key(0), x[:1], train=True)
    opt_state = OPTIMIZER.init(variables["params"])
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng(epoch).permutation(len(x))
        for batch in order.reshape(-1, batch_size):
            variables, opt_state, loss = train_step(variables, opt_state, x[batch], labels[batch])
        print(f"epoch {epoch}: loss {loss:.4f}, test accuracy {accuracy(variables, *test):.3f}")

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "digits.msgpack")
        file.write_bytes(serialization.to_bytes(variables))
        fresh = CNN().init(jax.random.key(1), x[:1], train=True)
        loaded = serialization.from_bytes(fresh, file.read_bytes())
    assert jnp.array_equal(predict(loaded, test[0]), predict(variables, test[0]))
    print(f"saved and loaded: test accuracy {accuracy(loaded, *test):.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
