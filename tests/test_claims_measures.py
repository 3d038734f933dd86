"""What the claims on shift, regularization, statistics and geometry measure and decide."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnjax import claims, init
from bnjax.claims import (
    DEPENDS,
    NOT_SEEN,
    SEEN,
    Measured,
    Setting,
    error_alignment,
    shifts,
    small_sets,
    stopped_weights,
    synced_inputs,
)
from bnjax.claims.training import Job, sgd, train
from bnjax.network import Network

CLAIMS = {claim.name: claim for claim in claims.CLAIMS}
KINDS = ("baseline", "bn", "noisy")


def shifted(baseline, bn, noisy=2.0, steps=(300, 100, 100)):
    """What `shifts.run` measures: shifts of three layers, and when 95 % is reached."""
    at = np.array([100, 200, 300])
    values = {}
    for kind, shift, step in zip(KINDS, (baseline, bn, noisy), steps, strict=True):
        values |= {f"{kind}_{name}": np.full((3, 3, 2), shift) for name in ("inputs", "gradient")}
        values[f"{kind}_accuracy"] = np.tile(np.where(at >= step, 0.97, 0.5), (3, 1))
    return Measured({"step": tuple(at.tolist()), "target": (0.95,)}, values)


def on_small_sets(baseline, bn, dropout=(0.0,)):
    """What `small_sets.run` measures: test accuracies by p, of networks that know their set."""
    test = {"baseline": baseline, "bn": bn}
    values = {f"{k}_accuracy": np.tile(np.array(v, float), (3, 2, 1)) for k, v in test.items()}
    values |= {f"{k}_training": np.ones((3, 2, len(v))) for k, v in test.items()}
    return Measured({"samples": (70, 140), "dropout": dropout}, values)


def by_decay(*lost):
    """What `running_statistics` measures where statistics lose so much against precise ones."""
    names = [*map(str, range(len(lost) - 3)), "0.9", "0.999", "average", "precise"]
    names[0] = "0"
    accuracy = np.tile(0.98 - np.array([*lost, 0.0]), (3, 4, 1))
    return Measured({"statistics": tuple(names), "step": (1, 2, 3, 4)}, {"accuracy": accuracy})


def stopped(moved):
    """What `stopped_weights` measures where the planted weights have moved so far."""
    path = np.full((3, 2), moved)
    values = {"start": np.zeros(3), "gradient": path, "sine": path, "moved": path}
    return Measured({"step": (1, 2)}, values)


def correlated(bn):
    """What `synced_inputs` measures with this correlation of the normalized pairs."""
    correlations = {"baseline_pairs": 0.9, "baseline_others": 0.2, "bn_others": 0.2, "bn_pairs": bn}
    values = {name: np.full((3, 2), value) for name, value in correlations.items()}
    return Measured({"step": (1, 2)}, values)


def aligned(distance, end):
    """What `error_alignment` measures with this distance from −R, and cos θ1 after training."""
    paths = {"fixed": np.tile([0.0, -0.8], (3, 1)), "training": np.tile([0.0, end], (3, 1))}
    paths["size"] = np.abs(paths["training"])
    values = paths | {"limit": np.full(3, -0.8), "distance": np.full(3, distance)}
    return Measured({"step": (0, 1), "fixed_step": (0, 1)}, values)


@pytest.mark.parametrize(
    ("name", "measured", "verdict"),
    [
        ("input_shift", shifted(0.1, 0.05), SEEN),
        ("input_shift", shifted(0.1, 0.06), DEPENDS),
        ("input_shift", shifted(0.1, 0.1), NOT_SEEN),
        ("gradient_shift", shifted(0.5, 0.2), SEEN),
        ("gradient_shift", shifted(0.5, 0.4), DEPENDS),
        ("gradient_shift", shifted(0.5, 0.6), NOT_SEEN),
        ("stable_inputs", shifted(0.1, 0.05, steps=(300, 100, 300)), SEEN),
        ("stable_inputs", shifted(0.1, 0.05, steps=(300, 100, 200)), DEPENDS),
        ("stable_inputs", shifted(0.1, 0.05, steps=(300, 100, 100)), NOT_SEEN),
        ("stable_inputs", shifted(0.1, 0.05, noisy=0.05), DEPENDS),
        ("stable_inputs", shifted(0.1, 0.05, steps=(900, 100, 900)), DEPENDS),
        ("regularization", on_small_sets([0.8], [0.9]), SEEN),
        ("regularization", on_small_sets([0.8], [0.805]), DEPENDS),
        ("regularization", on_small_sets([0.9], [0.8]), NOT_SEEN),
        ("dropout", on_small_sets([0.8, 0.9], [0.9, 0.9], (0.0, 0.5)), SEEN),
        ("dropout", on_small_sets([0.8, 0.9], [0.9, 0.907], (0.0, 0.5)), DEPENDS),
        ("dropout", on_small_sets([0.8, 0.9], [0.9, 0.95], (0.0, 0.5)), NOT_SEEN),
        ("running_statistics", by_decay(0.0, 0.0, 0.02, 0.0), SEEN),
        ("running_statistics", by_decay(0.0, 0.0, 0.007, 0.0), DEPENDS),
        ("running_statistics", by_decay(0.0, 0.0, 0.0, 0.0), NOT_SEEN),
        ("stopped_weights", stopped(0.05), SEEN),
        ("stopped_weights", stopped(0.3), DEPENDS),
        ("stopped_weights", stopped(1.5), NOT_SEEN),
        ("synced_inputs", correlated(0.99), SEEN),
        ("synced_inputs", correlated(0.8), DEPENDS),
        ("synced_inputs", correlated(0.2), NOT_SEEN),
        ("error_alignment", aligned(0.0, -0.5), SEEN),
        ("error_alignment", aligned(0.0, 0.0), DEPENDS),
        ("error_alignment", aligned(0.1, -0.5), NOT_SEEN),
    ],
)
def test_a_criterion_decides_as_it_says(name, measured, verdict):
    claim = CLAIMS[name]
    assert claim.judge(measured) == verdict
    figures = claim.figures(measured)
    assert len({figure.name for figure in figures}) == len(figures) and all(map(str, figures))
    assert all(chart.curves for chart in claim.charts(measured))


def test_what_is_moved_and_stretched_is_as_far_apart_as_that(rng):
    u = rng.normal(size=(50, 3)) * [1.0, 5.0, 0.0]
    u -= u.mean(0)
    u, moved = map(jnp.asarray, (u, 1.5 * u + 2 * u.std(0)))
    assert float(shifts._distance(u, moved)) == pytest.approx(np.hypot(2, 0.5))
    assert float(shifts._distance(u, u)) == 0


@pytest.mark.slow
def test_planted_neurons_are_what_they_should_be(key):
    params, _ = init(Network((4, 50, 50, 3)), key)
    W = np.asarray(stopped_weights.plant(params)[1].W)
    assert np.count_nonzero(W[:, :20]) == 20 and (np.diagonal(W)[:20] > 0).all()
    np.testing.assert_array_equal(W[:, 20:], params[1].W[:, 20:])
    first = np.asarray(synced_inputs.plant(params)[0].W)
    np.testing.assert_array_equal(first[:, 0:40:2], first[:, 1:40:2])
    np.testing.assert_array_equal(first[:, 40:], params[0].W[:, 40:])


@pytest.mark.slow
def test_with_its_error_held_fixed_a_layer_comes_to_the_multiple_correlation(rng):
    u, W, delta = (jnp.asarray(rng.normal(size=shape)) for shape in ((40, 3), (3, 4), (40, 4)))
    layer = error_alignment._Layer(u, W, delta)
    R = np.asarray(error_alignment.multiple_correlations(layer))
    for i in range(4):
        fitted = (
            np.c_[u, np.ones(40)]
            @ np.linalg.lstsq(np.c_[u, np.ones(40)], delta[:, i], rcond=None)[0]
        )
        assert R[i] == pytest.approx(np.corrcoef(fitted, delta[:, i])[0, 1])
    np.testing.assert_allclose(jax.jit(error_alignment.descend)(layer)[-1], -R, atol=1e-3)


@pytest.fixture
def setting(rng):
    x = rng.normal(size=(80, 4))
    targets = np.eye(3)[np.digitize(x[:, 0], [-0.5, 0.5])]
    data = claims.Data(*map(jnp.asarray, (x[:60], targets[:60], x[60:], targets[60:])))
    return Setting(data, (5, 6), quick=True, batch_size=20)


@pytest.mark.slow
def test_dropout_of_nothing_trains_as_without_dropout(setting):
    for norm in (True, False):
        net = Network((4, 6, 5, 3), norm=norm)
        row = {"rate": 0.5, "scale": 1.0}
        jobs = {"plain": Job(sgd(net), [row], 3, 20)}
        jobs["dropout"] = Job(small_sets.experiment(net), [row | {"p": p} for p in (0, 0.5)], 3, 20)
        found = train(setting, jobs)
        plain, (none, half) = found["plain"]["cost"][:, 0], found["dropout"]["cost"].swapaxes(0, 1)
        np.testing.assert_allclose(plain, none, rtol=1e-9)
        assert not np.allclose(plain, half, rtol=1e-2)


@pytest.mark.slow
def test_without_noise_the_shifted_network_is_the_usual_one(setting):
    net, rows = Network((4, 6, 5, 3)), [{"rate": shifts.RATE, "scale": 1.0}]
    kinds = {kind: shifts.experiment(kind, net) for kind in ("bn", "noisy")} | {"plain": sgd(net)}
    found = train(setting, {name: Job(one, rows, 3, 20) for name, one in kinds.items()})
    np.testing.assert_allclose(found["plain"]["cost"], found["bn"]["cost"], rtol=1e-9)
    assert not np.allclose(found["plain"]["cost"], found["noisy"]["cost"], rtol=1e-2)
    assert (found["noisy"]["inputs"] > 5 * found["bn"]["inputs"]).all()
    assert found["bn"]["gradient"].shape == (2, 1, 3, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["running_statistics", "synced_inputs", "stopped_weights"])
def test_an_experiment_runs_and_is_judged(name, setting):
    claim = CLAIMS[name]
    measured = claim.run(replace(setting, batch_size=20))
    assert claim.judge(measured) in (SEEN, NOT_SEEN, DEPENDS)
    assert all(np.isfinite(figure.values).all() for figure in claim.figures(measured))
