"""Train a CNN with Keras on 1797 handwritten digits, in under a minute on two cores.

pip install '.[keras]'
python examples/keras_digits.py
"""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from bnjax.layers.keras import BatchNormalization  # instead of: from keras.layers import ...


def make_model():
    """Return a compiled model of two convolutions, each normalized, and a linear layer."""
    layers = [keras.Input((8, 8, 1))]
    for filters in (16, 32):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
            BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(2),
        ]
    model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    return model


def load_data():
    """Return images (N, 8, 8, 1) and labels (N,), shuffled: (train, test)."""
    digits = np.load(Path(__file__).with_name("digits.npz"))
    order = np.random.default_rng(0).permutation(len(digits["labels"]))
    x = (digits["images"][order, ..., None] / 16).astype(np.float32)
    labels = digits["labels"][order]
    return (x[:1500], labels[:1500]), (x[1500:], labels[1500:])


def main(epochs=10, batch_size=100):
    """Train, evaluate, save and load."""
    keras.utils.set_random_seed(0)
    train, test = load_data()
    model = make_model()
    model.fit(*train, batch_size, epochs, validation_data=test, verbose=2)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "digits.keras")
        model.save(file)
        loaded = keras.models.load_model(file)
    assert isinstance(loaded.layers[1], BatchNormalization)
    assert np.array_equal(loaded.predict(test[0], verbose=0), model.predict(test[0], verbose=0))
    accuracy = loaded.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    print(f"saved and loaded: test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
