"""The notebooks: that they run, say what is so, and leave to the library what is the library's."""

import ast
import json
import re
from pathlib import Path

import pytest
from processes import HANGING, environment

import bnjax
from bnjax import identities

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path, kind):
    notebook = json.loads(path.read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def code(path):
    return "\n\n".join("".join(cell["source"]) for cell in cells(path, "code"))


def test_there_are_five():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_kept(path):
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells(path, "code"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_picture_is_described_in_words(path):
    drawing = [cell for cell in cells(path, "code") if "plt.show()" in "".join(cell["source"])]
    words = [cell["metadata"].get("mystnb", {}).get("image", {}).get("alt") for cell in drawing]
    assert words and all(words)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cited_tags_exist_and_links_lead_somewhere(path):
    text = path.read_text()
    known = {one.tag for one in identities.all()}
    cited = set(re.findall(r"\b(?:BL|BN|[DPGE])\.\d+", text))
    assert cited and cited <= known
    for link in re.findall(r"\]\((\w+\.ipynb)\)", text):
        assert (path.parent / link).exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_defines_nothing_that_the_library_has(path):
    modules = [getattr(bnjax, name) for name in bnjax.__all__]
    theirs = set(bnjax.__all__).union(*(getattr(module, "__all__", ()) for module in modules))
    kinds = ast.FunctionDef | ast.ClassDef
    own = {node.name for node in ast.walk(ast.parse(code(path))) if isinstance(node, kinds)}
    assert not own & theirs


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_asserts_what_it_claims(path):
    asserts = [node for node in ast.walk(ast.parse(code(path))) if isinstance(node, ast.Assert)]
    assert len(asserts) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_start_to_end_without_a_warning(path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=HANGING,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR"],
    )
    # what is tested is this tree, also where the package is installed
    client.execute(env=environment())
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    assert [out.text for out in outputs if out.get("name") == "stderr"] == []
    assert sum("image/png" in out.get("data", ()) for out in outputs) >= 2
