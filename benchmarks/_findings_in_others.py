"""Where derivatives of JAX are wrong: for each a case for the audit, and three lines by hand.

The plain functions beside them are those from the literature that keep their digits at this point.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from _rules_of_jax import Case, determinant
from jax.scipy import special


class Finding(NamedTuple):
    """What is wrong, a case that shows it, and lines that print (what comes, what is right)."""

    what: str
    case: Case
    by_hand: str


def _asymptotic(x, sign):
    """Sum 1 + s/2x² + 3/4x⁴ + 15s/8x⁶, the series of erfcx (s = −1) and of dawsn (s = 1)."""
    return 1 + sign / (2 * x**2) + 3 / (4 * x**4) + sign * 15 / (8 * x**6)


def _sinc(x):
    t = (np.pi * x) ** 2
    return 1 - t / 6 + t**2 / 120 - t**3 / 5040 + t**4 / 362880


def _log_ndtr(x):
    tail = 1 - 1 / x**2 + 3 / x**4 - 15 / x**6
    return -(x**2) / 2 - jnp.log(-x) - 0.5 * math.log(2 * math.pi) + jnp.log(tail)


def _by_eigenvectors(a):
    values, vectors = jnp.linalg.eigh((a + a.T) / 2)
    return (vectors * values**2) @ vectors.T


def _i0(x):
    return 1 + x**2 / 4 + x**4 / 64 + x**6 / 2304


_ZERO, _FAR = jnp.zeros(1), jnp.array([1000.0])
_SINGULAR = jnp.diag(jnp.array([1.0, 2.0, 0.0, 0.0]))
_HEAD = "import jax, jax.numpy as jnp; from jax.scipy import special\n"


def _case(f, g, *args):
    return Case("jax", f, g, args)


_FOUND = {
    "scipy.special.logsumexp, b = 0": (
        "the derivative by a weight that is 0 is 0",
        _case(
            lambda b: special.logsumexp(jnp.array([0.3, -0.2], b.dtype), b=b),
            lambda b: jnp.log(jnp.sum(b * jnp.exp(jnp.array([0.3, -0.2], b.dtype)))),
            jnp.array([1.0, 0.0]),
        ),
        "f = lambda b: special.logsumexp(jnp.zeros(2), b=jnp.array([1.0, b]))\n"
        "print(jax.grad(f)(0.0), (f(0.01) - f(-0.01)) / 0.02)",
    ),
    "numpy.i0 at 0": (
        "the second derivative is 0: the rule replaces the tangent by a constant",
        _case(jnp.i0, _i0, _ZERO),
        "f = jax.grad(jnp.i0)\nprint(jax.grad(f)(0.0), (f(0.01) - f(-0.01)) / 0.02)",
    ),
    "scipy.special.i0 at 0": (
        "the derivative is 1, not 0, and the second 1.5, not 0.5",
        _case(special.i0, _i0, _ZERO),
        "f = special.i0\nprint(jax.grad(f)(0.0), (f(0.01) - f(-0.01)) / 0.02)",
    ),
    "numpy.logaddexp at (inf, y)": (
        "the derivative by the finite argument is 1, although the value is inf for every y",
        _case(
            lambda y: jnp.logaddexp(jnp.full_like(y, jnp.inf), y),
            lambda y: jnp.full_like(y, jnp.inf) + 0 * y,
            jnp.ones(1),
        ),
        "f = lambda x: jax.grad(jnp.logaddexp, 1)(x, 0.0)\nprint(f(jnp.inf), f(80.0))",
    ),
    "scipy.special.expn, n = 0": (
        "the derivative is NaN: the rule needs n = −1, which the function refuses",
        _case(lambda x: special.expn(0, x), lambda x: jnp.exp(-x) / x, jnp.ones(1)),
        "f = lambda x: special.expn(0, x)\nprint(jax.grad(f)(1.0), (f(1.01) - f(0.99)) / 0.02)",
    ),
    "scipy.special.gammainc, a = 1, x = 0": (
        "the derivative is NaN, not 1",
        _case(lambda x: special.gammainc(jnp.ones_like(x), x), lambda x: 1 - jnp.exp(-x), _ZERO),
        "f = lambda x: special.gammainc(1.0, x)\nprint(jax.grad(f)(0.0), f(0.001) / 0.001)",
    ),
    "scipy.special.xlogy, x = 0, y = 0": (
        "the derivative by y is NaN, although the value is 0 for every y",
        _case(lambda y: special.xlogy(jnp.zeros_like(y), y), lambda y: 0 * y, _ZERO),
        "f = lambda y: jax.scipy.stats.beta.logpdf(y, 1.0, 2.0)  # log 2(1 − y)\n"
        "print(jax.grad(f)(0.0), (f(0.01) - f(0.0)) / 0.01)",
    ),
    "scipy.special.xlog1py, x = 0, y = −1": (
        "the derivative by y is NaN, although the value is 0 for every y",
        _case(lambda y: special.xlog1py(jnp.zeros_like(y), y), lambda y: 0 * y, -jnp.ones(1)),
        "f = lambda y: special.xlog1py(0.0, y)\n"
        "print(jax.grad(f)(-1.0), (f(-0.99) - f(-1.0)) / 0.01)",
    ),
    "numpy.power at (0, 0)": (
        "the derivative by the base is NaN, although x⁰ is 1 for every x",
        _case(lambda x: jnp.power(x, jnp.zeros_like(x)), lambda x: 1 + 0 * x, _ZERO),
        "f = lambda x: jnp.power(x, jnp.zeros(()))\n"
        "print(jax.grad(f)(0.0), (f(0.01) - f(-0.01)) / 0.02)",
    ),
    "numpy.sinc near 0": (
        "the derivatives lose digits: two terms cancel, and the series is used at 0 alone",
        _case(jnp.sinc, _sinc, jnp.array([1e-3])),
        "f = jax.grad(jnp.sinc)\nprint(f(1e-3), -(jnp.pi**2) / 3 * 1e-3)",
    ),
    "scipy.special.erfcx at 1000": (
        "the derivative loses all digits but one: 2x·erfcx(x) − 2/√π cancels",
        _case(
            special.erfcx,
            lambda x: _asymptotic(x, -1) / (x * math.sqrt(math.pi)),
            _FAR,
        ),
        "f = special.erfcx\nprint(jax.grad(f)(1e3), (f(1010.0) - f(990.0)) / 20)",
    ),
    "scipy.special.dawsn at 1000": (
        "the derivative loses all digits but one: 1 − 2x·D(x) cancels",
        _case(special.dawsn, lambda x: _asymptotic(x, 1) / (2 * x), _FAR),
        "f = special.dawsn\nprint(jax.grad(f)(1e3), (f(1010.0) - f(990.0)) / 20)",
    ),
    "scipy.special.log_ndtr at −1000": (
        "the derivative is off by 0.15 %, and at −10000 by 70 %: exp(−x²/2 − log_ndtr(x)) cancels",
        _case(special.log_ndtr, _log_ndtr, -_FAR),
        "f = special.log_ndtr\nprint(jax.grad(f)(-1e4), (f(-9e3) - f(-1.1e4)) / 2e3)",
    ),
    "numpy.linalg.det, rank n − 2": (
        "the second derivative is NaN in reverse over reverse, and 0 in forward over reverse",
        _case(jnp.linalg.det, determinant, _SINGULAR),
        "f = lambda t, u: jnp.linalg.det(jnp.diag(jnp.array([1.0, 2.0, t, u])))  # 2tu\n"
        "print(jax.jacfwd(jax.grad(f), 1)(0.0, 0.0), 2.0)",
    ),
    "numpy.linalg.det, rank n − 1": (
        "the second derivative is NaN",
        _case(jnp.linalg.det, determinant, jnp.diag(jnp.array([1.0, 2.0, 3.0, 0.0]))),
        "f = lambda t, u: jnp.linalg.det(jnp.diag(jnp.array([1.0, 2.0, t, u])))  # 2tu\n"
        "print(jax.grad(jax.grad(f), 1)(3.0, 0.0), 2.0)",
    ),
    "numpy.linalg.eigh, equal eigenvalues": (
        "the derivative of a function that is smooth there, V w² Vᵀ = A², is NaN",
        _case(_by_eigenvectors, lambda a: (a + a.T) @ (a + a.T) / 4, jnp.eye(3)),
        "f = lambda a, wv=jnp.linalg.eigh: jnp.trace((wv(a)[1] * wv(a)[0] ** 2) @ wv(a)[1].T)\n"
        "print(jax.grad(f)(jnp.eye(2))[0, 0], 2.0)",
    ),
}
FINDINGS = {
    f"{case.library}: {name}": Finding(what, case, _HEAD + by_hand)
    for name, (what, case, by_hand) in _FOUND.items()
}
