"""The README's code runs as it stands, and its commands are the ones that .ci/run runs."""

import re
from pathlib import Path

import jax
import pytest
from processes import ended, python

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_training")
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, marks=pytest.mark.peers if "bnjax.layers" in code else ())
        for code in BLOCKS
    ],
    ids=lambda code: code.split("\n")[-2].strip()[:30],
)
def test_each_block_runs_alone(code):
    if "bnjax.layers" in code:
        pytest.importorskip("flax", reason="pip install '.[flax]'")
    # as in a fresh interpreter: conftest's settings are not the reader's
    with jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        exec(code, {"__name__": "__main__"})


@pytest.mark.slow
@pytest.mark.peers
def test_all_blocks_run_in_order_in_a_fresh_interpreter():
    pytest.importorskip("flax", reason="pip install '.[flax]'")
    script = "\n".join(BLOCKS)
    printed = ended(python("-c", script))[0].splitlines()
    promised = re.findall(r"print\(.*\)  # (.*)", script)
    assert promised
    assert set(promised) <= set(printed)
    losses = [float(line) for line in printed[:5]]
    assert losses == sorted(losses, reverse=True)


def test_links_lead_to_files_of_this_tree():
    links = re.findall(r"\]\(([^):]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_ci_runs_the_readme_s_test_command():
    command = "pip install '.[test]' && pytest"
    assert command in README
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    for part in command.split(" && "):
        assert any(line.endswith(part) for line in lines)
