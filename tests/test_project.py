"""The project's own files agree with each other: versions, scripts, workflows."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from processes import ended, python

import bnjax

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def cells():
    listed = subprocess.run(
        [ROOT / ".ci" / "matrix", "--list"], capture_output=True, text=True, check=True
    )
    return json.loads(listed.stdout)


def test_the_version_is_the_citation_s_and_the_changelog_s_last():
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    sections = re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert bnjax.__version__ == cited == sections[0]


def test_the_matrix_tests_each_python_that_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {
        label.rpartition(" ")[2]
        for label in project["classifiers"]
        if label.startswith("Programming Language :: Python :: 3.")
    }
    assert {cell.split("-")[0] for cell in cells()} == declared
    lowest = min(declared, key=lambda version: int(version.split(".")[1]))
    assert project["requires-python"] == f">={lowest}"
    assert f"{lowest}-lowest" in cells()


def test_a_cell_that_does_not_exist_is_refused_with_those_that_do():
    asked = subprocess.run(
        [ROOT / ".ci" / "matrix", "2.7-lowest"], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 2
    assert f"no cell 2.7-lowest; there are: {' '.join(cells())}" in asked.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_scripts_that_exist_and_actions_pinned_to_commits(workflow):
    text = workflow.read_text()
    for script in re.findall(r"\.ci/\w+", text):
        assert (ROOT / script).stat().st_mode & 0o111
    for action in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action)


@pytest.mark.slow
def test_python_m_bnjax_is_the_command():
    assert ended(python("-m", "bnjax", "--version"))[0] == f"bnjax {bnjax.__version__}\n"
