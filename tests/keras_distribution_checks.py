"""Keras' DataParallel with bnjax's layer: eight devices learn as one."""

import importlib

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def losses_and_weights(keras, layer, x, targets):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), keras.layers.Conv2D(4, 3, use_bias=False), layer(), layer(axis=1)]
        + [keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    history = model.fit(x, targets, batch_size=16, epochs=2, shuffle=False, verbose=0)
    return history.history["loss"], [np.asarray(w.value) for w in model.weights], model


@pytest.mark.parametrize("samples", [32, 40])
def test_eight_devices_learn_as_one(keras_on_jax, rng, samples):
    keras = importlib.import_module("keras")
    layer = importlib.import_module("bnjax.layers.keras").BatchNormalization
    x = rng.normal(5, 2, (samples, 6, 6, 1)).astype(np.float32)
    targets = rng.normal(size=(samples, 3)).astype(np.float32)
    with jax.numpy_rank_promotion("allow"):  # Keras' Dense adds vectors to matrices
        alone = losses_and_weights(keras, layer, x, targets)
        devices = keras.distribution.list_devices("cpu")
        assert len(devices) == 8
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
        try:
            spread = losses_and_weights(keras, layer, x, targets)
        finally:
            keras.distribution.set_distribution(None)
    assert len(spread[2].layers[1].moving_mean.value.sharding.device_set) == 8
    np.testing.assert_allclose(spread[0], alone[0], rtol=1e-5)
    for a, b in zip(spread[1], alone[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
