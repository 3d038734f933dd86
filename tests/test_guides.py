"""The pages of docs/: their code runs as it stands, from top to bottom, in a fresh interpreter."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from processes import ended, python

DOCS = Path(__file__).parents[1] / "docs"
PRINTED = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)  # what a page says comes out
IMPORTED = re.compile(r"^\s*(?:import|from) (?:bnjax\.layers\.)?(\w+)", re.MULTILINE)
PEERS = {name: name for name in ("flax", "haiku", "equinox", "keras", "torch")}
PEERS |= {"linen": "flax", "nnx": "flax"}


def code(page):
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))


def pages():
    """Every page that has code, and what it needs beyond bnjax."""
    for page in sorted(DOCS.rglob("*.md")):
        if text := code(page):
            needed = {PEERS[name] for name in IMPORTED.findall(text) if name in PEERS}
            marks = [pytest.mark.slow, *([pytest.mark.peers] if needed else [])]
            name = page.relative_to(DOCS).with_suffix("").as_posix()
            yield pytest.param(page, needed, id=name, marks=marks)


@pytest.mark.parametrize(("page", "needed"), list(pages()))
def test_the_code_of_a_page_runs(page, needed, tmp_path):
    if missing := [module for module in needed if find_spec(module) is None]:
        pytest.skip(f"pip install '.[peers]': {missing}")
    out, _ = ended(python("-c", code(page), cwd=tmp_path))
    for line in PRINTED.findall(code(page)):
        assert line in out
