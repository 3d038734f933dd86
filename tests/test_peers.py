"""bnjax beside the libraries people come from: the same numbers where those are right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnjax import batch_norm

pytestmark = pytest.mark.peers
rng = np.random.default_rng(0)
X, Y_BAR = rng.normal(size=(2, 16, 5)).astype(np.float32)
GAMMA, BETA = rng.normal(size=(2, 5)).astype(np.float32)


@pytest.fixture
def ours():
    def f(x, gamma, beta):
        y, moments = batch_norm(x, gamma, beta)
        return jnp.sum(y * Y_BAR), (y, moments)

    grads, (y, moments) = jax.grad(f, (0, 1, 2), has_aux=True)(X, GAMMA, BETA)
    return y, moments, grads


def test_torch_gives_the_same(ours):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[peers]'")
    y, _, grads = ours
    x, gamma, beta = (torch.tensor(a, requires_grad=True) for a in (X, GAMMA, BETA))
    theirs = torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True)
    theirs.backward(torch.tensor(Y_BAR))
    np.testing.assert_allclose(y, theirs.detach(), atol=2e-6)
    for a, b in zip(grads, (x, gamma, beta), strict=True):
        np.testing.assert_allclose(a, b.grad, atol=5e-6)


def test_flax_gives_the_same(ours):
    linen = pytest.importorskip(
        "flax.linen", reason="flax is not installed: pip install '.[peers]'"
    )
    y, moments, grads = ours
    layer = linen.BatchNorm(use_running_average=False, momentum=0.0)

    def f(x, gamma, beta):
        variables = {
            "params": {"scale": gamma, "bias": beta},
            "batch_stats": {"mean": jnp.zeros(5), "var": jnp.ones(5)},
        }
        theirs, new = layer.apply(variables, x, mutable=["batch_stats"])
        return jnp.sum(theirs * Y_BAR), (theirs, new["batch_stats"])

    theirs, (their_y, stats) = jax.grad(f, (0, 1, 2), has_aux=True)(X, GAMMA, BETA)
    np.testing.assert_allclose(y, their_y, atol=2e-6)
    np.testing.assert_allclose(moments.var, stats["var"], rtol=1e-5)
    for a, b in zip(grads, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)
