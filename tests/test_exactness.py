"""float32 against float64 on the same numbers: every result is right to a few roundings."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import relative

from bnjax import _xla, batch_norm, layout

OFFSETS = [0.0, 1.0, 1e2, 1e4, 1e6]
# (shape, feature axes)
SMALL = {
    "channels last": ((257, 5), (-1,)),
    "large enough for a branch": ((2048, 80), (-1,)),
    "channels first": ((8, 5, 6, 7), (1,)),
    "two feature axes": ((6, 3, 50, 4), (1, -1)),
    "few channels": ((40000, 3), (-1,)),
}


@partial(jax.jit, static_argnames="axis")
def everything(x, gamma, beta, y_bar, w=None, mean_guess=None, *, axis):
    """Return y, x̄, γ̄, β̄, mean and variance."""

    def f(*args):
        y, moments = batch_norm(*args, axis=axis, where=w, mean_guess=mean_guess)
        return y, moments

    (y, moments), pull = jax.vjp(f, x, gamma, beta)
    return y, *pull((y_bar, jax.tree.map(jnp.zeros_like, moments))), moments.mean, moments.var


def errors(x, axis, weights=None, guess=None, seed=1):
    """The relative error of each result, as norms; of the mean, as a part of max(|mean|, std)."""
    rng = np.random.default_rng(seed)
    axis = tuple(sorted(a % x.ndim for a in axis))
    channels = [x.shape[a] for a in axis]
    gamma, beta = (rng.normal(size=(2, *channels)) + 1.5).astype(np.float32)
    y_bar = rng.normal(size=x.shape).astype(np.float32)
    guess = guess if guess is None else np.full(channels, guess, np.float32)
    got = everything(x, gamma, beta, y_bar, weights, guess, axis=axis)
    assert all(a.dtype == jnp.float32 for a in got)
    got = [np.asarray(a, np.float64) for a in got]
    y, mean, var, _, x_hat, _ = reference.batch_norm(x, gamma, beta, axis=axis, weights=weights)
    x_bar, gamma_bar, beta_bar = reference.pull_back(x, y_bar, gamma, axis=axis, weights=weights)
    size = np.maximum(np.abs(mean), np.sqrt(var))
    return {
        "y": relative(got[0], y),
        "x_bar": relative(got[1], x_bar),
        # sums of either sign may be next to nothing: as a part of the terms' norm
        "gamma_bar": np.linalg.norm(got[2] - gamma_bar.reshape(channels))
        / np.linalg.norm(y_bar * x_hat),
        "beta_bar": np.linalg.norm(got[3] - beta_bar.reshape(channels)) / np.linalg.norm(y_bar),
        "mean": np.max(np.abs(got[4].reshape(mean.shape) - mean) / np.where(size > 0, size, 1)),
        "var": relative(got[5], var.reshape(channels)),
    }


def batch(shape, axis, offset, row=None, seed=0):
    """Unit normal numbers around `offset`; one sample, in half `row`, far from all others."""
    x = np.random.default_rng(seed).normal(size=shape) + offset
    if row is not None:
        features = [a % x.ndim for a in axis]
        at = [slice(None) if a in features else s * row // 2 for a, s in enumerate(shape)]
        at = [min(i, s - 1) if isinstance(i, int) else i for i, s in zip(at, shape, strict=True)]
        x[tuple(at)] = 0 if offset >= 1e4 else offset + 1e4
    return x.astype(np.float32)


def mask_or_weights(kind, shape):
    rng = np.random.default_rng(2)
    if kind == "none":
        return None
    kept = rng.random(shape[:1] + (1,) * (len(shape) - 1)) > 0.3
    kept[[0, len(kept) // 2, -1]] = True  # the rows that may lie far out count
    if kind == "mask":
        return kept
    return (kept * rng.uniform(0.1, 3, kept.shape)).astype(np.float32)


def misses(shape, axis, kind, limit, offsets=OFFSETS, rows=(None, 0, 1, 2), guess=None):
    """Tell every result that is off by more than `limit`, and under which data."""
    weights = mask_or_weights(kind, shape)
    found = {}
    for offset in offsets:
        for row in rows:
            x = batch(shape, axis, offset, row)
            for what, error in errors(x, axis, weights, guess).items():
                if not error <= limit:
                    found[what, offset, row] = f"{error:.1e}"
    return found


# by default each shape once, the first with and without weights
QUICK = {
    ("channels last", "none"),
    ("channels last", "weights"),
    ("large enough for a branch", "weights"),
    ("channels first", "mask"),
    ("two feature axes", "weights"),
    ("few channels", "none"),
}


# by default offsets that tell apart what may go wrong, with an outlier in the first row or the last
SOME = {"offsets": [0.0, 1e2, 1e6], "rows": (None, 0, 2)}


@pytest.mark.parametrize("data", [SOME, pytest.param({}, marks=pytest.mark.slow)], ids=bool)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product(SMALL, ("none", "mask", "weights"))
    ],
)
def test_no_offset_and_no_outlier_costs_digits(name, kind, data):
    assert not misses(*SMALL[name], kind, 5e-7, **data)


@pytest.mark.parametrize(
    ("channels", "kind"),
    [
        pytest.param(1, "none", marks=pytest.mark.slow),
        (1, "weights"),
        pytest.param(3, "none", marks=pytest.mark.slow),
        pytest.param(3, "weights", marks=pytest.mark.slow),
    ],
)
def test_a_million_samples_are_summed_exactly(channels, kind):
    shape = (1_000_000, channels)
    assert not misses(shape, (-1,), kind, 1e-6, [1e2, 1e6], [None, 1])


@pytest.fixture
def as_on_an_accelerator(monkeypatch):
    """What other platforms are given to compute, computed here, in sums as short as theirs."""
    monkeypatch.setattr(layout, "plain", layout.of)
    monkeypatch.setattr(_xla, "by_platform", lambda x, *, elsewhere, **others: elsewhere(x))
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("kind", ["none", pytest.param("weights", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [
        "channels last",
        *(pytest.param(name, marks=pytest.mark.slow) for name in list(SMALL)[1:]),
    ],
)
def test_nor_does_it_in_what_an_accelerator_computes(name, kind, as_on_an_accelerator):
    assert not misses(*SMALL[name], kind, 5e-7)


def test_no_guess_of_the_mean_costs_digits(as_on_an_accelerator):
    for guess in (3.0, -1e4, 1e9, 1e12, 1e16, 1e30, np.nan, np.inf):  # one program for all
        found = misses(*SMALL["channels last"], "none", 5e-7, [0.0, 1e4], [None, 1], guess)
        assert not found, guess


def test_a_guess_near_the_mean_is_not_left(as_on_an_accelerator):
    """Far from the mean the sums are formed again; near it they are not."""
    x = batch((300, 4), (-1,), 1e3)
    attempts = []

    def count(fail, again, first, **_):
        attempts.append(bool(np.any(fail(0, first))))
        return first

    for guess in (None, np.full(4, 1e3, np.float32)):
        with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
            patch.setattr(_xla, "retry", count)
            batch_norm(x, mean_guess=guess)
    assert attempts == [True, False]
