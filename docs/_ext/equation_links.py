"""Tags of equations are links to the sheet, and the sheet links to the lines that use each."""

import io
import tokenize

from docstrings import above
from docutils import nodes
from source_pages import ROOT, TAG, files, link
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

SHEET = "EQUATIONS"
NO_LINKS = nodes.reference | nodes.title | nodes.raw | nodes.literal | nodes.comment
NO_LINKS |= nodes.math | nodes.math_block
MOST = 8  # lines that an equation lists


def citing_lines() -> dict[str, list[tuple[str, int]]]:
    """Return, by tag, the lines of the library whose comments cite it."""
    found: dict[str, list[tuple[str, int]]] = {}
    for path in files():
        if path.startswith("bnjax/") and not path.startswith("bnjax/identities/"):
            reader = io.StringIO((ROOT / path).read_text()).readline
            for token in tokenize.generate_tokens(reader):
                if token.type == tokenize.COMMENT:
                    for tag in TAG.findall(token.string):
                        found.setdefault(tag, []).append((path, token.start[0]))
    return found


def add_lines(app: Sphinx, doctree: nodes.document) -> None:
    """Say under each equation which lines of the code use it."""
    if app.env.docname != SHEET:
        return
    lines = citing_lines()
    for section in doctree.findall(nodes.section):
        found = lines.get(section.next_node(nodes.title).astext(), [])
        if found:
            text = nodes.paragraph("", "Used at ", classes=["used-at"])
            for i, (path, line) in enumerate(found[:MOST]):
                name = f"{path.removeprefix('bnjax/')}:{line}"
                text += [nodes.Text(", " if i else ""), nodes.reference("", name)]
                text[-1]["refuri"] = link(path, line)
            text += nodes.Text(" and in more places." if len(found) > MOST else ".")
            section += text


class TagsAsLinks(SphinxPostTransform):
    """Make each tag in running text and in formulas a link to its equation."""

    default_priority = 900

    def run(self, **kwargs) -> None:
        """Replace the tags."""
        if self.app.builder.format != "html":
            return
        sheet = self.app.builder.get_relative_uri(self.env.docname, SHEET)
        for node in list(self.document.findall(nodes.Text)):
            if self.linkable(node) and TAG.search(node):
                node.parent.replace(node, list(self.linked(node.astext(), sheet)))

    def linkable(self, node: nodes.Text) -> bool:
        """Return whether links may stand in a text: not in titles, links and highlighted code."""
        holders = list(above(node))
        block = next((one for one in holders if isinstance(one, nodes.literal_block)), None)
        if block is not None:
            if block.get("language") not in ("text", "none"):
                return False
            block.rawsource = ""  # written as it stands, not highlighted
        return not any(isinstance(one, NO_LINKS) for one in holders)

    def linked(self, text: str, sheet: str):
        """Yield a text's parts, of which the tags are links."""
        for i, part in enumerate(TAG.split(text)):
            if i % 2:
                uri = f"{sheet}#{nodes.make_id(part)}"
                yield nodes.reference("", part, refuri=uri, internal=True, classes=["tag"])
            elif part:
                yield nodes.Text(part)


def setup(app: Sphinx) -> dict:
    """Connect the functions above."""
    app.connect("doctree-read", add_lines)
    app.add_post_transform(TagsAsLinks)
    return {"parallel_read_safe": True}
