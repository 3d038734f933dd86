"""The site: what its pictures and tables say of the house, and that its checker finds faults."""

import importlib.util
import json
import re
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
from test_house import FLOORS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HOUSE = {*FLOORS, "app"} - {"__init__"}


def test_the_picture_of_the_house_has_every_room_on_its_floor():
    picture = (DOCS / "architecture.svg").read_text()
    rooms = re.findall(r'class="name".*?>(\w+)</text>', picture)
    assert rooms == ["app", *(room for room in FLOORS if room != "__init__")]


def test_the_page_says_of_every_room_what_may_be_touched():
    page = (DOCS / "architecture.md").read_text()
    rows = (line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert {room for row in rows for room in re.findall(r"`(\w+)`", row)} == HOUSE


def test_the_figures_on_the_page_are_those_that_were_measured():
    page = " ".join((DOCS / "why.md").read_text().split())
    measured = json.loads((DOCS / "pictures" / "why.json").read_text())
    cells = {name: sum(rows, []) for name, rows in measured["scales"].items()}
    learned = {name: sum(accuracy > 0.9 for accuracy in found) for name, found in cells.items()}
    baseline = f"Without normalization {learned['baseline']} of {len(cells['bn'])} choices"
    assert baseline in page and f"with normalization {learned['bn']} do" in page
    worst = max(max(errors) for errors in measured["means"]["bnjax"].values())
    assert f"{worst:.0e}".replace("e-0", "e-") + " in y and in the gradient" in page
    assert measured["means"]["haiku"]["y"][4] is None and "NaN from 1e4 on" in page


@pytest.fixture
def check_site():
    loader = SourceFileLoader("check_site", str(ROOT / ".ci" / "check_site"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_site", loader))
    loader.exec_module(module)
    return module.main


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ('<p id="here"><a href="#here">x</a> <a href="b.html#there">x</a></p>', 0),
        ('<a href="c.html">no such page</a>', 1),
        ('<a href="b.html#nowhere">no such place</a>', 1),
        ('<img src="a.png" alt="a.png">', 2),  # neither there nor described
        ('<script src="https://example.org/a.js"></script>', 1),
        ('<i id="a"></i><i id="a"></i>', 1),
        ('<a href="b.html">x <a href="b.html">y</a></a>', 1),
    ],
)
def test_a_fault_of_the_site_is_found(check_site, tmp_path, body, faults):
    head = '<html lang="en"><title>A page</title>'
    (tmp_path / "a.html").write_text(head + body)
    (tmp_path / "b.html").write_text(head + '<h1 id="there">B</h1>')
    assert check_site(tmp_path) == faults


def test_a_page_without_language_and_title_is_found(check_site, tmp_path):
    (tmp_path / "a.html").write_text("<p>text</p>")
    assert check_site(tmp_path) == 1
