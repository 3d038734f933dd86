"""One sheet of equations: code, tests and documents cite what the sheet says, and nothing else."""

import ast
import inspect
import io
import json
import re
import tokenize
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import bnjax
from bnjax import identities
from bnjax.identities import entries, notation, sheet, sources

ROOT = Path(__file__).parents[1]
PACKAGE = Path(bnjax.__file__).parent
ALL = identities.all()
BY_TAG = {one.tag: one for one in ALL}
GROUPS = "|".join(["BL", "BN", "D", "P", "G", "E", "R"])
TAG = rf"(?:{GROUPS})\.\d+"
CITED = re.compile(rf"(?<![\w.])(?:{GROUPS})\.\d+(?![\w.]*\w)")
ROW = re.compile(rf"( *)\(({TAG}(?:, {TAG})*)\)\s+(.*)")


def code():
    """All Python files whose docstrings and comments are held to the sheet."""
    for folder in ("bnjax", "tests", "benchmarks"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def documents():
    """All documents: Markdown, and the text of the notebooks."""
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "notebooks/*.ipynb"):
        yield from sorted(ROOT.glob(pattern))


def docstrings(file):
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text


@cache
def prose(file):
    """The docstrings and comments of a Python file; the text of a document."""
    return tuple(read_prose(file))


def read_prose(file):
    if file.suffix == ".py":
        yield from docstrings(file)
        tokens = tokenize.generate_tokens(io.StringIO(file.read_text()).readline)
        yield from (token.string for token in tokens if token.type == tokenize.COMMENT)
    elif file.suffix == ".ipynb":
        cells = json.loads(file.read_text())["cells"]
        yield from ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    else:
        yield file.read_text()


# --- rows of formulas in docstrings ---------------------------------------------------------------


def rows(docstring):
    """The rows (tag, formula) of a docstring; a deeper line goes on with the row above it."""
    found, depth = [], None
    for line in docstring.splitlines():
        row = ROW.fullmatch(line.rstrip())
        if row:
            depth = len(row[1])
            found.append([row[2], row[3]])
        elif depth is not None and line.strip() and len(line) - len(line.lstrip()) > depth:
            found[-1][1] += "\n  " + line.strip()
        else:
            depth = None
    return found


def not_on_the_sheet(docstring):
    """Every statement of the docstring's rows that the sheet does not have under the row's tag."""
    for tag, formula in rows(docstring):
        known = BY_TAG[tag].statements if tag in BY_TAG else ()
        for statement in notation.statements(formula):
            if statement not in known:
                yield f"({tag})  {statement}"


def test_every_row_of_a_docstring_is_on_the_sheet():
    found = [
        f"{file.relative_to(ROOT)}: {wrong}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for docstring in docstrings(file)
        for wrong in not_on_the_sheet(docstring)
    ]
    assert not found, (
        "docs/EQUATIONS.md does not have these statements under these tags (prose belongs into a "
        "sentence that cites the tag):\n" + "\n".join(found)
    )


@pytest.mark.parametrize(
    "right",
    [
        "(D.4)   K(t) = γ r [t − ⟨t⟩ − x̂ ⟨t x̂⟩],  x̄ = K(ȳ)",
        "Text.\n\n    (D.17)  ⟨t⟩ = Σ_s w_s t_s / n;  x̂ = 0, y = β where w = 0\n\nText (D.4).",
        "(D.17)  x̄ = γ r [ȳ⁺ −\n        (w/n) (Σ_s ȳ⁺_s + x̂ Σ_s ȳ⁺_s x̂_s)],\n        n = Σ_s w_s",
        "With the weight (1 − d) of\n(P.7), and so on\n(P.1, P.2).",
    ],
)
def test_a_right_row_is_accepted(right):
    assert list(not_on_the_sheet(right)) == []


@pytest.mark.parametrize(
    ("wrong", "refused"),
    [
        ("(D.4)  K(t) = γ r [t − ⟨t⟩ + x̂ ⟨t x̂⟩]", "(D.4)  K(t) = γ r [t − ⟨t⟩ + x̂ ⟨t x̂⟩]"),
        ("(D.4)  x̄ = K(ȳ),  γ̄ = Σ_s ȳ_s x̂_s", "(D.4)  γ̄ = Σ_s ȳ_s x̂_s"),
        ("(D.4)  x̄ = K(ȳ), the pull-back", "(D.4)  x̄ = K(ȳ), the pull-back"),
        ("(D.4)  x̄ = K(ȳ)\n       pulls back", "(D.4)  x̄ = K(ȳ) pulls back"),
        ("(G.4)  how γ learns", "(G.4)  how γ learns"),
        ("(BN.2)  x̂ = (x - μ) r", "(BN.2)  x̂ = (x - μ) r"),  # a hyphen for a minus
        (f"(D.{99})  x = u W", f"(D.{99})  x = u W"),
        ("(BN.1, BN.3)  x = u W", "(BN.1, BN.3)  x = u W"),  # one tag a row
    ],
)
def test_a_planted_row_is_refused(wrong, refused):
    assert list(not_on_the_sheet(f"A title.\n\n{wrong}\n\nText.")) == [refused]


# --- tags -----------------------------------------------------------------------------------------


def test_every_tag_cited_anywhere_exists():
    unknown = {
        f"{file.relative_to(ROOT)}: {tag}"
        for file in (*code(), *documents())
        for tag in CITED.findall(file.read_text())
        if tag not in BY_TAG
    }
    assert not unknown


def test_the_search_finds_what_it_should():
    text = f"K (D.4), BN.1–BN.3; see P.1, x.D.5, D.4.1 and `E.{99}`"
    assert CITED.findall(text) == ["D.4", "BN.1", "BN.3", "P.1", f"E.{99}"]


def test_no_other_file_of_the_package_lists_the_tags():
    for file in PACKAGE.rglob("*.py"):
        if file.parent.name != "identities":
            cited = Counter(CITED.findall(file.read_text()))
            assert len(cited) < len(ALL) / 3, file


# --- the sheet itself -----------------------------------------------------------------------------


def test_the_document_is_the_sheet():
    document = (ROOT / "docs" / "EQUATIONS.md").read_text(encoding="utf-8")
    assert document == sheet.markdown(), (
        f"docs/EQUATIONS.md is stale; renew it: {sheet.COMMAND} > docs/EQUATIONS.md"
    )


def test_statements_are_two_spaces_apart():
    assert entries.Identity("T", "", "a = b, c,  d = e;  f", *[None] * 10).statements == (
        "a = b, c",
        "d = e",
        "f",
    )


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.tag)
def test_a_formula_uses_the_symbols_of_the_table_only(one):
    text = one.formula + one.derivation
    assert unicodedata.normalize("NFC", text) == text  # or equal symbols would not be found
    assert one.symbols and set(one.symbols) <= notation.known_glyphs()
    assert all(statement.strip(" ,;") == statement for statement in one.statements)
    assert len(set(one.statements)) == len(one.statements)


def test_a_symbol_has_one_row():
    each = [
        symbol
        for group in notation.SYMBOLS.values()
        for row in group
        for symbol in row.symbol.split(", ")
    ]
    assert [symbol for symbol, count in Counter(each).items() if count > 1] == []


def test_a_planted_symbol_is_found():
    unknown = set(notation.glyphs("ζ = Σ_s x_q where nonsense")) - notation.known_glyphs()
    assert unknown == {"ζ", "nonsense", "_q"}


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.tag)
def test_a_derivation_has_steps_and_cites_other_tags(one):
    derived = one.tag.startswith("D.") or one.tag in ("P.4", "G.2", "G.4", "G.5")
    assert one.derivation or not derived
    if one.derivation:
        lines, cited = one.derivation.splitlines(), CITED.findall(one.derivation)
        assert len(lines) <= 13 and any(line.startswith("==> ") for line in lines)
        assert cited and one.tag not in cited and set(cited) <= set(BY_TAG)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.tag)
def test_what_computes_an_equation_exists_and_cites_it(one):
    for name in one.implementation:
        found, module = sheet.defined_in(name)
        assert found is not None and one.tag in CITED.findall(inspect.getsource(module)), name


def test_a_function_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="there is no 'bnjax.kernel.L'"):
        sheet.defined_in("bnjax.kernel.L")


# --- sources and files ----------------------------------------------------------------------------

NOTES = r"S[0-4](?:[/–]S?[0-4])?"  # S3, S0/S1, S0–S4
PAPER = re.compile(r"[A-Z]\w+(?:, [A-Z]\w+)*(?: & [A-Z]\w+)? (?:19|20)\d\d\b")


def test_a_formula_comes_from_a_source_of_the_list():
    papers = "|".join(map(re.escape, (one.key for one in sources.PAPERS)))
    for one in ALL:
        for part in one.source.split("; "):
            assert re.match(rf"(?:{NOTES}|{papers}|{sources.OWN})\b", part), (one.tag, part)


def test_every_paper_that_is_cited_is_in_the_list():
    known = {one.key for one in sources.PAPERS}
    found = {
        paper
        for file in (*code(), *documents())
        for text in prose(file)
        for paper in PAPER.findall(" ".join(text.split()))
    }
    assert found and found <= known


PATH = re.compile(r"(?<![\w*/.-])[\w./-]+\.(?:md|ipynb|py|toml)\b")
CAPITALS = re.compile(r"(?<![\w./-])[A-Z]{5,}(?![\w.(=/-])")
ABBREVIATIONS = {"MNIST", "NVIDIA", "TAOCP", "YNNPACK"}


def cited_but_missing(text, folder, names):
    """Files that a text names, by a path or in capitals, and that are not there."""
    for path in PATH.findall(text):
        if not ((ROOT / path).exists() or (folder / path).exists()):
            yield path
    yield from set(CAPITALS.findall(text)) - names


def test_no_file_is_cited_that_the_project_does_not_hold():
    # what stands in capitals is a document, an abbreviation or a name in the code
    names = ABBREVIATIONS | {file.stem for file in documents()}
    for file in code():
        tokens = tokenize.generate_tokens(io.StringIO(file.read_text()).readline)
        names |= {token.string for token in tokens if token.type == tokenize.NAME}
    missing = {
        f"{file.relative_to(ROOT)}: {one}"
        for file in (*code(), *documents())
        for text in prose(file)
        for one in cited_but_missing(text, file.parent, names)
    }
    assert not missing


def test_a_planted_citation_is_found():
    text = f"See {'notes' + '.md'}, README.md and {'NOWHERE'}, or GROUPS (docs/EQUATIONS.md)."
    assert sorted(cited_but_missing(text, ROOT, {"GROUPS"})) == ["NOWHERE", "notes.md"]
