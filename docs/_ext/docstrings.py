"""The library's docstrings as reStructuredText: formulas stay as they are, text is only text."""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

ROW = re.compile(r"( *)\((?:BL|BN|[DPGER])\.\d+\)\s+\S.*")  # an equation: (D.4)  x̄ = K(ȳ)
DERIVED = re.compile(r" *==> ")
CODE = re.compile(r"(``.+?``|`[^`]+`)")
NO_LINKS = nodes.reference | nodes.title | addnodes.pending_xref
MARKUP = re.compile(r"(\*|\||(?<=\w)_(?!\w))")  # what reStructuredText would read as markup


def escape(line: str) -> str:
    """Return a line of text in which nothing but `code` is markup."""
    parts = CODE.split(line)
    parts[::2] = [MARKUP.sub(r"\\\1", part) for part in parts[::2]]
    parts[2::2] = [rf"\ {part}" if part[:1].isalnum() else part for part in parts[2::2]]  # `key`s
    return "".join(parts)


def depth(line: str) -> int:
    """Return by how many spaces a line is indented."""
    return len(line) - len(line.lstrip())


def paragraphs(lines: list[str]):
    """Yield runs of lines without an empty one among them, and the empty lines."""
    run: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            run.append(line)
        else:
            yield from ([run] if run else [])
            run = []
            yield [""]


def formula(lines: list[str], indent: int) -> list[str]:
    """Return a block that is shown as it stands."""
    pad = " " * indent
    least = min(map(depth, lines))
    body = [f"{pad}    {line[least:]}" for line in lines]
    return ["", f"{pad}.. code-block:: text", "", *body, ""]


def rendered(lines: list[str], text_depth: int):
    """Yield a paragraph's lines: rows of equations and derivations as formulas, the rest as text.

    Args:
        lines: The paragraph.
        text_depth: The indentation of the text around it.
    """
    if any(map(DERIVED.match, lines)) or (depth(lines[0]) >= text_depth + 4 and "=" in lines[0]):
        yield from formula(lines, text_depth)
        return
    block: list[str] = []
    for line in lines:
        row = ROW.fullmatch(line)
        if row or (block and depth(line) > depth(block[0])):
            block.append(line)
            continue
        if block:
            yield from formula(block, depth(block[0]))
            block = []
        yield escape(line)
    if block:
        yield from formula(block, depth(block[0]))


def convert(app: Sphinx, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Replace a docstring's lines, before its sections are read."""
    done: list[str] = []
    section = 0
    for run in paragraphs(list(lines)):
        if re.fullmatch(r"[A-Z]\w+:", run[0]):  # Args:, Returns:, Example:
            section = 4
        elif run[0] and depth(run[0]) == 0:
            section = 0
        if run == [""] or any(line.lstrip().startswith(">>>") for line in run):
            done += run
        elif section and run[0].rstrip().endswith(":") and not run[0].startswith(" "):
            done += map(escape, run)
        else:
            done += rendered(run, section)
    lines[:] = done


def above(node: nodes.Node):
    """Yield all nodes that hold a node, from the inside out."""
    while (node := node.parent) is not None:
        yield node


def skip(app: Sphinx, what: str, name: str, obj, skipped: bool, options) -> bool | None:
    """Leave out what a NamedTuple writes of its fields: the docstring's Attributes say more."""
    if str(getattr(obj, "__doc__", "") or "").startswith("Alias for field number"):
        return True
    return None


def known_name(app: Sphinx, env, node, contnode):
    """Resolve `training.fit` and `batch_norm` as bnjax.training.fit and bnjax.batch_norm."""
    if node.get("refdomain") != "py" or node["reftarget"].startswith("bnjax."):
        return None
    domain = env.get_domain("py")
    target = f"bnjax.{node['reftarget'].rstrip('()')}"
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)


class NamesAsLinks(SphinxPostTransform):
    """Make `training.fit` and `batch_norm`, as code in a page, links to what is said of them."""

    default_priority = 5  # before references are resolved

    def run(self, **kwargs) -> None:
        """Wrap those names that are documented."""
        known = self.env.get_domain("py").objects
        for node in list(self.document.findall(nodes.literal)):
            name = node.astext().split("(")[0]
            distinct = ("." in name or "_" in name) and f"bnjax.{name}" in known
            if distinct and not any(isinstance(one, NO_LINKS) for one in above(node)):
                reference = addnodes.pending_xref(
                    "",
                    refdoc=self.env.docname,
                    refdomain="py",
                    reftype="obj",
                    reftarget=f"bnjax.{name}",
                    refexplicit=True,
                )
                node.replace_self(reference)
                reference += node


def setup(app: Sphinx) -> dict:
    """Connect the functions above."""
    app.connect("missing-reference", known_name)
    app.add_post_transform(NamesAsLinks)
    app.connect("autodoc-process-docstring", convert, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
