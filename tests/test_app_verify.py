import json
import re

import jax
import pytest
from compiling import quick_flags
from processes import command as start
from processes import ended

from bnjax import identities
from bnjax.app.commands import verify as command
from bnjax.app.main import run

TAGS = [one.tag for one in identities.all()]


@pytest.fixture
def pretend(monkeypatch):
    """Pretend to check: every error is what the test says it is."""

    def install(error=lambda tag, case: 1e-16, refutation=0.9):
        def measure(one, case):
            false = refutation if one.refuted else None
            where = case.dtype, case.eps, case.batch, case.width
            return identities.Result(one.tag, error(one.tag, case), false, one.margin, *where)

        monkeypatch.setattr(identities, "measure", measure)

    return install


@pytest.mark.slow
def test_a_few_equations_hold_in_a_process_of_their_own():
    arguments = ["--only", "BN.2", "P.6", "E.3", "--cases", 2, "--json"]
    out, err = ended(start("verify", *arguments, XLA_FLAGS=quick_flags()))
    summary = json.loads(out)
    assert [one["tag"] for one in summary["identities"]] == ["BN.2", "P.6", "E.3"]
    assert [one["verdict"] for one in summary["identities"]] == ["holds", "holds", "claim refuted"]
    assert (
        summary["checks"] == 3 * 2 * 4 and summary["passed"] and list(summary["errata"]) == ["E.3"]
    )
    for dtype, limit in identities.TOLERANCE.items():
        assert 0 < summary["worst"][dtype]["error"] < limit
    assert "checking" in err and err.count("\n") == 1


@pytest.mark.slow
def test_every_equation_holds():
    out, _ = ended(start("verify", "--json"))
    summary = json.loads(out)
    assert summary["equations"] == len(TAGS) and summary["checks"] > 15 * len(TAGS)
    for one in summary["identities"]:
        assert one["verdict"] in ("holds", "claim refuted") and set(one["worst"]) == {
            "float64",
            "float32",
        }
    assert summary["worst"]["float64"]["error"] <= 1e-12
    assert summary["worst"]["float32"]["error"] <= 1e-5


def test_the_table_shows_every_tag_its_source_and_the_errata(pretend, capsys):
    pretend()
    assert run(["verify", "--cases", "1"]) == 0
    out = capsys.readouterr().out
    table, errata = out.split("What the sources get wrong:")
    assert re.findall(r"^│ (\w+\.\d+) +│", table, re.M) == TAGS
    for heading in identities.GROUPS.values():
        assert heading in table
    assert "S0/S1 eq. 3" in table and "1.0e-16" in table
    corrected = [one.tag for one in identities.all() if one.correction]
    assert re.findall(r"^(E\.\d+)  \w", errata, re.M) == corrected
    ending = rf"{len(TAGS)} equations, \d+ checks, 0 fall short; worst scaled error 1.0e-16"
    assert re.search(ending, table)


def test_one_that_falls_short_is_shown_with_the_case_that_repeats_it(pretend, capsys):
    def error(tag, case):
        bad = tag == "D.4" and case.dtype == "float32" and case.eps > 0
        return 0.25 if bad else 1e-16

    pretend(error)
    assert run(["verify", "--seed", "5", "--cases", "2"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"│ D\.4 .*│ 1\.0e-16 │ 2\.5e-01 │ falls short", out)
    expected = (
        "D.4 falls short: scaled error 2.5e-01 > 1e-05; to repeat: bnjax verify --only D.4 "
        "--seed 5 --cases 1 --batch 3 --width 9 --eps 0.3 --dtype float32\n"
    )
    assert expected in out and "1 falls short" in out


def test_the_repeated_case_is_the_same_case(monkeypatch, capsys):
    seen = []

    def measure(one, case):
        seen.append(float(case.x.sum()))
        return identities.Result(one.tag, 1.0, None, 0.1, case.dtype, case.eps, 3, 9)

    monkeypatch.setattr(identities, "measure", measure)
    options = ["--only", "D.4", "--dtype", "float64", "--batch", "3", "--width", "9"]
    assert run(["verify", *options, "--eps", "0.3", "--seed", "7"]) == 1
    repeat = re.search(r"to repeat: bnjax (.*)", capsys.readouterr().out)[1]
    assert run(repeat.split()) == 1
    assert seen[-1] == seen[0] and len(set(seen[:-1])) == 4


def test_a_claim_that_is_not_refuted_falls_short(pretend, capsys):
    pretend(refutation=1e-6)
    assert run(["verify", "--only", "E.5", "--cases", "1"]) == 1
    assert "E.5 falls short: the false claim is only 1.0e-06 from the truth, not 0.0001" in (
        capsys.readouterr().out
    )


def test_a_nan_falls_short_and_is_null_in_json(pretend, capsys):
    pretend(lambda tag, case: float("inf"))
    assert run(["verify", "--only", "D.4", "--cases", "1", "--json"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert not summary["passed"] and summary["worst"]["float64"]["error"] is None


def test_the_options_choose_the_cases(pretend, capsys):
    seen = set()
    pretend(lambda tag, case: seen.add((tag, case.dtype, case.eps, case.batch, case.width)) or 0.0)
    options = ["--eps", "0.5", "--batch", "2", "--width", "1", "--dtype", "float32"]
    assert run(["verify", "--only", "G", *options]) == 0
    assert seen == {(f"G.{k}", "float32", 0.5, 2, 1) for k in (1, 2, 3, 4, 5, 8)}
    out = capsys.readouterr().out
    assert re.search(r"G\.6 .*│ +– │ needs ε = 0", out)


def test_a_tolerance_of_ones_own(pretend):
    pretend(lambda tag, case: 1e-7)
    assert run(["verify", "--only", "D.4", "--tolerance", "1e-6"]) == 0
    assert run(["verify", "--only", "D.4", "--tolerance", "1e-8"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "D44"], "--only: unknown tag 'D44': did you mean 'D.4'? valid: BL.1, "),
        (["--only", "d.4"], "--only: unknown tag 'd.4': did you mean 'D.4'?"),
        (["--only", "X"], "--only: unknown tag 'X': valid: BL.1"),
        (["--batch", "1"], "--batch: expected a number at least 2 and below 65, got 1"),
        (["--batch", "65"], "--batch: expected a number at least 2 and below 65, got 65"),
        (["--width", "0"], "--width: expected a number at least 1 and below 65, got 0"),
        (["--eps", "-1"], "--eps: expected a number at least 0, got -1.0"),
        (["--eps", "nan"], "--eps: expected a number at least 0, got nan"),
        (["--cases", "0"], "--cases: expected a number at least 1, got 0"),
        (["--seed", "-1"], "--seed: expected a number at least 0"),
        (["--tolerance", "0"], "--tolerance: expected a number above 0, got 0.0"),
        (["--dtype", "float63"], "--dtype: unknown name 'float63': did you mean 'float64'?"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(options, message, refused):
    assert refused("verify", *options).startswith(f"bnjax: {message}")


def test_settings_that_the_options_make_equal_are_run_once():
    from bnjax.app.options import Verify

    settings = command._settings(Verify(batch=4, width=3, eps=0.1))
    assert settings == [("float64", 0.1, 4, 3), ("float32", 0.1, 4, 3)]
    assert len(command._settings(Verify())) == 4


def test_the_case_of_a_seed_does_not_depend_on_what_is_chosen(pretend):
    seen = []
    pretend(lambda tag, case: seen.append(float(case.x.sum())) or 0.0)
    for only in (["D.1"], ["D.1", "D.4"]):
        assert run(["verify", "--only", *only, "--cases", "1", "--eps", "0"]) == 0
    draws = {
        float(identities.draw(jax.random.key(0), **one).x.sum())
        for one in (
            {"dtype": "float64", "eps": 0.0, "batch": 8, "width": 7},
            {"dtype": "float64", "eps": 0.0, "batch": 3, "width": 9},
        )
    }
    assert draws <= set(seen)
