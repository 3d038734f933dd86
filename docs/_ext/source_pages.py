"""A page for each source file, with an anchor for each line, to which the other pages link.

`sphinx.ext.viewcode` links to definitions only; an equation is at a line.
"""

import ast
import html
import inspect
import re
from functools import cache
from pathlib import Path

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).parents[2]
FOLDERS = ("bnjax", "examples", "benchmarks")
SCHEME = "source:"  # of links that lead to one of these pages until they are resolved
INCLUDED = {  # files outside of docs/, by the page that shows each
    "benchmarks/RESULTS.md": "/benchmarks.md",
    "CHANGELOG.md": "/changes.md",
    "CONTRIBUTING.md": "/contributing.md",
}
TO_INCLUDED = re.compile(rf"\]\((?:\.\./)+({'|'.join(map(re.escape, INCLUDED))})")
TAG = re.compile(r"(?<![\w.#&;-])((?:BL|BN|[DPGER])\.\d+)(?![\w.]*\w)")


def files() -> list[str]:
    """Return the paths of all source files, from the root of the project."""
    found = (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
    return sorted(str(file.relative_to(ROOT)) for file in found)


@cache
def definitions(path: str) -> dict[str, int]:
    """Return the line at which each name of a file is defined."""
    found: dict[str, int] = {}
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node.lineno
            for inner in getattr(node, "body", ()) if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef):
                    found[f"{node.name}.{inner.name}"] = inner.lineno
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.lineno
    return found


def link(path: str, line: int | None = None) -> str:
    """Return the address of a file, or of one of its lines, as other pages write it."""
    return f"{SCHEME}{path}" + (f"#line-{line}" if line else "")


def linkcode_resolve(domain: str, info: dict) -> str | None:
    """Return the address of a documented object's definition, for sphinx.ext.linkcode."""
    if domain != "py" or not info["module"] or not info["fullname"]:
        return None
    found = __import__(info["module"], fromlist=["_"])
    for part in info["fullname"].split("."):
        found = getattr(found, part, None)
    found = inspect.unwrap(found) if callable(found) else None
    module = inspect.getmodule(found)
    file = Path(getattr(module, "__file__", None) or "/")
    if found is None or ROOT not in file.parents:
        return None
    path = str(file.relative_to(ROOT))
    return link(path, definitions(path).get(getattr(found, "__qualname__", "")))


class LinksToSource(SphinxTransform):
    """Let links to source files lead to their pages, and to the definition that they name."""

    default_priority = 200

    def apply(self) -> None:
        """Replace what would be downloads."""
        folder = (ROOT / "docs" / self.env.docname).parent
        for node in list(self.document.findall(addnodes.download_reference)):
            file = Path(node["reftarget"].lstrip("/"))
            for path in (folder / file, ROOT / "docs" / file):
                path = path.resolve()
                if path.suffix == ".py" and ROOT in path.parents and path.exists():
                    path = str(path.relative_to(ROOT))
                    line = definitions(path).get(node.astext().split(".")[-1])
                    new = nodes.reference("", "", *node.children, refuri=link(path, line))
                    node.replace_self(new)
                    break


def resolve(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Write the addresses of source pages as seen from a page."""
    for node in doctree.findall(nodes.reference):
        if node.get("refuri", "").startswith(SCHEME):
            path, _, anchor = node["refuri"].removeprefix(SCHEME).partition("#")
            page = f"source/{path.removesuffix('.py')}"
            node["refuri"] = app.builder.get_relative_uri(docname, page) + (
                f"#{anchor}" if anchor else ""
            )
            node["internal"] = True


def lead_to_pages(app: Sphinx, docname: str, source: list[str]) -> None:
    """Let links to files that a page shows lead to that page."""
    source[0] = TO_INCLUDED.sub(lambda link: f"]({INCLUDED[link[1]]}", source[0])


def collect(app: Sphinx):
    """Yield the pages: name, context, template."""
    formatter = HtmlFormatter(lineanchors="line", cssclass="highlight source")
    for path in files():
        page = f"source/{path.removesuffix('.py')}"
        text = highlight((ROOT / path).read_text(), PythonLexer(), formatter)
        sheet = app.builder.get_relative_uri(page, "EQUATIONS")
        text = TAG.sub(
            lambda tag: f'<a href="{sheet}#{nodes.make_id(tag[1])}">{tag[1]}</a>',  # noqa: B023
            text,
        )
        body = f"<h1>{html.escape(path)}</h1>\n{text}"
        yield page, {"title": path, "body": body}, "page.html"


def setup(app: Sphinx) -> dict:
    """Connect the functions above."""
    app.config.linkcode_resolve = linkcode_resolve
    app.add_transform(LinksToSource)
    app.connect("source-read", lead_to_pages)
    app.connect("doctree-resolved", resolve)
    if app.config.html_theme:
        app.connect("html-collect-pages", collect)
    return {"parallel_read_safe": True}
