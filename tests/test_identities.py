import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnjax import activations, backprop, costs, folding, identities, kernel, moments, population
from bnjax.identities import draws, entries

COUNTS = {"BL": 10, "BN": 6, "D": 18, "P": 9, "R": 1, "G": 8, "E": 14}
ALL = identities.all()
BY_TAG = {one.tag: one for one in ALL}
# (dtype, ε, B, n)
SETTINGS = [
    ("float64", 0.0, 8, 7),
    ("float64", 0.3, 3, 9),
    ("float64", 1e-5, 2, 4),
    ("float32", 0.0, 8, 7),
    ("float32", 1e-5, 5, 3),
]


def test_every_tag_is_there_once_and_in_order():
    expected = [f"{room}.{k}" for room, count in COUNTS.items() for k in range(1, count + 1)]
    assert [one.tag for one in ALL] == expected
    assert tuple(identities.GROUPS) == tuple(COUNTS)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.tag)
def test_every_entry_is_complete(one):
    for text in (one.claim, one.formula, one.source, one.scale):
        assert text and "\n" not in text
    assert one.holds in ("every eps", "eps = 0")
    erratum = one.tag.startswith("E.")
    assert bool(one.correction) == erratum and (one.refuted is not None or not erratum)
    assert 0 < one.margin < 1 if one.refuted else True


def chosen_by_default(one):
    """The one setting that every identity is checked in by default: ε > 0 where it may be."""
    return next(s for s in (SETTINGS[1], SETTINGS[0]) if one.applies(*s[1:3]))


@pytest.mark.parametrize(
    ("one", "setting"),
    [
        pytest.param(
            one,
            setting,
            id=f"{one.tag}-{setting}",
            marks=() if setting == chosen_by_default(one) else pytest.mark.slow,
        )
        for one in ALL
        for setting in SETTINGS
        if one.applies(*setting[1:3])
    ],
)
def test_the_sides_agree(one, setting):
    dtype, eps, batch, width = setting
    for seed in range(2):
        key = jax.random.key(seed)
        result = identities.check(one, dtype=dtype, eps=eps, key=key, batch=batch, width=width)
        assert result.passed(), result
        assert (result.refutation is None) == (one.refuted is None)


def test_no_identity_is_skipped_in_every_setting():
    assert all(any(one.applies(eps, batch) for _, eps, batch, _ in SETTINGS) for one in ALL)


def test_float64_without_x64_says_how_to_switch_it_on():
    with jax.enable_x64(False):
        with pytest.raises(TypeError, match=r'jax.config.update\("jax_enable_x64", True\)'):
            identities.check(ALL[0], dtype="float64", eps=0.0, key=jax.random.key(0))


@pytest.mark.slow
def test_float32_needs_no_x64():
    with jax.enable_x64(False):
        for tag in ("BN.2", "D.4", "P.1"):
            key = jax.random.key(0)
            assert identities.check(BY_TAG[tag], dtype="float32", eps=0.1, key=key).passed()


@pytest.mark.parametrize(
    ("tag", "more", "error", "message"),
    [
        ("D.4", {"dtype": "bfloat16"}, TypeError, "`dtype` must be float64 or float32"),
        ("D.4", {"eps": -0.1}, ValueError, "`eps` must be a finite number >= 0; got -0.1"),
        ("D.4", {"eps": float("nan")}, ValueError, "`eps` must be a finite number >= 0; got nan"),
        ("G.6", {"eps": 0.1}, ValueError, "G.6 holds at `eps` 0 only; got 0.1"),
        ("D.4", {"batch": 1}, ValueError, "D.4 needs a `batch` of at least 2; got 1"),
        ("E.6", {"batch": 2}, ValueError, "E.6 needs a `batch` of at least 3; got 2"),
        ("D.4", {"width": 0}, ValueError, "`width` must be at least 1; got 0"),
    ],
)
def test_what_cannot_be_checked_is_refused(tag, more, error, message, key):
    with pytest.raises(error, match=re.escape(message)):
        identities.check(BY_TAG[tag], **{"dtype": "float64", "eps": 0.0, "key": key, **more})


def test_a_case_is_the_same_in_both_dtypes_and_for_the_same_key_only():
    def draw(seed, dtype):
        return identities.draw(jax.random.key(seed), dtype=dtype, eps=0.1, batch=4, width=3)

    wide, narrow = draw(3, "float64"), draw(3, "float32")
    assert wide.x.dtype == np.float64 and narrow.params[1].gamma.dtype == np.float32
    np.testing.assert_array_equal(wide.W.astype(np.float32), narrow.W)
    np.testing.assert_array_equal(wide.x, draw(3, "float64").x)
    assert not np.any(wide.x == draw(4, "float64").x)


def test_cases_are_well_conditioned_at_eps_zero():
    for seed in range(20):
        case = identities.draw(jax.random.key(seed), dtype="float64", eps=0.0, batch=2, width=4)
        for x in (case.x, case.u @ case.W):
            assert np.all(np.std(x, 0) > 0.02 * np.abs(x).max(0))


@pytest.mark.parametrize(
    ("lhs", "rhs", "error"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.25),
        ([1.0, np.nan], [1.0, 2.0], np.inf),
        ([1.0, np.inf], [1.0, np.inf], np.inf),
        ([1.0], [1.0, 1.0], np.inf),  # nothing is broadcast
        ([[1.0, 1.0]], [1.0, 1.0], np.inf),
    ],
)
def test_the_gap_between_two_sides(lhs, rhs, error):
    found = entries.Sides((np.array(lhs),), (np.array(rhs),), (2.0,))
    assert entries.gap(found) == (error, error)


def test_a_claim_is_refuted_only_if_all_its_parts_are():
    same, other = np.ones(2), np.zeros(2)
    found = entries.sides((same, other, 1), (same, same, 1))
    assert entries.gap(found) == (1.0, 0.0)


def test_a_simulation_refuses_what_is_off_by_several_standard_errors(rng):
    values = rng.normal(size=(draws.DRAWS, 3)) ** 2  # mean 1, variance 2, as χ²

    def error(*pairs):
        return entries.gap(entries.sides(*pairs))[0]

    of_mean, of_variance = (2 / draws.DRAWS) ** 0.5, (56 / draws.DRAWS) ** 0.5
    assert error(draws.within(values.mean(0), 1, of_mean), draws.variance_within(values, 2)) == 0
    for off in (-10, 10):
        assert error(draws.within(values.mean(0), 1 + off * of_mean, of_mean)) > 0.1
        assert error(draws.variance_within(values, 2 + off * of_variance)) > 0.1


def result(**more):
    base = {"tag": "E.1", "error": 0.0, "refutation": 0.5, "margin": 0.1, "dtype": "float64"}
    return identities.Result(**{**base, "eps": 0.0, "batch": 3, "width": 3, **more})


def test_a_result_passes_when_its_error_is_small_and_the_false_claim_fails():
    assert result().passed() and result(refutation=None).passed()
    assert not result(error=1e-11).passed() and result(error=1e-11).passed(1e-10)
    assert not result(refutation=0.05).passed()
    assert not result(refutation=np.inf).passed()  # NaN refutes nothing
    assert result(error=1e-6, dtype="float32").passed()
    assert not result(error=float("nan")).passed()


# --- planted errors -------------------------------------------------------------------------------


def wrong_gamma(monkeypatch):
    """The error recursion with γ of layer l instead of l+1 (D.11, E.6)."""
    original = backprop.intermediates

    def intermediates(net, params, x, targets, **more):
        layers = list(original(net, params, x, targets, **more))
        g_prime = activations.get(net.activation).g_prime
        for at in reversed(range(1, len(layers))):
            above, gamma = layers[at], getattr(params[at - 1], "gamma", None)
            if gamma is None:
                continue
            t = above.delta
            pulled = t - t.mean(0, keepdims=True)
            pulled -= above.x_hat * (t * above.x_hat).mean(0, keepdims=True)
            pulled = (gamma * above.inv_std)[None] * pulled
            delta = g_prime(layers[at - 1].y) * (pulled @ params[at].W.T)
            layers[at - 1] = layers[at - 1]._replace(delta=delta)
        return tuple(layers)

    monkeypatch.setattr(backprop, "intermediates", intermediates)


def without_slope(monkeypatch):
    """The baseline's recursion without g' (BL.4)."""
    original = activations.get

    def get(activation):
        g, _ = original(activation)
        return activations.Activation(g, jnp.ones_like)

    monkeypatch.setattr(activations, "get", get)


def projected(change):
    """An error in the one kernel, which rules, Jacobians and hand-derived gradients share."""

    def plant(monkeypatch):
        original = kernel.apply_kernel

        def apply_kernel(t, x, split, scale, c, *more):
            return original(t, x, *change(split, scale, c), *more)

        monkeypatch.setattr(kernel, "apply_kernel", apply_kernel)

    return plant


def output_error_times_b(monkeypatch):
    original = costs.output_error
    monkeypatch.setattr(
        costs, "output_error", lambda cost, y, *more: y.shape[0] * original(cost, y, *more)
    )


def summed_cost(monkeypatch):
    original = costs.mean
    monkeypatch.setattr(costs, "mean", lambda values, *w: len(values) * original(values, *w))


def gradient_over_b(monkeypatch):
    original = backprop.value_and_grad

    def value_and_grad(net, params, x, targets, **more):
        value, grads = original(net, params, x, targets, **more)
        return value, jax.tree.map(lambda grad: grad / x.shape[0], grads)

    monkeypatch.setattr(backprop, "value_and_grad", value_and_grad)


def biased_statistics(monkeypatch):
    original = population.update

    def update(state, moments, **more):
        mean, var, n, _ = moments
        return original(state, type(moments)(mean, var * (n - 1) / n, n), **more)

    for room in (population, population.running):
        monkeypatch.setattr(room, "update", update)


def pooled_without_the_means(monkeypatch):
    original = population.merge

    def merge(a, b):
        count = a.count + b.count
        var = (a.count * a.var + b.count * b.var) / jnp.where(count > 0, count, 1)
        return original(a, b)._replace(var=var)

    for room in (population, population.pooled):
        monkeypatch.setattr(room, "merge", merge)


def folded_without_the_mean(monkeypatch):
    original = folding.fold

    def fold(net, params, state):
        return original(net, params, tuple(one._replace(mean=0 * one.mean) for one in state))

    monkeypatch.setattr(folding, "fold", fold)


def unbiased_normalization(monkeypatch):
    original = moments.split_moments

    def split_moments(*args):
        split = original(*args)
        return split._replace(var=split.var * split.count / (split.count - 1))

    monkeypatch.setattr(moments, "split_moments", split_moments)


def slope_off_by_a_little(monkeypatch):
    g, g_prime = activations.ACTIVATIONS["gelu"]
    wrong = activations.Activation(g, lambda y: g_prime(y) * 1.0005)
    monkeypatch.setitem(activations.ACTIVATIONS, "gelu", wrong)


def epsilon_outside(monkeypatch):
    monkeypatch.setattr(
        kernel, "inverse_std", lambda var, eps, a=1.0: 1 / (jnp.sqrt(var) + a * eps)
    )


def drawn_independently(monkeypatch):
    """S3's “IID” for samples that are drawn without replacement (P.8)."""
    monkeypatch.setattr(draws, "share_left", lambda size, batch: draws.Draws(1.0, 1.0))


def unbiased_as_it_is(monkeypatch):
    monkeypatch.setattr(
        draws, "mean_of_variance", lambda data, batch: draws.Draws(data.var(0), data.var(0))
    )


def without_ones(centre, scale, removed):
    return centre, scale, removed._replace(ones=0 * removed.ones)


def without_x_hat(centre, scale, removed):
    return centre, scale, removed._replace(deviations=0 * removed.deviations)


def off_by_little(centre, scale, removed):
    return centre, scale * 1.0005, removed


def sums_for_means(centre, scale, removed):
    return centre, scale, type(removed)(*(centre.count * part for part in removed))


PLANTS = {
    "each recursion with the wrong layer's γ": (wrong_gamma, {"D.11", "G.5", "E.6"}),
    "the recursion without g'": (without_slope, {"BL.4"}),
    "a missing ⟨Δ⟩": (projected(without_ones), {"BN.6", "D.4", "D.11"}),
    "a missing x̂ ⟨Δ x̂⟩": (projected(without_x_hat), {"BN.5", "D.4", "G.6", "G.7"}),
    "a kernel wrong by 0.05 %": (projected(off_by_little), {"D.7"}),
    "a factor B in the kernel": (projected(sums_for_means), {"D.4"}),
    "a factor B in the output error": (output_error_times_b, {"BL.3", "BL.4"}),
    "a factor B in the gradient": (gradient_over_b, {"BL.5"}),
    "a factor B in the cost": (summed_cost, {"BL.10"}),
    "biased for unbiased": (biased_statistics, {"P.2", "P.6", "P.7", "E.3"}),
    "pooled without the means' variance": (pooled_without_the_means, {"P.5"}),
    "folded without the mean": (folded_without_the_mean, {"P.4"}),
    "unbiased for biased": (unbiased_normalization, {"BN.2", "D.5", "P.9"}),
    "independent without replacement": (drawn_independently, {"P.8", "P.9", "BL.10"}),
    "a biased variance that is right on average": (unbiased_as_it_is, {"P.9"}),
    "a slope wrong by 0.05 %": (slope_off_by_a_little, {"D.14"}),
    "ε outside of the root": (epsilon_outside, {"BN.2", "D.5"}),
}


@pytest.fixture
def traced_anew():
    """What is compiled holds the functions it was traced with."""
    jax.clear_caches()
    yield
    jax.clear_caches()


ALIKE = (  # to one that is planted by default
    *("the recursion without g'", "a missing ⟨Δ⟩", "a missing x̂ ⟨Δ x̂⟩"),
    *("a factor B in the kernel", "a factor B in the cost", "unbiased for biased"),
    *("a biased variance that is right on average", "ε outside of the root"),
    *("a factor B in the output error", "pooled without the means' variance"),
    *("folded without the mean", "biased for unbiased"),
    "each recursion with the wrong layer's γ",
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in PLANTS],
)
def test_a_planted_error_is_caught(name, traced_anew, monkeypatch):
    plant, caught_by = PLANTS[name]
    plant(monkeypatch)
    case = {"eps": 0.3, "batch": 8, "width": 7}
    for tag in sorted(caught_by):
        if BY_TAG[tag].holds == "eps = 0":
            case = {**case, "eps": 0.0}
        one = identities.check(BY_TAG[tag], dtype="float64", key=jax.random.key(0), **case)
        assert not one.passed(), one
        assert one.error > 1e-5
