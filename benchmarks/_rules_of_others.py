"""Functions of Optax, Flax, Equinox, Lineax, Optimistix and Diffrax with derivatives of their own.

Cases as in `_rules_of_jax.py`, and `collect`, which returns those of all that is installed.
"""

from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
from _rules_of_jax import A4, B4, JAX, NETWORKS, S4, SMALL, SURE, Case, P, X, Y, solution
from jax import nn
from optax import losses, projections

LIBRARIES = ("jax", "optax", "flax", "equinox", "lineax", "optimistix", "diffrax")


def _simplex(x):
    """Project on the unit simplex: the threshold that the sorted numbers give."""
    u = jnp.sort(x)[::-1]
    thresholds = (jnp.cumsum(u) - 1) / jnp.arange(1, len(x) + 1)
    return jnp.maximum(x - thresholds[jnp.sum(u > thresholds) - 1], 0)


_a = jnp.array([0.5, -1.0, 2.0, 0.3])
OPTAX = {
    name: Case("optax", *rest)
    for name, rest in {
        "sigmoid_focal_loss": (losses.sigmoid_focal_loss, None, (X, nn.sigmoid(Y))),
        "sparsemax_loss": (losses.sparsemax_loss, None, (X, SURE)),
        "convex_kl_divergence": (
            losses.convex_kl_divergence,
            lambda x, t: jnp.sum(t * (jnp.log(t) - x) + jnp.exp(x) - t, -1),
            (nn.log_softmax(X), P),
        ),
        "perceptron_loss": (
            losses.perceptron_loss,
            lambda x, t: jnp.maximum(0, -t * x),
            (X, 2 * SURE - 1),
        ),
        "projection_simplex": (projections.projection_simplex, _simplex, (X[0],)),
        "projection_l1_ball": (projections.projection_l1_ball, None, (_a,)),
        "projection_l1_sphere": (projections.projection_l1_sphere, None, (_a,)),
        "projection_l2_ball": (
            projections.projection_l2_ball,
            lambda x: x / jnp.sqrt(jnp.sum(x * x)),
            (_a,),
        ),
        "projection_l2_sphere": (
            projections.projection_l2_sphere,
            lambda x: x / jnp.sqrt(jnp.sum(x * x)),
            (_a,),
        ),
        "projection_hyperplane": (
            lambda x: projections.projection_hyperplane(x, _a.astype(x.dtype), 1.0),
            lambda x: x - (_a @ x - 1) / (_a @ _a) * _a,
            (X[0],),
        ),
    }.items()
}


def _flax():
    """Return the rule of Flax that is no straight-through estimate."""
    from flax.linen import fp8_ops

    contract = (((1,), (0,)), ((), ()))

    return {
        "linen.fp8_ops.dot_general_with_precision": (
            lambda a, b: fp8_ops.dot_general_with_precision(a, b, contract),
            lambda a, b: a @ b,
            (X, B4),
        ),
    }


def _equinox():
    """Return Equinox' rules: decorators, and loops that recompute what they do not save."""
    import equinox as eqx
    import equinox.internal as eqxi

    @eqx.filter_custom_vjp
    def cube(x):
        return x**3

    cube.def_fwd(lambda perturbed, x: (x**3, x))
    cube.def_bwd(lambda x, y_bar, perturbed, _: 3 * x**2 * y_bar)

    @eqx.filter_custom_jvp
    def quartic(x):
        return x**4

    @quartic.def_jvp
    def quartic_jvp(primals, tangents):
        return quartic(*primals), 4 * primals[0] ** 3 * tangents[0]

    def loop(x, kind):
        def body(carry):
            return carry[0] + 1, jnp.sin(carry[1]) + x

        run = eqxi.while_loop(lambda c: c[0] < 5, body, (0, x), max_steps=8, kind=kind)
        return run[1]

    def scan(x):
        return eqxi.scan(
            lambda c, xi: (jnp.sin(c) * xi, c), x[0], x, kind="checkpointed", checkpoints=2
        )

    def unrolled(x):
        y = x
        for _ in range(5):
            y = jnp.sin(y) + x
        return y

    return {
        "filter_custom_vjp": (cube, lambda x: x**3, (X[0],)),
        "filter_custom_jvp": (quartic, lambda x: x**4, (X[0],)),
        "internal.while_loop, checkpointed": (
            partial(loop, kind="checkpointed"),
            unrolled,
            (SMALL,),
        ),
        "internal.while_loop, bounded": (partial(loop, kind="bounded"), unrolled, (SMALL,)),
        "internal.scan, checkpointed": (
            scan,
            lambda x: jax.lax.scan(lambda c, xi: (jnp.sin(c) * xi, c), x[0], x),
            (X[0],),
        ),
        "filter_checkpoint": (eqx.filter_checkpoint(jnp.sin), lambda x: jnp.sin(x), (SMALL,)),
        "nn.LayerNorm": (
            eqx.nn.LayerNorm(4),
            lambda x: (x - x.mean()) / jnp.sqrt(x.var() + 1e-5),
            (X[0],),
        ),
    }


def _lineax():
    """Return Lineax' norms and solvers."""
    import lineax as lx

    def solve(a, b, solver, tags=()):
        return lx.linear_solve(lx.MatrixLinearOperator(a, tags), b, solver).value

    definite = lx.positive_semidefinite_tag
    small, wide = B4[:, 0], A4[:, :2]
    return {
        "internal.two_norm": (lx.internal.two_norm, lambda x: jnp.sqrt(jnp.sum(x * x)), (X,)),
        "internal.rms_norm": (lx.internal.rms_norm, lambda x: jnp.sqrt(jnp.mean(x * x)), (X,)),
        "internal.max_norm": (lx.internal.max_norm, lambda x: jnp.max(jnp.abs(x)), (X,)),
        "LU": (partial(solve, solver=lx.LU()), solution, (A4, small)),
        "QR": (
            partial(solve, solver=lx.QR()),
            lambda a, b: solution(a.T @ a, a.T @ b),
            (wide, small),
        ),
        "SVD": (
            partial(solve, solver=lx.SVD()),
            lambda a, b: solution(a.T @ a, a.T @ b),
            (wide, small),
        ),
        "Cholesky": (
            lambda a, b: solve((a + a.T) / 2, b, lx.Cholesky(), definite),
            lambda a, b: solution((a + a.T) / 2, b),
            (S4, small),
        ),
        "Triangular": (
            lambda a, b: solve(jnp.tril(a), b, lx.Triangular(), lx.lower_triangular_tag),
            lambda a, b: solution(jnp.tril(a), b),
            (A4, small),
        ),
        "Diagonal": (
            lambda d, b: lx.linear_solve(lx.DiagonalLinearOperator(d), b).value,
            lambda d, b: b / d,
            (jnp.diagonal(A4), small),
        ),
        "Tridiagonal": (
            lambda d, b: (
                lx.linear_solve(lx.TridiagonalLinearOperator(d, d[1:] / 5, d[1:] / 7), b).value
            ),
            lambda d, b: solution(
                jnp.diag(d) + jnp.diag(d[1:] / 5, -1) + jnp.diag(d[1:] / 7, 1), b
            ),
            (jnp.diagonal(A4), small),
        ),
    }


def _optimistix():
    """Return implicit derivatives: those of what an iteration converges to."""
    import optimistix as optx

    newton = optx.Newton(rtol=1e-13, atol=1e-13)
    fixed = optx.FixedPointIteration(rtol=1e-14, atol=1e-14)
    wide = np.array([2.0, 3.0])  # float64, as with cg: it stops at a tolerance
    return {
        "root_find": (
            lambda a: optx.root_find(lambda x, a: x**3 - a, newton, jnp.ones_like(a), a).value,
            lambda a: a ** (1 / 3),
            (wide,),
        ),
        "fixed_point": (
            lambda a: (
                optx.fixed_point(lambda x, a: (x + a / x) / 2, fixed, jnp.ones_like(a), a).value
            ),
            jnp.sqrt,
            (wide,),
        ),
    }


def _diffrax():
    """Return an equation solved in four steps, a polynomial of its rate, by each adjoint."""
    import diffrax as dfx

    def decay(rate, adjoint):
        term = dfx.ODETerm(lambda t, y, rate: -rate * y)
        solved = dfx.diffeqsolve(
            term, dfx.Euler(), 0.0, 1.0, 0.25, jnp.ones_like(rate), rate, adjoint=adjoint
        )
        return solved.ys[-1]

    def plain(rate):
        return (1 - rate / 4) ** 4

    return {
        "RecursiveCheckpointAdjoint": (
            partial(decay, adjoint=dfx.RecursiveCheckpointAdjoint()),
            plain,
            (SMALL,),
        ),
        "DirectAdjoint": (partial(decay, adjoint=dfx.DirectAdjoint()), plain, (SMALL,)),
        "ForwardMode": (
            partial(decay, adjoint=dfx.ForwardMode()),
            plain,
            (SMALL,),
            {"modes": ("value", "jvp")},  # it has no other
        ),
    }


_INSTALLED = {"flax": _flax, "equinox": _equinox, "lineax": _lineax} | {
    "optimistix": _optimistix,
    "diffrax": _diffrax,
}


def collect() -> dict[str, Case]:
    """Return the cases of all libraries that are installed, by "library: name"."""
    found = {f"{case.library}: {name}": case for name, case in (NETWORKS | JAX | OPTAX).items()}
    for library, cases in _INSTALLED.items():
        if find_spec(library):
            found |= {f"{library}: {name}": Case(library, *one) for name, one in cases().items()}
    return found
