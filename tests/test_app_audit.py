import json

import pytest

from bnjax import own_rules
from bnjax.app.commands import audit as command
from bnjax.app.main import run

MODULE = """
import jax, jax.numpy as jnp

@jax.custom_jvp
def right(x):
    return jnp.sin(x)
right.defjvps(lambda x_dot, _, x: jnp.cos(x) * x_dot)

@jax.custom_jvp
def wrong(x):
    return jnp.sin(x)
wrong.defjvps(lambda x_dot, _, x: 1.0005 * jnp.cos(x) * x_dot)

class Held:
    plain = staticmethod(jnp.sin)

@jax.custom_vjp
def coarse(x):
    return jnp.sin(x)
coarse.defvjp(
    lambda x: (jnp.sin(x), x.astype(jnp.bfloat16)),
    lambda x, y_bar: (jnp.cos(x.astype(y_bar.dtype)) * y_bar,),
)

def in_float32():
    return (jnp.linspace(0.1, 1.0, 3, dtype=jnp.float32),)

def empty():
    return (jnp.ones((0, 3)),)

def make_args():
    return (jnp.linspace(0.1, 1.0, 3, dtype=jnp.bfloat16),)

def not_a_tuple():
    return jnp.ones(3)

def cannot():
    raise RuntimeError("no data\\nhere")

def picky(x):
    raise KeyError("x")

number = 3
"""
QUICK = ["--modes", "vjp", "--transforms", "jit"]


@pytest.fixture
def audit(in_tmp_path, capsys):
    """The command in a folder with a module of the user's: its exit code and what it printed."""
    (in_tmp_path / "theirs.py").write_text(MODULE)
    (in_tmp_path / "broken.py").write_text("import no_such_thing")

    def call(*arguments):
        code = run(["audit", *arguments])
        return code, capsys.readouterr()

    return call


def test_a_right_rule_leaves_with_0_and_a_wrong_one_with_1(audit):
    theirs = ["theirs:Held.plain", "--args", "theirs:make_args", *QUICK]
    code, printed = audit("theirs:right", *theirs)
    assert code == 0 and "all agree" in printed.out
    code, printed = audit("theirs:wrong", *theirs, "--json", "--seed", "3")
    report = json.loads(printed.out)
    assert code == 1 and not report["ok"] and report["key"] == "key=3"
    assert report["rows"][0]["why"] == "off by a factor of 1.0005"


def test_a_coarse_backward_pass_is_accepted_on_demand_only(audit):
    theirs = ["theirs:coarse", "theirs:Held.plain", "--args", "theirs:in_float32", *QUICK]
    code, printed = audit(*theirs)
    assert code == 1 and "computed more coarsely than the forward pass" in printed.out
    code, printed = audit(*theirs, "--allow-coarse-derivatives")
    assert code == 0


def test_without_a_reference_the_function_is_held_to_finite_differences(audit):
    code, printed = audit("theirs:wrong", "--args", "theirs:make_args", *QUICK)
    assert code == 1 and "taylor" in printed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere:f", "--args", "theirs:make_args"], "functions: there is no module 'nowhere'"),
        (["broken:f", "--args", "theirs:make_args"], "importing broken raised ModuleNotFoundError"),
        (["theirs:rigth", "--args", "theirs:make_args"], "has no 'rigth': did you mean 'right'?"),
        (["theirs:number", "--args", "theirs:make_args"], "theirs:number is a int, not a function"),
        (["theirs:right", "--args", "theirs:cannot"], "theirs:cannot() raised RuntimeError: no da"),
        (["theirs:right", "--args", "theirs:not_a_tuple"], "`args` must be a tuple"),
        (["theirs:right", "--args", "theirs:empty"], "`args` must hold at least one number"),
        (["theirs:picky", "--args", "theirs:make_args"], "theirs:picky: KeyError: 'x'"),
        (["theirs", "--args", "theirs:make_args"], "expected MODULE:NAME, as mymodel:f"),
        (["theirs:right"], "--args: say what makes F's arguments"),
        (["--args", "theirs:make_args"], "--args: there is no function to call"),
        (["a:b", "a:c", "a:d", "--args", "a:e"], "at most one reference G, got 3"),
        (["--modes", "vpj"], "--modes: unknown name 'vpj': did you mean 'vjp'?"),
        (["--transforms", "jitt"], "--transforms: unknown name 'jitt': did you mean 'jit'?"),
        (["--rtol", "0"], "--rtol: expected a number above 0"),
        (["--seed", "-1"], "--seed: expected a number at least 0"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(audit, refused, arguments, message):
    assert message in refused("audit", *arguments)


@pytest.mark.slow
def test_alone_it_audits_its_own_rules_in_every_dtype(audit, monkeypatch):
    every = own_rules.own_cases(0)
    normalizations = {"batch_norm vjp", "batch_norm jvp", "renorm vjp", "renorm jvp"}
    assert {case.rule for case in every} == {
        *normalizations,
        "ghost_batch_norm vjp",
        "accumulate_gradient",
        "normalize",
        "g'",
    }
    one = next(case for case in every if case.rule == "normalize")
    monkeypatch.setattr(command, "own_cases", lambda seed: [one])
    code, printed = audit(*QUICK)
    assert code == 0 and "1 cases in 4 dtypes, 20 comparisons, 0 disagree" in printed.out
    assert printed.err == "auditing 1 cases in 4 dtypes\n"
    wrong = one._replace(g=lambda *args: 1.01 * one.g(*args))
    monkeypatch.setattr(command, "own_cases", lambda seed: [wrong])
    code, printed = audit(*QUICK, "--json")
    summary = json.loads(printed.out)
    assert code == 1 and summary["failed"] == 4 and len(summary["audits"]) == 4


def test_its_own_cases_reach_both_ends_of_the_range():
    tried = {case.rule: set() for case in own_rules.own_cases(0)}
    for case in own_rules.own_cases(0):
        for what in case.inputs:
            tried[case.rule] |= {end for end in ("1e18", "1e-18", "3e13", "3e-14") if end in what}
    assert tried["batch_norm vjp"] == tried["batch_norm jvp"] == {"1e18", "1e-18", "3e13", "3e-14"}
    assert tried["normalize"] == {"3e13", "3e-14"}


@pytest.mark.slow
def test_bnjax_s_own_rules_agree(audit):
    code, printed = audit("--json")
    summary = json.loads(printed.out)
    assert code == 0 and summary["comparisons"] > 1000 and summary["worst"]["scaled"] < 10
