"""The report as one page that needs nothing else: no network, no other file."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from bnjax.report.finding import Finding, Picture
from bnjax.report.subject import Subject
from bnjax.report.words import number, share

if TYPE_CHECKING:
    from bnjax.report.document import Report

_WORDS = {
    "layer": "a linear operation, that is a matrix product or a convolution, and the normalization "
    "that follows it, if any; counted from 0 in the order of the computation",
    "neuron": "one output of a layer; in a convolution one channel",
    "sample": "one row of the batch that was looked at; in a convolution one position of one image",
    "look": "a moment of the training at which all this was measured, on the same samples",
    "root mean square": "the root of the mean of the squares: a typical size, whatever the sign",
}
# field -> heading, what it is, whether it is a share
_COLUMNS = {
    "error": ("|Δ|", "length of the error, over neurons and samples", False),
    "W": ("|W|", "length of a neuron's weights, root mean square", False),
    "W_bar": ("|∂C/∂W|", "gradient of a weight, root mean square", False),
    "gamma_bar": ("|∂C/∂γ|", "gradient of γ, root mean square", False),
    "mean_cos1": ("|cos θ1|", "of error and normalized sum, mean over neurons", False),
    "mean_cos2": ("|cos θ2|", "of input and normalized sum, mean over weights", False),
    "mean_cos3": ("|cos θ3|", "of error and input, mean over weights", False),
    "dead": ("dead", "neurons that no error reaches", True),
    "handed_to_gamma": ("to γ", "neurons whose γ learns instead of their weights", True),
    "stopped": ("stopped", "weights whose input is in step with x̂", True),
    "removed": ("taken off", "by normalization from a gradient with constant statistics", True),
    "saturated": ("flat", "outputs at which the activation is flat", True),
    "directions": ("directions", "different ones among a layer's outputs", False),
}


def write(report: "Report") -> str:
    """Return the page as HTML."""
    findings = (*report.findings, *report.more)
    tags = {tag for finding in findings for tag in finding.tags}
    body = [f"<h1>{_text(report.title)}</h1>", f'<p class="about">{_text(report.about)}</p>']
    body += [f'<p class="notice">{_text(sentence)}</p>' for sentence in report.missing]
    body += [_summary(report.short), *_words(report.subjects)]
    body += [_section(finding) for finding in findings]
    body += [*_tables(report.subjects), *_advice(findings)]
    body.append(f'<section id="equations"><h2>Equations</h2>{_equations(tags)}</section>')
    style = files("bnjax.report").joinpath("style.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        # pictures are data, styles are inline; nothing else is ever loaded or run
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{_text(report.title)}</title><style>{style}</style></head>"
        f"<body><main>\n{chr(10).join(body)}\n</main></body></html>\n"
    )


def per_layer(one: Subject) -> list[dict[str, float | None]]:
    """Return the last look's figures, a dict for each layer; None for what a layer lacks."""
    with np.errstate(all="ignore"):  # figures from a file may be anything
        columns = {
            key: (one.cosines(int(key[-1])) if key.startswith("mean_") else one.figures(key))[-1]
            for key in _COLUMNS
        }
    return [
        {key: float(of[at]) if np.isfinite(of[at]) else None for key, of in columns.items()}
        for at in range(one.count)
    ]


def _summary(short: Iterable[Finding]) -> str:
    items = [f'<li>{_text(one.says)} <a href="#{one.name}">More</a></li>' for one in short] or [
        "<li>Nothing stands out: no layer is at fault, and no figure is extreme.</li>"
    ]
    return f'<section class="short"><h2>In short</h2><ul>{"".join(items)}</ul></section>'


def _words(subjects: Sequence[Subject]) -> list[str]:
    return ["<section><h2>The words of this page</h2>", _list(_WORDS), "</section>"] * any(
        one.seen for one in subjects
    )


def _section(one: Finding) -> str:
    text = [f'<p class="measure">{_text(one.measure)}</p>'] * bool(one.measure)
    text.append(f"<p>{_text(one.text)}{_tags(one.tags)}</p>")
    text += [_list(one.items)] * bool(one.items)
    text += [f"<p>What to do: {_text(words)}</p>" for words in one.advice]
    drawn = [_figure(picture, one.title) for picture in one.pictures]
    rows = any('class="row"' in each for each in drawn)
    beside = ' class="beside"' if len(drawn) == 1 and not rows else ""
    threes = " threes" if len(drawn) % 3 == 0 and not rows else ""
    pictures = [f'<div class="grid{threes}">{"".join(drawn)}</div>'] * bool(drawn)
    return (
        f'<section id="{one.name}"{beside}><h2>{_text(one.title)}</h2>'
        f"<div>{''.join(text)}</div>{''.join(pictures)}</section>"
    )


def _figure(picture: Picture, title: str) -> str:
    images = [
        f'<img alt="{_text(picture.caption or title)}" src="data:image/svg+xml;base64,'
        f'{base64.b64encode(svg.encode()).decode()}">'
        for svg in picture.draw()
    ]
    kind = ' class="row"' if len(images) > 1 else ""
    below = f"<figcaption>{_text(picture.caption)}</figcaption>" if picture.caption else ""
    return f'<figure{kind}><div class="grid">{"".join(images)}</div>{below}</figure>'


def _advice(findings: Iterable[Finding]) -> list[str]:
    items = [
        f'<li>{_text(words)} (<a href="#{one.name}">{_text(one.title)}</a>)</li>'
        for one in findings
        for words in one.advice
    ]
    return [f'<section id="do"><h2>What to do</h2><ul>{"".join(items)}</ul></section>'] * bool(
        items
    )


def _tables(subjects: Sequence[Subject]) -> list[str]:
    tables, shown = [], {}
    for one in subjects:
        if not one.seen:
            continue
        layers = per_layer(one)
        columns = [key for key in _COLUMNS if any(row[key] is not None for row in layers)]
        shown |= {_COLUMNS[key][0]: _COLUMNS[key][1] for key in columns}
        head = "".join(f"<th>{_text(_COLUMNS[key][0])}</th>" for key in columns)
        rows = "".join(
            f"<tr><td>{at}</td><td>{_text(one.layer_names[at])}</td>"
            + "".join(f"<td>{_cell(key, row[key])}</td>" for key in columns)
            + "</tr>"
            for at, row in enumerate(layers)
        )
        title = f"{one.title}, {one.when(-1)}" if one.title else one.when(-1)
        tables.append(
            f'<div class="wide"><table><caption>{_text(title)}</caption>'
            f"<tr><th></th><th>layer</th>{head}</tr>{rows}</table></div>"
        )
    if not tables:
        return []
    return ['<section id="layers"><h2>Layer by layer</h2>', *tables, _list(shown), "</section>"]


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return share(value) if _COLUMNS[key][2] else number(value)


def _equations(tags: Iterable[str]) -> str:
    from bnjax import identities  # slow to load

    known = {one.tag: one for one in identities.all()}
    wanted = [tag for tag in known if tag in set(tags)]
    items = "".join(
        f'<dt id="{tag}">{tag}</dt><dd>{_text(known[tag].claim)}<br>'
        f'<span class="formula">{"<br>".join(map(_text, known[tag].statements))}</span></dd>'
        for tag in wanted
    )
    return f"<dl>{items}</dl><p>Check them on your machine: <code>bnjax verify</code>.</p>"


def _tags(tags: Iterable[str]) -> str:
    return "".join(f' <a class="tag" href="#{tag}">{tag}</a>' for tag in tags)


def _list(items: Mapping[str, str]) -> str:
    pairs = (f"<dt>{_text(key)}</dt><dd>{_text(text)}</dd>" for key, text in items.items())
    return f"<dl>{''.join(pairs)}</dl>"


def _text(text: str) -> str:
    return html.escape(text)
