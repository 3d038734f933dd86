"""Twelve kinds of wrong derivative rules, each beside the right one and a plain reference.

Every kind is a function of its own arguments. `together` makes one function of them all, so that
one compilation serves twelve: a leaf's name then starts with the kind that it belongs to.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap


def rule(forward, pull):
    """Return `forward` with the pull-back pull(args, y, y_bar)."""

    @jax.custom_vjp
    def f(*args):
        return forward(*args)

    f.defvjp(
        lambda *args: (forward(*args), (args, forward(*args))),
        lambda saved, y_bar: pull(*saved, y_bar),
    )
    return f


def swish(x):
    return x * jax.nn.sigmoid(x)


def swish_pull(args, y, y_bar, factor=1.0):
    s = jax.nn.sigmoid(args[0])
    return (factor * y_bar * (s + y * (1 - s)),)


def centre(x):
    return x - jnp.mean(x, 0, keepdims=True)


def affine(x, W, b):
    return x @ W + b


def affine_pull(args, y, y_bar, transposed=False, summed=True):
    x, W, _ = args
    return (
        y_bar @ (W if transposed else W.T),
        x.T @ y_bar,
        jnp.sum(y_bar, 0, keepdims=True) if summed else y_bar,
    )


def other(dtype):
    return jnp.float16 if dtype == jnp.float32 else jnp.float32


def root(x):
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def root_pull(args, y, y_bar, safe=True):
    x = args[0]
    if safe:
        return (jnp.where(x > 0, y_bar / (2 * jnp.where(x > 0, y, 1)), 0),)
    return (jnp.where(x > 0, 1, 0).astype(x.dtype) * y_bar / (2 * y),)


def between(x):
    """Centre over axes that do not lie side by side."""
    return x - jnp.mean(x, (0, 2), keepdims=True)


def between_pull(args, y, y_bar, right=True):
    if right:
        return (between(y_bar),)
    rows = y_bar.reshape(y_bar.shape[1], -1)
    return (y_bar - jnp.mean(rows, 1).reshape(1, -1, 1),)


def vmapped_pull(factor):
    """Return a pull-back of sin whose own batching rule has this factor."""

    @custom_vmap
    def times_cos(x, y_bar):
        return jnp.cos(x) * y_bar

    @times_cos.def_vmap
    def _(axis_size, in_batched, x, y_bar):
        x, y_bar = (
            a if batched else jnp.broadcast_to(a, (axis_size, *a.shape))
            for a, batched in zip((x, y_bar), in_batched, strict=True)
        )
        return factor * jnp.cos(x) * y_bar, True

    # a custom_vmap has no reverse mode of its own
    @jax.custom_jvp
    def differentiable(x, y_bar):
        return times_cos(x, y_bar)

    differentiable.defjvps(
        lambda x_dot, _, x, y_bar: -jnp.sin(x) * y_bar * x_dot,
        lambda y_bar_dot, _, x, y_bar: jnp.cos(x) * y_bar_dot,
    )
    return lambda args, y, y_bar: (differentiable(args[0], y_bar),)


def cubic(x):
    return x**3 - 2 * x**2


# kind: (plain reference, pull-back, the wrong one, what draws its arguments)
matrix = lambda rng: (rng.normal(size=(3, 2)),)  # noqa: E731
layer = lambda rng: tuple(rng.normal(size=s) for s in ((2, 3), (3, 3), (1, 3)))  # noqa: E731
KINDS = {
    "factor": (swish, swish_pull, partial(swish_pull, factor=1.0005), matrix),
    "sign": (swish, swish_pull, partial(swish_pull, factor=-1.0), matrix),
    "mean": (
        centre,
        lambda args, y, y_bar: (centre(y_bar),),
        lambda args, y, y_bar: (y_bar,),
        matrix,
    ),
    "transposed": (affine, affine_pull, partial(affine_pull, transposed=True), layer),
    "stale": (
        jnp.tanh,
        lambda args, y, y_bar: (y_bar * (1 - y) * (1 + y),),
        lambda args, y, y_bar: (y_bar * (1 - args[0]) * (1 + args[0]),),
        matrix,
    ),
    "dtype": (
        swish,
        swish_pull,
        lambda args, y, y_bar: (swish_pull(args, y, y_bar)[0].astype(other(y.dtype)),),
        matrix,
    ),
    "unsummed": (affine, affine_pull, partial(affine_pull, summed=False), layer),
    "vmap": (jnp.sin, vmapped_pull(1.0), vmapped_pull(1.5), matrix),
    "second": (
        swish,
        swish_pull,
        lambda args, y, y_bar: swish_pull(jax.lax.stop_gradient(args), y, y_bar),
        matrix,
    ),
    "masked": (
        root,
        root_pull,
        partial(root_pull, safe=False),
        lambda rng: (rng.uniform(0.5, 2, (3, 2)) * np.array([[1, 0], [1, 1], [0, 1]]),),
    ),
    "axes": (
        between,
        between_pull,
        partial(between_pull, right=False),
        lambda rng: (rng.normal(size=(2, 3, 2)),),
    ),
    "power": (
        cubic,
        lambda args, y, y_bar: (y_bar * (3 * args[0] ** 2 - 4 * args[0]),),
        lambda args, y, y_bar: (y_bar * 3 * args[0] ** 2,),
        matrix,
    ),
}


def together(kinds, which):
    """Make one function of a dict of arguments; `which`: "plain", "right" or "wrong"."""
    functions = {}
    for kind in kinds:
        plain, right, wrong, _ = KINDS[kind]
        pulls = {"right": right, "wrong": wrong}
        functions[kind] = rule(plain, pulls[which]) if which in pulls else plain

    def f(args):
        return {kind: function(*args[kind]) for kind, function in functions.items()}

    return f


def arguments(kinds, seed, dtype):
    rng = np.random.default_rng(seed)
    draws = {kind: KINDS[kind][3](rng) for kind in kinds}
    return (jax.tree.map(lambda a: jnp.asarray(a, dtype), draws),)
