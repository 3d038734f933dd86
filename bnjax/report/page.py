"""The report as one page that needs nothing else: no network, no other file."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bnjax.report.finding import Finding
from bnjax.report.markup import definitions, figure, page, section, text
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
    body = [f"<h1>{text(report.title)}</h1>", f'<p class="about">{text(report.about)}</p>']
    body += [f'<p class="notice">{text(sentence)}</p>' for sentence in report.missing]
    body += [_summary(report.short), *_words(report.subjects)]
    body += [_section(finding) for finding in findings]
    body += [*_tables(report.subjects), *_advice(findings)]
    body.append(f'<section id="equations"><h2>Equations</h2>{_equations(tags)}</section>')
    return page(report.title, body)


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
    items = [f'<li>{text(one.says)} <a href="#{one.name}">More</a></li>' for one in short] or [
        "<li>Nothing stands out: no layer is at fault, and no figure is extreme.</li>"
    ]
    return f'<section class="short"><h2>In short</h2><ul>{"".join(items)}</ul></section>'


def _words(subjects: Sequence[Subject]) -> list[str]:
    return ["<section><h2>The words of this page</h2>", definitions(_WORDS), "</section>"] * any(
        one.seen for one in subjects
    )


def _section(one: Finding) -> str:
    said = [f'<p class="measure">{text(one.measure)}</p>'] * bool(one.measure)
    said.append(f"<p>{text(one.text)}{_tags(one.tags)}</p>")
    said += [definitions(one.items)] * bool(one.items)
    said += [f"<p>What to do: {text(words)}</p>" for words in one.advice]
    figures = [figure(each.draw(), each.caption, alternative=one.title) for each in one.pictures]
    return section(one.name, one.title, "".join(said), figures)


def _advice(findings: Iterable[Finding]) -> list[str]:
    items = [
        f'<li>{text(words)} (<a href="#{one.name}">{text(one.title)}</a>)</li>'
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
        head = "".join(f"<th>{text(_COLUMNS[key][0])}</th>" for key in columns)
        rows = "".join(
            f"<tr><td>{at}</td><td>{text(one.layer_names[at])}</td>"
            + "".join(f"<td>{_cell(key, row[key])}</td>" for key in columns)
            + "</tr>"
            for at, row in enumerate(layers)
        )
        title = f"{one.title}, {one.when(-1)}" if one.title else one.when(-1)
        tables.append(
            f'<div class="wide"><table><caption>{text(title)}</caption>'
            f"<tr><th></th><th>layer</th>{head}</tr>{rows}</table></div>"
        )
    if not tables:
        return []
    return [
        '<section id="layers"><h2>Layer by layer</h2>',
        *tables,
        definitions(shown),
        "</section>",
    ]


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return share(value) if _COLUMNS[key][2] else number(value)


def _equations(tags: Iterable[str]) -> str:
    from bnjax import identities  # slow to load

    known = {one.tag: one for one in identities.all()}
    wanted = [tag for tag in known if tag in set(tags)]
    items = "".join(
        f'<dt id="{tag}">{tag}</dt><dd>{text(known[tag].claim)}<br>'
        f'<span class="formula">{"<br>".join(map(text, known[tag].statements))}</span></dd>'
        for tag in wanted
    )
    return f"<dl>{items}</dl><p>Check them on your machine: <code>bnjax verify</code>.</p>"


def _tags(tags: Iterable[str]) -> str:
    return "".join(f' <a class="tag" href="#{tag}">{tag}</a>' for tag in tags)
