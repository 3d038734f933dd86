"""Twelve kinds of wrong rules are refused; the right ones are accepted whatever the seed."""

from functools import cache

import pytest
from planted import KINDS, arguments, together

from bnjax import audit

DTYPES = ("float16", "bfloat16", "float32", "float64")
# this one raises, and its cast leaves no digits for those traced with it to be judged by
ALONE = ("unsummed", "dtype")
OTHERS = tuple(kind for kind in KINDS if kind not in ALONE)


@cache
def comparison(kinds, which, modes="all", transforms="all"):
    """One comparison of the given kinds, right or wrong, whose programs all seeds share."""
    f, g = together(kinds, which), together(kinds, "plain")
    return audit.make_compare(f, g, few=256, modes=modes, transforms=transforms)


def refused(report):
    """The kinds of the leaves that are refused, and "all" for what has none."""
    return {
        row.leaf.split("'")[1] if "'" in row.leaf else "all" for row in report.rows if row.failed
    }


def check_acceptance(compare, kinds, dtype, seeds):
    worst = 0.0
    for seed in range(seeds):
        report = compare(arguments(kinds, seed, dtype), key=seed)
        report.raise_if_failed()
        worst = max(worst, report.worst.scaled)
    assert 0 < worst < report.tolerance


def test_wrong_rules_are_refused_though_half_precision_hides_them():
    kinds = tuple(kind for kind in OTHERS if kind != "second")
    compare = comparison(kinds, "wrong", "vjp", ("jit", "vmap"))
    for seed in range(2):
        report = compare(arguments(kinds, seed, "bfloat16"), key=seed)
        assert refused(report) == set(kinds)
        assert all(
            row.failed == (row.transform == "vmap") for row in report.rows if "'vmap'" in row.leaf
        )


def test_a_rule_that_is_wrong_at_second_order_only_is_refused_there_only():
    compare = comparison(("second",), "wrong", ("vjp", "fwd-over-rev"), "jit")
    report = compare(arguments(("second",), 0, "float64"))
    assert [row.mode for row in report.rows if row.failed] == ["fwd-over-rev"]


def test_right_rules_are_accepted():
    kinds = (*OTHERS, "unsummed")
    check_acceptance(comparison(kinds, "right", "vjp", "jit"), kinds, "float16", seeds=5)


def test_a_cotangent_of_the_wrong_dtype_is_refused():
    compare = comparison(("dtype",), "wrong", "vjp", "jit")
    for dtype in ("bfloat16", "float32"):
        report = compare(arguments(("dtype",), 0, dtype))
        assert report.worst.why.startswith("wrong dtype") and report.worst.why.endswith(dtype)


def test_a_broadcast_cotangent_that_is_not_summed_is_a_row_and_no_crash():
    report = comparison(("unsummed",), "wrong", "vjp", ("plain", "jit"))(
        arguments(("unsummed",), 0, "float32")
    )
    assert {row.verdict for row in report.rows} == {"raises"}
    with pytest.raises(AssertionError, match="shape"):
        report.raise_if_failed()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ALONE)
def test_every_dtype_is_refused_alone(kind, dtype):
    for seed in range(3):
        assert not comparison((kind,), "wrong")(arguments((kind,), seed, dtype), key=seed).ok


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_wrong_rules_are_refused_in_every_dtype(dtype):
    for seed in range(4):
        report = comparison(OTHERS, "wrong")(arguments(OTHERS, seed, dtype), key=seed)
        assert refused(report) == set(OTHERS)
        for kind in ("vmap", "second"):  # nothing but what is wrong is refused
            rows = [row for row in report.rows if f"'{kind}'" in row.leaf and row.failed]
            assert all(row.transform == "vmap" or "over" in row.mode for row in rows), kind


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("transforms", "seeds"), [("jit", 200), ("all", 12)])
def test_two_hundred_seeds_raise_no_false_alarm(transforms, seeds, dtype):
    kinds = tuple(KINDS)
    compare = comparison(kinds, "right", "all", transforms)
    check_acceptance(compare, kinds, dtype, seeds=seeds)
