"""Claims about learning: what is measured, how it is judged, and that a false one is refuted."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from bnjax import claims, training
from bnjax.claims import DEPENDS, NOT_SEEN, SEEN, Measured, Setting, grids
from bnjax.claims import training as trainings
from bnjax.claims.training import Job, accuracy, sgd
from bnjax.network import Network

CLAIMS = {claim.name: claim for claim in claims.CLAIMS}


def accuracies(learnt, seeds=3):
    """Accuracies (S, *learnt.shape) of networks that learnt, or did not."""
    return np.broadcast_to(np.where(learnt, 0.97, 0.1), (seeds, *np.shape(learnt)))


def rates(baseline, bn):
    """What `learning_rates` measures where networks learn up to these rates, 0 for none."""
    grid = np.array([0.1, 1.0, 10.0, 100.0])
    return Measured(
        {"rate": tuple(grid.tolist()), "scale": (1.0,), "target": (0.95,)},
        {
            "baseline_accuracy": accuracies(grid[None] <= baseline),
            "bn_accuracy": accuracies(grid[None] <= bn),
        },
    )


def scales(baseline, bn):
    """What `initial_values` measures where networks learn from so many of ten scales."""
    grid = np.arange(10)
    return Measured(
        {"rate": (1.0,), "scale": tuple(range(10)), "target": (0.95,)},
        {
            "baseline_accuracy": accuracies(grid[None] < baseline),
            "bn_accuracy": accuracies(grid[None] < bn),
        },
    )


def at_depths(baseline, bn):
    """What `depth` measures with these accuracies in the deepest networks."""
    accuracies = {"baseline": baseline, "bn": bn}
    return Measured(
        {"depth": (2, 9), "layer": (1, 2)},
        {
            **{f"{k}_accuracy": np.full((3, 4, 2), v) for k, v in accuracies.items()},
            **{f"{k}_error": np.array([[0.1, 1.0]] * 3) for k in accuracies},
        },
    )


def saturated(baseline, bn):
    """What `saturation` measures with these shares of saturated units."""
    shares = {"baseline": baseline, "bn": bn}
    values = {f"{k}_saturated": np.full((3, 2), v) for k, v in shares.items()}
    before = {f"{k}_start_saturated": np.zeros((3, 2)) for k in shares}
    return Measured({"scale": (1.0, 2.0)}, values | before)


def with_activations(baseline, bn):
    """What `activations` measures with these steps for two activations, None for never."""
    steps = {"baseline": baseline, "bn": bn}
    values = {f"{k}_steps": np.tile(np.array(v, float), (3, 1, 1)) for k, v in steps.items()}
    return Measured({"activation": ("relu", "tanh")}, values)


def in_steps(baseline, bn):
    """What `fewer_steps` measures with these least steps; the plain ones are twice as many."""
    steps = {"baseline": baseline, "bn": bn}
    values = {f"{k}_steps": np.tile(np.array([2, 1]) * float(v), (3, 1)) for k, v in steps.items()}
    seconds = {"baseline_seconds": np.ones(3), "bn_seconds": np.full(3, 1.5)}
    return Measured({"rate": (1.5, 1.5), "scale": (1.0, 4.0)}, values | seconds)


def at_sizes(bn, renorm):
    """What `batch_size` measures with these accuracies with batches of 2, and 0.98 with 60."""
    small = {"baseline": 0.95, "bn": bn, "renorm": renorm}
    values = {f"{k}_accuracy": np.array([[v, 0.98]] * 3) for k, v in small.items()}
    return Measured({"size": (2, 60)}, values)


CASES = (
    ("learning_rates", rates(1, 10), SEEN),
    ("learning_rates", rates(0, 10), SEEN),
    ("learning_rates", rates(1, 1), NOT_SEEN),
    ("learning_rates", rates(10, 1), NOT_SEEN),
    ("learning_rates", rates(0, 0), NOT_SEEN),
    ("initial_values", scales(2, 6), SEEN),
    ("initial_values", scales(2, 5), DEPENDS),
    ("initial_values", scales(6, 2), NOT_SEEN),
    ("depth", at_depths(0.1, 0.95), SEEN),
    ("depth", at_depths(0.8, 0.95), DEPENDS),
    ("depth", at_depths(0.95, 0.95), NOT_SEEN),
    ("saturation", saturated(0.5, 0.1), SEEN),
    ("saturation", saturated(0.5, 0.3), DEPENDS),
    ("saturation", saturated(0.1, 0.5), NOT_SEEN),
    ("activations", with_activations([60, None], [20, 40]), SEEN),
    ("activations", with_activations([60, 50], [20, 40]), DEPENDS),
    ("activations", with_activations([20, 50], [20, None]), NOT_SEEN),
    ("activations", with_activations([None, None], [None, None]), NOT_SEEN),
    ("fewer_steps", in_steps(50, 20), SEEN),
    ("fewer_steps", in_steps(np.nan, 20), SEEN),
    ("fewer_steps", in_steps(30, 20), DEPENDS),
    ("fewer_steps", in_steps(20, 20), NOT_SEEN),
    ("fewer_steps", in_steps(np.nan, np.nan), NOT_SEEN),
    ("batch_size", at_sizes(0.5, 0.9), SEEN),
    ("batch_size", at_sizes(0.5, 0.6), DEPENDS),
    ("batch_size", at_sizes(0.98, 0.98), NOT_SEEN),
)


@pytest.mark.parametrize(("name", "measured", "verdict"), CASES)
def test_a_criterion_decides_as_it_says(name, measured, verdict):
    claim = CLAIMS[name]
    assert claim.judge(measured) == verdict
    assert all(str(figure) for figure in claim.figures(measured))
    assert all(chart.curves for chart in claim.charts(measured))


def test_sets_of_seeds_that_disagree_depend():
    claim = CLAIMS["learning_rates"]
    low, high = rates(10, 1), rates(1, 10)
    both = {k: np.concatenate([low.values[k], high.values[k]]) for k in low.values}
    verdicts = claims.judge_sets(claim, Measured(low.varied, both))
    assert verdicts == (NOT_SEEN, NOT_SEEN, SEEN) and claims.agree(verdicts) == DEPENDS
    assert claims.judge_sets(claim, high.of([0])) == (SEEN,)


def test_never_counts_as_worst():
    assert str(claims.Figure("steps", np.array([20.0, np.nan, 10.0]), ".0f")) == "20 (10 to never)"
    assert (
        str(claims.Figure("steps", np.array([np.nan, np.nan, 10.0]), ".0f"))
        == "never (10 to never)"
    )
    values = np.array([[np.nan, 3.0], [np.nan, 4.0], [1.0, 5.0]])
    assert grids.best(values, least=True).tolist() == [3.0, 4.0, 5.0]
    assert grids.best(values).tolist() == [3.0, 4.0, 5.0]
    assert np.isnan(grids.best(np.full((3, 2), np.nan))).all()


def test_names_are_words_and_different():
    assert len(CLAIMS) == len(claims.CLAIMS)
    assert all(name.replace("_", "").isalpha() and name.islower() for name in CLAIMS)
    for claim in claims.CLAIMS:
        texts = claim.text, claim.varied, claim.criterion
        assert all(text.endswith(".") for text in texts) and claim.source


def test_the_document_is_of_these_claims():
    docs = Path(__file__).parent.parent / "docs"
    document = (docs / "CLAIMS.md").read_text()
    for claim in claims.CLAIMS:
        assert claim.text in document and f"Criterion: {claim.criterion}" in document
        assert f"Varied: {claim.varied}" in document
        assert (docs / "claims" / f"{claim.name}.png").exists()


@pytest.fixture(scope="module")
def setting():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4))
    targets = np.eye(3)[np.digitize(x[:, 0], [-0.5, 0.5])]
    data = claims.Data(*map(jnp.asarray, (x[:60], targets[:60], x[60:], targets[60:])))
    return Setting(data, (5, 6, 7), quick=True, batch_size=20, target=0.8)


def accuracy_of(net, data, train_state):
    return accuracy(net, train_state, data)["accuracy"]


@pytest.mark.slow
def test_networks_are_trained_as_sweep_trains_them(setting):
    data, rates = setting.data, [0.5, 2.0]
    reported = []
    setting = dataclasses.replace(setting, report=lambda *parts: reported.append(parts))
    for norm in (False, True):
        net = Network((4, 6, 3), norm=norm)
        job = Job(sgd(net), grids.rows(rate=rates, scale=[1.0]), 4, 20)
        found = trainings.train(setting, {"it": job})["it"]
        swept = training.sweep(
            net,
            optax.sgd,
            jnp.asarray(rates),
            jax.vmap(jax.random.key)(jnp.asarray(setting.seeds)),
            data.x,
            data.targets,
            epochs=4,
            batch_size=20,
            evaluate=Partial(partial(accuracy_of, net), data),
        )
        np.testing.assert_allclose(found["cost"], swept.costs.mean(-1).swapaxes(0, 1), rtol=1e-9)
        np.testing.assert_array_equal(found["accuracy"], swept.evaluations.swapaxes(0, 1))
        assert job.steps(data).tolist() == [3, 6, 9, 12]
    assert reported == 2 * [(1, 2), (2, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_each_experiment_measures_what_is_judged(name, setting):
    claim, seeds = CLAIMS[name], setting.seeds[:2]
    measured = claim.run(dataclasses.replace(setting, seeds=seeds))
    assert {len(values) for values in measured.values.values()} == {2}
    assert all(values.dtype.kind == "f" for values in measured.values.values())
    assert len(claims.judge_sets(claim, measured)) == 2
    assert all(figure.values.shape == (2,) for figure in claim.figures(measured))
    for chart in claim.charts(measured):
        assert all(curve.values.shape == (2, len(curve.x)) for curve in chart.curves)


@pytest.mark.slow
def test_weights_are_scaled_and_evaluations_are_as_often_as_asked(setting):
    net = Network((4, 6, 3))
    scale = lambda net, state, data: {"W": jnp.std(state.params[0].W)}  # noqa: E731
    job = Job(sgd(net, scale), grids.rows(rate=[0.0], scale=[1.0, 10.0]), 2, 20, per_epoch=3)
    found = trainings.train(setting, {"it": job})["it"]
    np.testing.assert_allclose(found["W"][:, 1], 10 * found["W"][:, 0], rtol=1e-6)
    assert found["accuracy"].shape == (3, 2, 6)


@pytest.mark.slow
def test_a_false_claim_is_refuted(setting):
    """Planted: normalization allows smaller learning rates alone."""

    def swapped(setting):
        varied, values = CLAIMS["learning_rates"].run(setting)
        baseline, bn = values["baseline_accuracy"], values["bn_accuracy"]
        return Measured(varied, {"baseline_accuracy": bn, "bn_accuracy": baseline})

    false = dataclasses.replace(CLAIMS["learning_rates"], name="false", run=swapped)
    verdicts = claims.judge_sets(false, false.run(setting))
    assert claims.agree(verdicts) == NOT_SEEN
