"""A page of HTML that needs nothing else: no network, no other file."""

import html
from collections.abc import Sequence

from bnjax.app.report.drawing import Panel

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1d2126; font: 17px/1.55 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif;
  overflow-wrap: break-word; }
main { max-width: 64rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; padding-top: .5rem; border-top: 2px solid #e3e6ea; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
.about, .notice, figcaption, footer { color: #4c545e; font-size: .88rem; }
.notice { border-left: 4px solid #b5541c; padding: .1rem .8rem; }
.short { background: #f2f5f9; border-radius: .5rem; padding: .8rem 1.1rem; margin: 1.2rem 0; }
.short h2 { border: 0; margin: 0; padding: 0; }
.short ul { margin: .4rem 0; padding-left: 1.2rem; }
.short li { margin: .45rem 0; }
.tag { display: inline-block; border: 1px solid #9db4d3; border-radius: .3rem; padding: 0 .35rem;
  font-size: .78rem; color: #1c4a8c; text-decoration: none; white-space: nowrap;
  margin-left: .15rem; }
.panels { display: grid; gap: 1rem; margin: .6rem 0 0; }
@media (min-width: 42rem) { .panels { grid-template-columns: repeat(2, 1fr); } }
@media (min-width: 62rem) { .threes { grid-template-columns: repeat(3, 1fr); } }
figure { margin: 0; max-width: 30rem; break-inside: avoid; }
figure img { width: 100%; height: auto; display: block; }
@media print, (min-width: 50rem) {
  .beside { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.5rem; align-items: start; }
  .beside h2 { grid-column: 1 / -1; }
  .beside .panels { margin: 0; grid-template-columns: 1fr; }
}
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .3rem 0; font-weight: 600; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e3e6ea;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.words th, .words td { text-align: left; white-space: normal; vertical-align: top; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem .9rem; font-size: .88rem;
  margin: .6rem 0; }
dt { font-weight: 600; }
dd { margin: 0; min-width: 0; }
.formula { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: .82rem; }
@media print {
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; margin-top: 1.2rem; }
  .panels { grid-template-columns: repeat(2, 1fr); }
  .beside .panels { grid-template-columns: 1fr; }
  .beside, #weight, .wide { break-inside: avoid; }
  p { break-inside: avoid; break-after: avoid; }
  .short { border: 1px solid #9db4d3; }
  .tag { color: #000; border-color: #999; }
  tr, dt, dd, li { break-inside: avoid; }
  .wide { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .3rem; }
}
"""


def page(title: str, body: Sequence[str]) -> str:
    """Return a whole page: its title, and the elements of its body as HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        # pictures are data, styles are inline; nothing else is ever loaded or run
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>\n{chr(10).join(body)}\n</main></body></html>\n"
    )


def text(plain: str) -> str:
    """Return text as HTML."""
    return html.escape(plain)


def figures(panels: Sequence[Panel]) -> str:
    """Return pictures side by side."""
    if not panels:
        return ""
    kind = "panels" if len(panels) % 3 else "panels threes"
    return f'<div class="{kind}">{"".join(map(figure, panels))}</div>'


def figure(panel: Panel) -> str:
    """Return one picture with its caption."""
    caption = text(panel.caption)
    return (
        f'<figure><img src="{panel.uri()}" alt="{caption}"><figcaption>{caption}</figcaption>'
        "</figure>"
    )
