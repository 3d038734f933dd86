"""The report as one page that needs nothing else: no network, no other file."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bnjax import identities
from bnjax.app.report import document
from bnjax.app.report.document import text as _text
from bnjax.app.report.drawing import Panel
from bnjax.app.report.evidence import Evidence
from bnjax.app.report.finding import Finding, mean_cosine
from bnjax.app.report.weight import Weight
from bnjax.app.report.words import LABELS, number, share, when

_WORDS = {
    "B": "how many samples are looked at; each quantity below is a list of B numbers, one per "
    "sample: a vector in sample space",
    "u_j": "a layer's input j",
    "x_i": "what neuron i makes of its inputs, before it is normalized",
    "Δ_i": "the error of neuron i: how the cost changes with what it activates",
    "x̂, Δ̂, û": "the same as directions: mean taken off, scaled to one length",
    "θ1": "the angle between Δ and x; where it is 0° or 180° only γ learns",
    "θ2": "the angle between u and x; where it is 0° or 180° the weight stops",
    "θ3": "the angle between Δ and u: what the two have in common",
}


def write(
    evidence: Evidence,
    findings: Sequence[Finding],
    short: Sequence[Finding],
    panels: Sequence[Panel],
    weight: Weight | None,
    triangle: Panel | None,
    autodiff: float | None,
) -> str:
    """Write the page.

    Args:
        evidence: The run.
        findings: What it shows.
        short: The strongest of them.
        panels: The pictures.
        weight: One weight, if any can be looked at.
        triangle: Its picture.
        autodiff: Its gradient by `jax.grad`.

    Returns:
        HTML.
    """
    title = f"How the run {evidence.path.resolve().name} learnt"
    tags = {tag for finding in findings for tag in finding.tags}
    body = [f"<h1>{_text(title)}</h1>", f'<p class="about">{_text(describe(evidence))}</p>']
    body += [f'<p class="notice">{_text(sentence)}</p>' for sentence in evidence.missing]
    if short:
        items = "".join(f"<li>{_said(finding)}</li>" for finding in short)
        body.append(f'<section class="short"><h2>In short</h2><ul>{items}</ul></section>')
    for finding in findings:
        own = [panel for panel in panels if panel.section == finding.name]
        body.append(
            f'<section id="{finding.name}"{_beside(own)}><h2>{_text(finding.title)}</h2>'
            f"<p>{_said(finding)}</p>{document.figures(own)}</section>"
        )
    if weight is not None and triangle is not None and autodiff is not None:
        tags |= set(weight.tags)
        body.append(_weight(weight, triangle, autodiff))
    body += _tables(evidence)
    if evidence.history:
        body.append(f"<section><h2>Words</h2>{_list(_WORDS)}</section>")
    body.append(f"<section><h2>Equations</h2>{_equations(tags)}</section>")
    body.append(
        "<footer><p>Layers, neurons and inputs are counted from zero. Written by bnjax explain "
        f"{_text(str(evidence.path))}.</p></footer>"
    )
    return document.page(title, body)


def describe(evidence: Evidence) -> str:
    """Say in a sentence what was trained, and what was looked at."""
    options, resolved = evidence.options, evidence.config["resolved"]
    hidden = "–".join(map(str, options["hidden"])) or "none"
    text = (
        f"{options['data']}, hidden layers {hidden} ({options['activation']}), {options['cost']}, "
        f"{options['optimizer']} with learning rate {resolved['learning_rate']:g}, batches of "
        f"{resolved['batch_size']}."
    )
    looks = [f"{len(rows)} at {LABELS[name]}" for name, rows in evidence.history.items()]
    if looks:
        text += (
            f" Looks at its geometry: {', '.join(looks)}, on the same {evidence.samples} samples "
            "of the training set."
        )
    return text


def per_layer(rows: np.ndarray) -> list[dict[str, float | None]]:
    """Return the last look's figures, one dict for each layer."""
    row, count = rows[-1], rows["W"].shape[1]
    cosines = {f"mean_cos{k}": mean_cosine(row[f"cos{k}"]) for k in (1, 2, 3)}
    columns: dict[str, np.ndarray] = {
        "error": row["error"],
        "W": row["W"],
        "W_gradient": row["W_bar"],
        "gamma_gradient": row["gamma_bar"],
        **cosines,
        "handed_to_gamma": row["handed_to_gamma"],
        "stopped": row["stopped"],
        "removed": row["removed"],
        "saturated": row["saturated"],
        "directions": row["directions"],
    }
    return [
        {name: float(of[at]) if at < len(of) else None for name, of in columns.items()}
        for at in range(count)
    ]


_HEADINGS = {
    "error": "|Δ|",
    "W": "|W|",
    "W_gradient": "|∂C/∂W|",
    "gamma_gradient": "|∂C/∂γ|",
    "mean_cos1": "|cos θ1|",
    "mean_cos2": "|cos θ2|",
    "mean_cos3": "|cos θ3|",
    "handed_to_gamma": "to γ",
    "stopped": "stopped",
    "removed": "taken off",
    "saturated": "flat",
    "directions": "directions",
}
_SHARES = {"handed_to_gamma", "stopped", "saturated"}


def _tables(evidence: Evidence) -> list[str]:
    if not evidence.history:
        return []
    tables = []
    for name, rows in evidence.history.items():
        head = "".join(f"<th>{_text(heading)}</th>" for heading in _HEADINGS.values())
        lines = []
        for at, figures in enumerate(per_layer(rows)):
            cells = "".join(f"<td>{_cell(key, figures[key])}</td>" for key in _HEADINGS)
            lines.append(f"<tr><td>{at}</td>{cells}</tr>")
        moment = when(int(rows["epoch"][-1]))
        tables.append(
            f'<div class="wide"><table><caption>{_text(LABELS[name])}, {moment}</caption>'
            f"<tr><th>layer</th>{head}</tr>{''.join(lines)}</table></div>"
        )
    note = (
        "|W|, |∂C/∂W| and |∂C/∂γ| are root mean squares, of neurons, weights and neurons; cosines "
        "are means, to 0.03."
    )
    return [
        "<section><h2>Layer by layer</h2>",
        *tables,
        f'<p class="about">{note}</p></section>',
    ]


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return share(value) if key in _SHARES else number(value)


def _weight(weight: Weight, triangle: Panel, autodiff: float) -> str:
    cos1, cos2, cos3 = (number(cosine) for cosine in weight.cosines)
    steps = {"cos θ1 (Δ, x)": cos1, "cos θ2 (u, x)": cos2, "cos θ3 (Δ, u)": cos3}
    if weight.means is None:
        steps["bracket"] = f"cos θ3 − ρ² cos θ1 cos θ2 = {number(weight.bracket)}"
        steps["amplitude"] = f"B γ r σ(Δ) σ(u) = {number(weight.amplitude)}"
        together = f"{number(weight.amplitude)} · ({number(weight.bracket)})"
    else:
        steps["amplitude"] = f"B σ(Δ) σ(u) = {number(weight.amplitude)}"
        steps["averages"] = f"B ⟨Δ⟩⟨u⟩ = {number(weight.means)}"
        together = f"{number(weight.amplitude)} · ({cos3}) + ({number(weight.means)})"
    steps["∂C/∂W"] = f"{together} = {number(weight.gradient)}"
    steps["by jax.grad"] = number(autodiff)
    if weight.gamma_gradient is not None:
        steps["∂C/∂γ"] = number(weight.gamma_gradient)
    name = weight.name[0].upper() + weight.name[1:]
    return (
        f'<section id="weight"><h2>One weight: {_text(weight.name)}</h2>'
        f"<p>{_text(weight.text)}{_tags(weight.tags)}</p>"
        f'<div class="panels">{document.figure(triangle)}<div>{_list(steps)}'
        f'<p class="about">{_text(name)}, at the end of the run. Another one: '
        "<code>bnjax explain RUN --layer L --neuron N --input J</code>.</p></div></div></section>"
    )


def _beside(panels: Sequence[Panel]) -> str:
    return ' class="beside"' if len(panels) == 1 else ""


def _said(finding: Finding) -> str:
    return _text(finding.text) + _tags(finding.tags)


def _tags(tags: Iterable[str]) -> str:
    return "".join(f' <a class="tag" href="#{tag}">{tag}</a>' for tag in tags)


def _equations(tags: Iterable[str]) -> str:
    known = {one.tag: one for one in identities.all()}
    wanted = [tag for tag in known if tag in set(tags)]
    items = "".join(
        f'<dt id="{tag}">{tag}</dt><dd>{_text(known[tag].claim)}<br>'
        f'<span class="formula">{"<br>".join(map(_text, known[tag].statements))}</span></dd>'
        for tag in wanted
    )
    return f"<dl>{items}</dl><p>Check them on your machine: <code>bnjax verify</code>.</p>"


def _list(items: Mapping[str, str]) -> str:
    pairs = (f"<dt>{_text(key)}</dt><dd>{_text(text)}</dd>" for key, text in items.items())
    return f"<dl>{''.join(pairs)}</dl>"
