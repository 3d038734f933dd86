import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnjax import activations
from bnjax.activations import ACTIVATIONS, Activation

Y = jnp.array([-50.0, -3.0, -0.5, 0.0, 0.7, 4.0, 50.0])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_written_derivative_is_autodiff_s(name):
    g, g_prime = activations.get(name)
    np.testing.assert_allclose(g_prime(Y), jax.vmap(jax.grad(g))(Y), rtol=1e-12, atol=1e-15)


def test_the_sigmoid_saturates_as_bl9_says():
    prime = activations.get("sigmoid").g_prime(Y)
    assert jnp.all(prime <= 0.25) and jnp.all(prime <= jnp.exp(-jnp.abs(Y)) * (1 + 1e-14))


def test_an_activation_of_one_s_own_is_handed_back():
    own = Activation(jnp.sin, jnp.cos)
    assert activations.get(own) is own


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="got 'sigmoit'; did you mean 'sigmoid'?"):
        activations.get("sigmoit")
