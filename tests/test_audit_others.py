"""Audits of derivative rules that nobody here wrote: `benchmarks/audit_others.py` and its page."""

import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from processes import environment

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guides" / "audit_others.md"
sys.path.append(str(ROOT / "benchmarks"))  # its modules import each other by their bare names

import _findings_in_others  # noqa: E402
import _rules_of_jax  # noqa: E402
import _rules_of_others  # noqa: E402
import audit_others  # noqa: E402

from bnjax import audit  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", _rules_of_jax.NETWORKS)
def test_rules_of_others_agree_with_their_definitions(name, dtype):
    case = _rules_of_jax.NETWORKS[name]
    labels = _rules_of_jax.LABELS.dtype
    args = jax.tree.map(lambda a: a if a.dtype == labels else a.astype(dtype), case.args)
    report = audit.assert_gradients_match(case.f, case.g, args)
    print(f"{name}, {dtype}: {len(report.rows)} comparisons, worst {report.worst.scaled:.2g} eps")


@pytest.mark.slow
@pytest.mark.parametrize("name", _findings_in_others.FINDINGS)
def test_a_finding_is_refused_as_long_as_three_lines_reproduce_it(name):
    finding = _findings_in_others.FINDINGS[name]
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        got, wanted = map(float, audit_others.by_hand(finding.by_hand).split())
    # what comes by hand may be off by the step of a difference: one part in twenty
    right = math.isclose(got, wanted, rel_tol=0.005, abs_tol=1e-9)
    case = finding.case._replace(options={"transforms": "jit"})
    with jax.numpy_rank_promotion("allow"):
        assert audit_others.judge(name, case)["ok"] == right


@pytest.mark.slow
@pytest.mark.peers
def test_the_list_is_at_least_sixty_functions_and_stands_on_the_page():
    for library in ("equinox", "flax"):
        pytest.importorskip(library, reason="pip install '.[peers]'")
    cases = _rules_of_others.collect()
    assert len(cases) >= 60
    names = set(re.findall(r"^\| `(.*?)` \|", PAGE.read_text(), re.MULTILINE))
    assert set(cases) <= names
    assert all(f"**{name}**" in PAGE.read_text() for name in _findings_in_others.FINDINGS)
    for name in ("flax: linen.fp8_ops.dot_general_with_precision", "equinox: filter_custom_vjp"):
        assert audit_others.judge(name, cases[name]._replace(options={"transforms": "jit"}))["ok"]


@pytest.mark.slow
def test_the_script_prints_both_tables():
    command = [sys.executable, "benchmarks/audit_others.py", "--only", "nn.relu6", "expn, n = 0"]
    process = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "| `jax: nn.relu6` | custom_jvp | plain |" in process.stdout
    assert "**jax: scipy.special.expn, n = 0**" in process.stdout
