"""TeX formulas as MathML, which browsers show by themselves: no script, and nothing to fetch."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from source_pages import TAG
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

NUMBER = re.compile(r"\\tag\{([^}]*)\}")
# docutils sets the index of x̂_s below the x, and the hat above: let it stand to the right
ACCENTED = re.compile(
    r"<munderover>(\s*<mi[^>]*>[^<]*</mi>)((?:(?!munderover).)*?)"
    r"(<mo [^>]*>[ˆ¯˙]</mo>\s*)</munderover>",
    re.DOTALL,
)
INDEXED = r'<msub><mover accent="true">\1\3</mover>\2</msub>'
SHEET = "EQUATIONS"
LOGGER = logging.getLogger(__name__)


def converted(self: HTML5Translator, node: nodes.Element, block: bool) -> str:
    """Return a formula as MathML; one that cannot be converted is a warning, and shown as TeX."""
    tex = NUMBER.sub("", node.astext()).strip().replace(r"\dots", r"\ldots")
    try:
        return ACCENTED.sub(INDEXED, tex2mathml(tex, as_block=block))
    except MathError as error:
        LOGGER.warning("formula %s: %s", tex, error, location=node)
        return f"<code>{self.encode(tex)}</code>"


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    self.body.append(converted(self, node, False))
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own, and its tag as a link to the sheet."""
    self.body.append(f'<div class="formula">{converted(self, node, True)}')
    if number := NUMBER.search(node.astext()):
        uri = self.builder.get_relative_uri(self.builder.current_docname, SHEET)
        linked = TAG.sub(
            lambda tag: f'<a href="{uri}#{nodes.make_id(tag[1])}">{tag[1]}</a>', number[1]
        )
        self.body.append(f"<span>({linked})</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict:
    """Make this the renderer of formulas."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True}
