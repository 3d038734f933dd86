"""Options that flax's two layers share, and how two layers are compared."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import reference
from reference import relative

C = 3
FLOAT32 = np.finfo("float32").eps


def scale_init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, 0.5, 2)


INITIALIZERS = {"scale_init": scale_init, "bias_init": jax.nn.initializers.normal(1.0)}


class Case(NamedTuple):
    options: dict[str, Any] = {}
    shape: tuple[int, ...] = (6, C)
    dtype: Any = "float32"
    mask: str | None = None

    @property
    def eps(self):
        """The rounding of the sums: theirs of a float32 x are in float32, whatever y is in."""
        wide = self.dtype == "float64" and "dtype" not in self.options
        return np.finfo("float64").eps if wide else FLOAT32


CASES = {
    "defaults": Case(),
    "no scale": Case({"use_scale": False}),
    "no bias": Case({"use_bias": False}),
    "neither": Case({"use_scale": False, "use_bias": False}),
    "images": Case({}, (2, 3, 2, C)),
    "channels first": Case({"axis": 1}, (2, C, 4)),
    "axis in a tuple": Case({"axis": (-1,)}),
    "no feature axis": Case({"axis": ()}, (6,)),
    "one sample": Case({}, (1, C)),
    "no sample axis": Case({"axis": 0}, (C,)),
    "short average": Case({"momentum": 0.5, "epsilon": 0.1}),
    "two passes": Case({"use_fast_variance": False}),
    "bfloat16 out": Case({"dtype": jnp.bfloat16}),
    "float16 out": Case({"dtype": jnp.float16}),
    "float64 out": Case({"dtype": jnp.float64}),
    "bfloat16 parameters": Case({"param_dtype": jnp.bfloat16}),
    "float64 parameters": Case({"param_dtype": jnp.float64}),
    "bfloat16 in": Case(dtype=jnp.bfloat16),
    "float16 in": Case(dtype="float16"),
    "bfloat16 all": Case({"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}, dtype=jnp.bfloat16),
    "float64 in": Case(dtype="float64"),
    "float64 in, float32 out": Case({"dtype": jnp.float32}, dtype="float64"),
    "integers": Case(dtype="int32"),
    "booleans": Case(dtype="bool"),
    "complex": Case(dtype="complex64"),
    "mask of samples": Case(mask="samples"),
    "mask of places": Case({}, (2, 3, 2, C), mask="places"),
    "mask of integers": Case(mask="integers"),
}


def draw(case, rng):
    """x, the cotangent of y, and the mask."""
    x, y_bar = 3 * rng.normal(size=(2, *case.shape)) + 2
    if case.dtype == "complex64":
        x = x + 1j * y_bar
    mask = None
    if case.mask is not None:
        mask = rng.random((*case.shape[:-1], 1)) < 0.7
        mask[..., 0, :], mask[..., 1, :] = True, False
        if case.mask == "places":
            mask = mask & (rng.random(case.shape) < 0.8)
        mask = jnp.asarray(mask, "int32" if case.mask == "integers" else bool)
    return jnp.asarray(x).astype(case.dtype), y_bar, mask


def assert_alike(got, wanted, eps=FLOAT32):
    """Hold two trees to one structure, the same dtypes, and values equal to rounding by eps."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        rounded = jnp.issubdtype(b.dtype, jnp.inexact)
        least = max(eps, float(jnp.finfo(b.dtype).eps)) if rounded else 0
        a, b = (np.asarray(v).astype("complex128") for v in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=16 * least * max(np.abs(b).max(), 1))


def mean_of_1e5(both, rng):
    x = (rng.normal(size=(64, C)) + 1e5).astype("float32")
    wanted, mean, var = reference.batch_norm(x)[:3]
    (theirs, *_), (ours, *running) = both(x, momentum=0.0)
    assert relative(theirs, wanted) > 0.1 and relative(ours, wanted) < 1e-6
    assert_alike(running, [mean[0].astype("float32"), var[0].astype("float32")])


def std_of_1e25(both, rng):
    x = (1e25 * rng.normal(size=(8, C))).astype("float32")
    (theirs, *_), (ours, *running) = both(x)
    assert np.isnan(theirs).all()
    assert relative(ours, reference.batch_norm(x)[0]) < 1e-6
    assert_alike(running, [np.zeros(C, "float32"), np.ones(C, "float32")])  # 1e50 is no float32


def constant_channel(both, rng):
    x = np.full((8, C), 3.0, "float32")
    (theirs, *_), (ours, *_) = both(x, epsilon=0.0)
    assert np.isnan(theirs).all() and not np.any(ours)


def nan_in_the_batch(both, rng):
    x = rng.normal(size=(8, C)).astype("float32")
    x[1, 0] = np.nan
    (theirs, *spoiled), (ours, *running) = both(x)
    for y in (theirs, ours):
        assert np.isnan(y[:, 0]).all() and np.isfinite(y[:, 1:]).all()
    for statistic, wanted, start in zip(running, spoiled, (0, 1), strict=True):
        assert np.isnan(wanted[0]) and statistic[0] == start
        np.testing.assert_allclose(statistic[1:], wanted[1:], rtol=1e-5)


def empty_batch(both, rng):
    (_, *spoiled), (_, *running) = both(np.zeros((0, C), "float32"))
    assert np.isnan(spoiled).all()
    assert_alike(running, [np.zeros(C, "float32"), np.ones(C, "float32")])


def all_masked(both, rng):
    x = rng.normal(size=(8, C)).astype("float32")
    mask = np.array([[True, True, False]] * 8)
    (theirs, *spoiled), (ours, *running) = both(x, mask)
    assert np.isnan(theirs[:, 2]).all() and not np.any(ours[:, 2])
    assert np.isnan([s[2] for s in spoiled]).all() and [s[2] for s in running] == [0, 1]
    np.testing.assert_allclose(ours[:, :2], theirs[:, :2], atol=1e-5)


def unequal_masks(both, rng):
    x = rng.normal(size=(2, 8, C)).astype("float32")
    mask = np.arange(16).reshape(2, 8, 1) < 9  # 8 samples count of one shard, 1 of the other
    wanted = reference.batch_norm(x, axis=(2,), weights=np.where(mask, 1, 1e-30))[0]
    (theirs, *_), (ours, *_) = both(x, mask, axis_name="shards")
    assert relative(theirs, wanted) > 0.1 and relative(ours, wanted) < 1e-6


DIFFERENCES = {
    "mean of 1e5 standard deviations": mean_of_1e5,
    "standard deviation of 1e25": std_of_1e25,
    "constant channel, ε = 0": constant_channel,
    "NaN or infinity in a batch": nan_in_the_batch,
    "empty batch": empty_batch,
    "channel without a place in the mask": all_masked,
    "masks or shards of unlike weight across devices": unequal_masks,
}
