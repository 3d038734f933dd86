"""Functions of JAX, and losses of Optax, with derivatives of their own, for `audit_others.py`.

Each with the same written plainly, which JAX differentiates, or None: then it is compared with
finite differences of itself in float64.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import nn
from jax.scipy import special


class Case(NamedTuple):
    """One function: `options` are those of `audit.compare`, each with its reason beside it."""

    library: str
    f: Callable[..., Any]
    g: Callable[..., Any] | None
    args: tuple[Any, ...]
    options: dict[str, Any] = {}


rng = np.random.default_rng(0)
X, Y = (jnp.asarray(a, jnp.float32) for a in rng.normal(size=(2, 3, 4)))
P, SURE = nn.softmax(Y), (Y > 0).astype(jnp.float32)
LABELS = jnp.array([0, 3, 1])
A4 = jnp.asarray(rng.normal(size=(4, 4)), jnp.float32) + 3 * jnp.eye(4)
A3, S4, B4 = A4[:3, :3], A4 @ A4.T, Y.T
Z = jnp.array([0.3, 1.2, 2.9])  # positive
SMALL = jnp.array([-0.7, 0.2, 0.6])  # between -1 and 1
W = jnp.array([-3.1, 0.4, 2.2])
losses = optax.losses


def logsumexp(x):
    largest = jax.lax.stop_gradient(jnp.max(x, -1, keepdims=True))
    return largest + jnp.log(jnp.sum(jnp.exp(x - largest), -1, keepdims=True))


def gelu(x):
    return x * (1 + jnp.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2


def cross_entropy(x, p):
    return -jnp.sum(p * (x - logsumexp(x)), -1)


def norms(a, b):
    return jnp.sqrt(jnp.sum(a * a, -1) * jnp.sum(b * b, -1))


def determinant(a):
    """Expand by the first row: a polynomial, which has all its derivatives everywhere."""
    if len(a) == 1:
        return a[0, 0]
    minors = (determinant(jnp.delete(a[1:], i, 1)) for i in range(len(a)))
    return sum((-1) ** i * a[0, i] * minor for i, minor in enumerate(minors))


def solution(a, b):
    return jnp.linalg.inv(a) @ b


# the rules that networks use, in any floating dtype
NETWORKS = {
    "nn.relu": Case("jax", nn.relu, lambda x: jnp.where(x > 0, x, 0), (X,)),
    "nn.relu6": Case(
        "jax", nn.relu6, lambda x: jnp.where((x > 0) & (x < 6), x, 6.0 * (x > 3)), (3 * X,)
    ),
    "nn.sigmoid": Case("jax", nn.sigmoid, lambda x: 1 / (1 + jnp.exp(-x)), (X,)),
    "nn.softplus": Case("jax", nn.softplus, lambda x: jnp.log1p(jnp.exp(x)), (X,)),
    "nn.silu": Case("jax", nn.silu, lambda x: x / (1 + jnp.exp(-x)), (X,)),
    "nn.gelu": Case("jax", nn.gelu, gelu, (X,)),
    "nn.elu": Case(
        "jax", nn.elu, lambda x: jnp.where(x > 0, x, jnp.exp(jnp.where(x > 0, 0, x)) - 1), (X,)
    ),
    "nn.mish": Case("jax", nn.mish, lambda x: x * jnp.tanh(jnp.log1p(jnp.exp(x))), (X,)),
    "nn.squareplus": Case("jax", nn.squareplus, lambda x: (x + jnp.sqrt(x * x + 4)) / 2, (X,)),
    "nn.logsumexp": Case("jax", lambda x: nn.logsumexp(x, -1, keepdims=True), logsumexp, (X,)),
    "nn.softmax": Case("jax", nn.softmax, lambda x: jnp.exp(x - logsumexp(x)), (X,)),
    "nn.log_softmax": Case("jax", nn.log_softmax, lambda x: x - logsumexp(x), (X,)),
    "nn.standardize": Case("jax", nn.standardize, None, (X,)),
    "numpy.logaddexp": Case(
        "jax", jnp.logaddexp, lambda x, y: jnp.log(jnp.exp(x) + jnp.exp(y)), (X, Y)
    ),
    "numpy.sinc": Case("jax", jnp.sinc, lambda x: jnp.sin(np.pi * x) / (np.pi * x), (X,)),
    "numpy.linalg.norm": Case("jax", jnp.linalg.norm, lambda x: jnp.sqrt(jnp.sum(x * x)), (X,)),
    "sigmoid_binary_cross_entropy": Case(
        "optax",
        losses.sigmoid_binary_cross_entropy,
        lambda x, t: t * jnp.log1p(jnp.exp(-x)) + (1 - t) * jnp.log1p(jnp.exp(x)),
        (X, nn.sigmoid(Y)),
    ),
    "softmax_cross_entropy": Case("optax", losses.softmax_cross_entropy, cross_entropy, (X, P)),
    "safe_softmax_cross_entropy": Case(
        "optax", losses.safe_softmax_cross_entropy, cross_entropy, (X, P)
    ),
    "softmax_cross_entropy_with_integer_labels": Case(
        "optax",
        losses.softmax_cross_entropy_with_integer_labels,
        lambda x, labels: cross_entropy(x, nn.one_hot(labels, 4, dtype=x.dtype)),
        (X, LABELS),
    ),
    "huber_loss": Case(
        "optax",
        losses.huber_loss,
        lambda x, t: jnp.where(abs(x - t) <= 1, (x - t) ** 2 / 2, abs(x - t) - 0.5),
        (2 * X, Y),
    ),
    "log_cosh": Case("optax", losses.log_cosh, lambda x, t: jnp.log(jnp.cosh(x - t)), (X, Y)),
    "kl_divergence": Case(
        "optax",
        losses.kl_divergence,
        lambda x, t: jnp.sum(t * (jnp.log(t) - x), -1),
        (nn.log_softmax(X), P),
    ),
    "cosine_similarity": Case(
        "optax", losses.cosine_similarity, lambda a, b: jnp.sum(a * b, -1) / norms(a, b), (X, Y)
    ),
    "poly_loss_cross_entropy": Case("optax", losses.poly_loss_cross_entropy, None, (X, P)),
    "hinge_loss": Case(
        "optax",
        losses.hinge_loss,
        lambda x, t: jnp.where(x * t < 1, 1 - x * t, 0),
        (X, 2 * SURE - 1),
    ),
    "squared_error": Case("optax", losses.squared_error, lambda x, t: (x - t) ** 2, (X, Y)),
}

_plain: dict[str, tuple[Any, ...]] = {
    "nn.log1mexp": (nn.log1mexp, lambda x: jnp.log(1 - jnp.exp(-x)), (Z,)),
    "numpy.logaddexp2": (jnp.logaddexp2, lambda x, y: jnp.log2(2**x + 2**y), (X, Y)),
    "numpy.i0": (jnp.i0, None, (W,)),
    "numpy.hypot": (jnp.hypot, lambda x, y: jnp.sqrt(x * x + y * y), (X, Y)),
    "numpy.arctan2": (jnp.arctan2, lambda y, x: 2 * jnp.arctan(y / (jnp.hypot(x, y) + x)), (X, Y)),
    "numpy.power": (jnp.power, lambda x, y: jnp.exp(y * jnp.log(x)), (Z, W)),
    "numpy.cbrt": (jnp.cbrt, lambda x: x ** (1 / 3), (Z,)),
    "numpy.arccosh": (jnp.arccosh, lambda x: jnp.log(x + jnp.sqrt(x * x - 1)), (Z + 1,)),
    "numpy.prod": (jnp.prod, lambda x: x[0] * x[1] * x[2], (Z,)),
    "lax.cumprod": (jax.lax.cumprod, lambda x: jnp.stack([x[0], x[0] * x[1], jnp.prod(x)]), (Z,)),
    "lax.cummax": (jax.lax.cummax, None, (X,)),
    "lax.cumlogsumexp": (
        jax.lax.cumlogsumexp,
        lambda x: jnp.log(jax.lax.cumsum(jnp.exp(x))),
        (X,),
    ),
    "lax.logistic": (jax.lax.logistic, lambda x: 1 / (1 + jnp.exp(-x)), (X,)),
    "lax.sort": (jax.lax.sort, None, (X,)),
    "lax.top_k": (
        lambda x: jax.lax.top_k(x, 2)[0],
        lambda x: jnp.sort(x, -1)[:, :1:-1],
        (X,),
    ),
    "lax.custom_root": (
        lambda a: jax.lax.custom_root(
            lambda x: x**3 - a,
            jnp.ones_like(a),
            lambda f, x: jax.lax.fori_loop(0, 40, lambda _, x: x - f(x) / (3 * x * x), x),
            lambda g, y: y / g(jnp.ones_like(y)),
        ),
        lambda a: a ** (1 / 3),
        (jnp.array([2.0]),),
    ),
    "special.xlogy": (special.xlogy, lambda x, y: x * jnp.log(y), (W, Z)),
    "special.xlog1py": (special.xlog1py, lambda x, y: x * jnp.log1p(y), (W, Z)),
    "special.logit": (special.logit, lambda x: jnp.log(x / (1 - x)), (Z / 3,)),
    "special.entr": (special.entr, lambda x: -x * jnp.log(x), (Z,)),
    "special.rel_entr": (special.rel_entr, lambda x, y: x * jnp.log(x / y), (Z, Z[::-1])),
    "special.kl_div": (special.kl_div, lambda x, y: x * jnp.log(x / y) - x + y, (Z, Z[::-1])),
    "special.log_ndtr": (special.log_ndtr, lambda x: jnp.log(special.erfc(-x / 2**0.5) / 2), (W,)),
    "special.ndtri": (special.ndtri, lambda x: -(2**0.5) * special.erfinv(1 - 2 * x), (Z / 3,)),
    "special.erf": (special.erf, None, (W,)),
    "special.erfc": (special.erfc, None, (W,)),
    "special.erfinv": (special.erfinv, None, (SMALL,)),
    "special.erfcx": (special.erfcx, lambda x: jnp.exp(x * x) * special.erfc(x), (W / 2,)),
    "special.dawsn": (special.dawsn, None, (W,)),
    "special.expi": (special.expi, None, (Z,)),
    "special.exp1": (special.exp1, lambda x: -special.expi(-x), (Z,)),
    "special.expn, n = 3": (
        partial(special.expn, 3),
        lambda x: ((1 - x) * jnp.exp(-x) - x**2 * special.expi(-x)) / 2,
        (Z,),
    ),
    "special.sici": (special.sici, None, (Z,)),
    "special.fresnel": (special.fresnel, None, (W,)),
    "special.zeta": (special.zeta, None, (Z + 1.5, Z)),
    "special.polygamma, n = 1": (
        partial(special.polygamma, 1),
        lambda x: special.zeta(2.0, x),
        (Z,),
    ),
    "special.digamma": (special.digamma, None, (Z,)),
    "special.gammaln": (special.gammaln, None, (Z,)),
    "special.gammainc": (special.gammainc, None, (Z, Z[::-1])),
    "special.gammaincc": (special.gammaincc, None, (Z, Z[::-1])),
    "special.betainc, in x": (lambda x: special.betainc(1.5, 2.5, x), None, (Z / 3,)),
    "special.poch": (
        special.poch,
        lambda z, m: jnp.exp(special.gammaln(z + m) - special.gammaln(z)),
        (Z, Z[::-1]),
    ),
    "special.hyp1f1": (special.hyp1f1, None, (Z[0], Z[1], Z[2])),
    "special.hyp2f1, in x": (lambda x: special.hyp2f1(0.5, 1.5, 2.5, x), None, (Z[0],)),
    "special.owens_t": (special.owens_t, None, (W, Z)),
    "special.i0": (special.i0, None, (W,)),
    "special.i0e": (special.i0e, None, (W,)),
    "special.i1": (special.i1, None, (W,)),
    "special.i1e": (special.i1e, None, (W,)),
    "numpy.linalg.det, 3 × 3": (jnp.linalg.det, determinant, (A3,)),
    "numpy.linalg.det, 4 × 4": (jnp.linalg.det, determinant, (A4,)),
    "numpy.linalg.slogdet": (
        lambda a: jnp.linalg.slogdet(a)[1],
        lambda a: jnp.log(determinant(a)),
        (A4,),
    ),
    "numpy.linalg.slogdet, 2 × 2": (
        lambda a: jnp.linalg.slogdet(a)[1],
        lambda a: jnp.log(determinant(a)),
        (A4[:2, :2],),
    ),
    "numpy.linalg.slogdet, by QR": (
        lambda a: jnp.linalg.slogdet(a, method="qr")[1],
        lambda a: jnp.log(determinant(a)),
        (A3,),
    ),
    "numpy.linalg.pinv": (jnp.linalg.pinv, lambda a: solution(a.T @ a, a.T), (A4[:, :2],)),
    "numpy.linalg.inv": (jnp.linalg.inv, None, (A3,)),
    "numpy.linalg.solve": (jnp.linalg.solve, solution, (A4, B4[:, 0])),
    "numpy.linalg.cholesky": (lambda a: jnp.linalg.cholesky((a + a.T) / 2), None, (S4[:3, :3],)),
    "numpy.linalg.eigh, values": (
        lambda a: jnp.linalg.eigvalsh((a + a.T) / 2),
        None,
        (S4[:3, :3],),
    ),
    "numpy.linalg.qr": (lambda a: jnp.abs(jnp.linalg.qr(a)[1]), None, (A3,)),
    "numpy.linalg.svd, values": (lambda a: jnp.linalg.svd(a, compute_uv=False), None, (A3,)),
    "scipy.linalg.solve_triangular": (
        lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=True),
        lambda a, b: solution(jnp.tril(a), b),
        (A3, B4[:3, 0]),
    ),
    "scipy.linalg.lu": (lambda a: jax.scipy.linalg.lu(a)[1:], None, (A3,)),
    "scipy.sparse.linalg.cg": (
        # in float64: it stops at a tolerance, which is no rounding error; and symmetric inside, as
        # everything that is promised a symmetric matrix: the audit moves each number by itself
        lambda a, b: jax.scipy.sparse.linalg.cg(lambda x: (a + a.T) @ x / 2, b, tol=1e-14)[0],
        lambda a, b: solution((a + a.T) / 2, b),
        (np.asarray(S4[:2, :2], np.float64), np.asarray(B4[:2, 0], np.float64)),
    ),
    "numpy.fft.rfft": (lambda x: jnp.abs(jnp.fft.rfft(x)), None, (X[0],)),
}
JAX = {name: Case("jax", *rest) for name, rest in _plain.items()}
