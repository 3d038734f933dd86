"""Audits of derivative rules that nobody here wrote: jax.numpy, jax.nn, jax.scipy and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bnjax import audit

rng = np.random.default_rng(0)
X, Y = (jnp.asarray(a, jnp.float32) for a in rng.normal(size=(2, 3, 4)))
P, SURE = jax.nn.softmax(Y), (Y > 0).astype(jnp.float32)
LABELS = jnp.array([0, 3, 1])
losses, nn = optax.losses, jax.nn


def logsumexp(x):
    largest = jax.lax.stop_gradient(jnp.max(x, -1, keepdims=True))
    return largest + jnp.log(jnp.sum(jnp.exp(x - largest), -1, keepdims=True))


def gelu(x):
    return x * (1 + jnp.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2


def cross_entropy(x, p):
    return -jnp.sum(p * (x - logsumexp(x)), -1)


def norms(a, b):
    return jnp.sqrt(jnp.sum(a * a, -1) * jnp.sum(b * b, -1))


# the function, the same written plainly (None: finite differences), its arguments
CASES = {
    "relu": (nn.relu, lambda x: jnp.where(x > 0, x, 0), (X,)),
    "relu6": (nn.relu6, lambda x: jnp.where((x > 0) & (x < 6), x, 6.0 * (x > 3)), (3 * X,)),
    "sigmoid": (nn.sigmoid, lambda x: 1 / (1 + jnp.exp(-x)), (X,)),
    "softplus": (nn.softplus, lambda x: jnp.log1p(jnp.exp(x)), (X,)),
    "silu": (nn.silu, lambda x: x / (1 + jnp.exp(-x)), (X,)),
    "gelu": (nn.gelu, gelu, (X,)),
    "elu": (nn.elu, lambda x: jnp.where(x > 0, x, jnp.exp(jnp.where(x > 0, 0, x)) - 1), (X,)),
    "mish": (nn.mish, lambda x: x * jnp.tanh(jnp.log1p(jnp.exp(x))), (X,)),
    "squareplus": (nn.squareplus, lambda x: (x + jnp.sqrt(x * x + 4)) / 2, (X,)),
    "logsumexp": (lambda x: nn.logsumexp(x, -1, keepdims=True), logsumexp, (X,)),
    "softmax": (nn.softmax, lambda x: jnp.exp(x - logsumexp(x)), (X,)),
    "log_softmax": (nn.log_softmax, lambda x: x - logsumexp(x), (X,)),
    "standardize": (nn.standardize, None, (X,)),
    "logaddexp": (jnp.logaddexp, lambda x, y: jnp.log(jnp.exp(x) + jnp.exp(y)), (X, Y)),
    "sinc": (jnp.sinc, lambda x: jnp.sin(np.pi * x) / (np.pi * x), (X,)),
    "norm": (jnp.linalg.norm, lambda x: jnp.sqrt(jnp.sum(x * x)), (X,)),
    "sigmoid cross entropy": (
        losses.sigmoid_binary_cross_entropy,
        lambda x, t: t * jnp.log1p(jnp.exp(-x)) + (1 - t) * jnp.log1p(jnp.exp(x)),
        (X, nn.sigmoid(Y)),
    ),
    "softmax cross entropy": (losses.softmax_cross_entropy, cross_entropy, (X, P)),
    "safe softmax cross entropy": (losses.safe_softmax_cross_entropy, cross_entropy, (X, P)),
    "softmax cross entropy, integers": (
        losses.softmax_cross_entropy_with_integer_labels,
        lambda x, labels: cross_entropy(x, nn.one_hot(labels, 4, dtype=x.dtype)),
        (X, LABELS),
    ),
    "huber": (
        losses.huber_loss,
        lambda x, t: jnp.where(abs(x - t) <= 1, (x - t) ** 2 / 2, abs(x - t) - 0.5),
        (2 * X, Y),
    ),
    "log cosh": (losses.log_cosh, lambda x, t: jnp.log(jnp.cosh(x - t)), (X, Y)),
    "divergence": (
        losses.kl_divergence,
        lambda x, t: jnp.sum(t * (jnp.log(t) - x), -1),
        (nn.log_softmax(X), P),
    ),
    "cosine": (
        losses.cosine_similarity,
        lambda a, b: jnp.sum(a * b, -1) / norms(a, b),
        (X, Y),
    ),
    "poly": (losses.poly_loss_cross_entropy, None, (X, P)),
    "hinge": (
        losses.hinge_loss,
        lambda x, t: jnp.where(x * t < 1, 1 - x * t, 0),
        (X, 2 * SURE - 1),
    ),
    "squared error": (losses.squared_error, lambda x, t: (x - t) ** 2, (X, Y)),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_rules_of_others_agree_with_their_definitions(name, dtype):
    f, g, args = CASES[name]
    args = jax.tree.map(lambda a: a if a.dtype == LABELS.dtype else a.astype(dtype), args)
    report = audit.assert_gradients_match(f, g, args)
    print(f"{name}, {dtype}: {len(report.rows)} comparisons, worst {report.worst.scaled:.2g} eps")


@pytest.mark.slow
def test_jax_s_logsumexp_is_refused_while_it_drops_the_gradient_by_zero_weights():
    def f(b):
        return jax.scipy.special.logsumexp(jnp.array([0.3, -0.2], b.dtype), b=b)

    def plain(b):
        return jnp.log(jnp.sum(b * jnp.exp(jnp.array([0.3, -0.2], b.dtype))))

    b = jnp.array([1.0, 0.0])
    report = audit.compare(f, plain, (b,), modes="vjp", transforms="jit")
    right = np.allclose(jax.grad(f)(b), np.exp([0.0, -0.5]))
    assert report.ok == right
