"""A page of HTML that needs nothing else: no network, no other file, no script."""

import base64
import html
from collections.abc import Mapping, Sequence
from importlib.resources import files


def page(title: str, body: Sequence[str]) -> str:
    """Return a whole page: its title as plain text, and the elements of its body as HTML."""
    style = files("bnjax.report").joinpath("style.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        # pictures are data, styles are inline; nothing else is ever loaded or run
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{style}</style></head>"
        f"<body><main>\n{chr(10).join(body)}\n</main></body></html>\n"
    )


def text(plain: str) -> str:
    """Return plain text as HTML."""
    return html.escape(plain)


def definitions(items: Mapping[str, str]) -> str:
    """Return words and what is said of each, plain text, as a list."""
    pairs = (f"<dt>{text(key)}</dt><dd>{text(said)}</dd>" for key, said in items.items())
    return f"<dl>{''.join(pairs)}</dl>"


def figure(pictures: Sequence[str], caption: str = "", *, alternative: str = "") -> str:
    """Return pictures, SVG, side by side over one caption; words for who cannot see them."""
    words = text(caption or alternative)
    images = "".join(
        f'<img alt="{words}" src="data:image/svg+xml;base64,'
        f'{base64.b64encode(svg.encode()).decode()}">'
        for svg in pictures
    )
    kind = ' class="row"' if len(pictures) > 1 else ""
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f'<figure{kind}><div class="grid">{images}</div>{below}</figure>'


def section(name: str, title: str, said: str, figures: Sequence[str] = ()) -> str:
    """Return a section: its plain title, what it says as HTML, and figures.

    One figure stands beside the text, several below it, on a wide page in two or three columns.
    """
    rows = any('class="row"' in each for each in figures)
    beside = ' class="beside"' if len(figures) == 1 and not rows else ""
    threes = " threes" if len(figures) % 3 == 0 and not rows else ""
    drawn = f'<div class="grid{threes}">{"".join(figures)}</div>' * bool(figures)
    return f'<section id="{name}"{beside}><h2>{text(title)}</h2><div>{said}</div>{drawn}</section>'
