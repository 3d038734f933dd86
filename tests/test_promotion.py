"""Half precision where JAX is told to promote nothing: `jax_numpy_dtype_promotion="strict"`."""

import jax
import jax.numpy as jnp
import pytest
from test_platforms import calls

from bnjax import batch_norm, normalize
from bnjax.geometry import Angles
from bnjax.population import Pool, PopulationState

HALF = jnp.float16
WIDE = (Angles, Pool, PopulationState)  # in float32 whatever they come from


def halved(arguments):
    """The arguments in half precision, but for what is never in it."""
    return jax.tree.map(
        lambda a: a if isinstance(a, WIDE) else jax.ShapeDtypeStruct(a.shape, HALF),
        arguments,
        is_leaf=lambda a: isinstance(a, WIDE),
    )


@pytest.mark.parametrize("rule", ["vjp", "jvp", "autodiff"])
def test_batch_norm_promotes_nothing_by_itself(rule):
    def both(x, gamma, where):
        results = []
        for options in ({}, {"where": where}, {"where": where, "masked": "normalize"}):

            def f(x, gamma, options=options):
                return batch_norm(x, gamma, gamma, rule=rule, **options)

            out, pull = jax.vjp(f, x, gamma)
            results.append((out, pull(out)))
        return results, jax.grad(lambda x: jnp.sum(normalize(x, *[gamma] * 4)))(x)

    x, gamma, where = (jax.ShapeDtypeStruct(size, HALF) for size in ((300, 3), (3,), (300, 1)))
    with jax.numpy_dtype_promotion("strict"):
        results, x_bar = jax.eval_shape(both, x, gamma, where)
    assert x_bar.dtype == HALF
    for (y, moments), (x_bar, gamma_bar) in results:
        assert y.dtype == x_bar.dtype == gamma_bar.dtype == HALF and moments.mean.dtype == "float32"


@pytest.mark.parametrize("room", ["geometry", "backprop", "jacobian", "population"])
def test_no_public_function_of_a_room_promotes_by_itself(room):
    for function, *arguments in calls()[room].values():
        with jax.numpy_dtype_promotion("strict"):
            jax.eval_shape(function, *halved(arguments))
