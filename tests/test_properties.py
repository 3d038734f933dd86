"""Whatever the shape, axes, weights, dtype and ε: three rules, and NumPy's float64, agree."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnjax import batch_norm

RULES = ("vjp", "jvp", "autodiff")
# few, since each new one is compiled
CASES = [((6, 3), (-1,)), ((3, 2, 4), (1,)), ((2, 3, 2, 4), (3, 1)), ((2, 2, 3, 2), (-1,))]
ROUNDINGS = 16  # of the result's dtype, as a part of the terms that were summed


@partial(quick_jit, static_argnames=("axis", "eps"))
def everything(x, gamma, beta, where, y_bar, mean_bar, var_bar, *, axis, eps):
    """Return (y, moments) and (x̄, γ̄, β̄) by every rule."""

    def by(rule):
        def f(x, gamma, beta):
            return batch_norm(x, gamma, beta, where=where, axis=axis, eps=eps, rule=rule)

        (y, moments), pull = jax.vjp(f, x, gamma, beta)
        bars = moments._replace(mean=mean_bar, var=var_bar, count=jnp.zeros_like(var_bar))
        return y, moments, pull((y_bar, bars))

    return {rule: by(rule) for rule in RULES}


@st.composite
def batches(draw):
    shape, axis = draw(st.sampled_from(CASES))
    dtype = jnp.dtype(draw(st.sampled_from(["float16", "bfloat16", "float32", "float64"])))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    features = sorted(a % len(shape) for a in axis)
    channels = tuple(shape[a] for a in features)

    def numbers(shape, dtype=dtype, offset=0.0):
        return jnp.asarray(rng.normal(size=shape) + offset, dtype)

    def parameter():
        kind = draw(st.sampled_from([None, dtype, jnp.promote_types(dtype, jnp.float32)]))
        return None if kind is None else numbers(channels, kind)

    spread = draw(st.sampled_from(["none", "samples", "all", "last axis"]))
    where = None
    if spread != "none":
        by_sample = tuple(1 if a in features else s for a, s in enumerate(shape))
        size = {"samples": by_sample, "all": shape, "last axis": shape[-1:]}[spread]
        # powers of two: float64 finds the mean of equal values exactly, so that σ² = 0 is 0
        where = rng.choice([0, 0.5, 1, 1, 2], size).astype(np.float32)
        where = where > 0 if draw(st.booleans()) else where
    sums = jnp.promote_types(dtype, jnp.float32)
    return dict(
        x=numbers(shape, offset=draw(st.sampled_from([0.0, 5.0, -300.0]))),
        gamma=parameter(),
        beta=parameter(),
        where=where,
        y_bar=numbers(shape),
        mean_bar=numbers(channels, sums),
        var_bar=numbers(channels, sums),
        axis=axis,
        eps=draw(st.sampled_from([0.0, 1e-5, 0.3])),
    )


def check(batch):
    ours = everything(**batch)
    x, gamma, beta, where, y_bar, mean_bar, var_bar = (
        None if batch[k] is None else np.asarray(batch[k], np.float64)
        for k in ("x", "gamma", "beta", "where", "y_bar", "mean_bar", "var_bar")
    )
    how = dict(axis=batch["axis"], eps=batch["eps"], weights=where)
    scale, shift = (1.0 if gamma is None else gamma), (0.0 if beta is None else beta)
    y, mean, var, n, x_hat, r = reference.batch_norm(x, scale, shift, **how)
    bars = dict(mean_bar=mean_bar, var_bar=var_bar)
    x_bar, gamma_bar, beta_bar = reference.pull_back(x, y_bar, scale, **bars, **how)
    # the size of the terms that cancel
    kept = mean.shape
    g, m, v = (
        np.abs(np.broadcast_to(np.reshape(a, kept) if np.ndim(a) else a, kept))
        for a in (scale, mean_bar, var_bar)
    )
    samples = tuple(a for a, s in enumerate(kept) if a not in {b % x.ndim for b in batch["axis"]})
    w = np.broadcast_to(1.0 if where is None else where, x.shape)
    t, safe = np.where(w > 0, np.abs(y_bar), 0), np.where(n > 0, n, 1)
    # μ is a sum of terms as large as σ: so is its rounding, also where x̂ is next to nothing
    hat = np.abs(x_hat) + np.sqrt(var) * r
    a, b = t.sum(samples, keepdims=True), (t * hat).sum(samples, keepdims=True)
    deviations = np.where(w > 0, np.abs(x - mean), 0)
    of_x = g * r * (t + w / safe * (a + hat * b)) + w / safe * (m + 2 * v * deviations)
    # NumPy's float64 rounds μ to one number, which costs x̂ what is left of |x| + |μ| there
    own = np.finfo(np.float64).eps * (np.abs(np.where(w > 0, x, 0)) + np.abs(mean)) * r
    b_own = (t * own).sum(samples, keepdims=True)
    x_own = g * r * w / safe * (own * b + hat * b_own) + w / safe * 2 * v * own / (
        np.where(r > 0, r, 1)
    )
    theirs = (g * own, x_own, b_own, 0 * b)
    terms = (np.abs(y) + 2 * g * hat, of_x, b, np.abs(y_bar).sum(samples, keepdims=True))
    wanted = (y, x_bar, gamma_bar, beta_bar)
    given_dtypes = [
        batch[k] if batch[k] is None else batch[k].dtype for k in ("x", "gamma", "beta")
    ]
    for y_ours, moments, pulled in ours.values():
        for got, dtype, right, size, more in zip(
            (y_ours, *pulled), (batch["x"].dtype, *given_dtypes), wanted, terms, theirs, strict=True
        ):
            assert (got is None) == (dtype is None)
            if got is None:
                continue
            assert got.dtype == dtype
            got = np.asarray(got, np.float64)
            limit = float(jnp.finfo(dtype).eps) * size + more
            limit = ROUNDINGS * np.reshape(limit, got.shape)
            assert np.all(np.abs(got - np.reshape(right, got.shape)) <= limit + 1e-300)
        rounding = ROUNDINGS * float(jnp.finfo(moments.mean.dtype).eps)
        for got, right, size in (
            (moments.mean, mean, np.abs(mean) + np.sqrt(var)),
            (moments.var, var, var),
            (moments.count, n, n),
        ):
            got = np.asarray(got, np.float64).reshape(kept)
            assert np.all(np.abs(got - right) <= rounding * size)


# the same examples always, and no clock: neither a deadline nor a limit on drawing them
STABLE = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@settings(STABLE, max_examples=5)
@given(batches())
def test_all_rules_give_what_the_equations_say(batch):
    check(batch)


@pytest.mark.slow
@settings(STABLE, max_examples=120)
@given(batches())
def test_all_rules_give_what_the_equations_say_over_many_cases(batch):
    check(batch)
