"""What came of the claims: the table, the same as Markdown, and as one page."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from bnjax.app.io.terminal import console as make_console
from bnjax.app.report import charts, document
from bnjax.app.report.document import text
from bnjax.app.run.measured import Outcome
from bnjax.identities.sources import SOURCES

_HEADINGS = ("claim", "source", "varied", "measured: median (least to most)", "verdict")


def show(result: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Print the table for a person, on stdout."""
    console = make_console()
    if not console.is_terminal:
        console.width = 150  # a file has no width
    table = Table(*_HEADINGS, show_lines=True)
    for outcome in outcomes:
        claim = outcome.claim
        measured = "\n".join(_figures(outcome))
        table.add_row(claim.text, claim.source, claim.varied, measured, _verdict(outcome))
    console.print(f"data: {_about(result)}", soft_wrap=True)
    console.print(table)
    for outcome in outcomes:
        console.print(f"{outcome.claim.name}: {outcome.claim.criterion}", soft_wrap=True)
    console.print(
        f"{result['device']}, {result['seconds']:.1f} s, see {result['out']}/index.html",
        soft_wrap=True,
    )


def as_markdown(result: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Write the table and one section for each claim, with its picture, as Markdown."""
    lines = [
        "# Claims about batch normalization, measured",
        "",
        f"Data: {_about(result)}",
        "",
        f"Written by `{_command(result)}` as `CLAIMS.md`, on {result['device']}. " + _HOW_JUDGED,
        "",
        f"| {' | '.join(_HEADINGS)} |",
        f"|{'---|' * len(_HEADINGS)}",
    ]
    for outcome in outcomes:
        claim = outcome.claim
        link = f"[{claim.text}](#{claim.name})"
        cells = link, claim.source, claim.varied, "<br>".join(_figures(outcome)), _verdict(outcome)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    for outcome in outcomes:
        claim = outcome.claim
        lines += [
            "",
            f"## {claim.name}",
            "",
            f"{claim.text} ({claim.source}) **{outcome.verdict}**",
            "",
            f"Varied: {claim.varied}",
            "",
            f"Criterion: {claim.criterion}",
            "",
            *(f"- {figure}" for figure in _figures(outcome)),
            "",
            f"![{claim.text}](claims/{claim.name}.png)",
        ]
    lines += ["", "## Sources", ""]
    lines += [f"- {key}: {reference}" for key, reference in _sources(outcomes).items()]
    return "\n".join(lines) + "\n"


def as_page(result: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Write one page of HTML that needs no other file."""
    title = "Claims about batch normalization, measured"
    head = "".join(f"<th>{text(each)}</th>" for each in (*_HEADINGS[:2], *_HEADINGS[3:]))
    rows = []
    for outcome in outcomes:
        measured = "<br>".join(map(text, _figures(outcome)))
        rows.append(
            f'<tr><td><a href="#{outcome.claim.name}">{text(outcome.claim.text)}</a></td>'
            f"<td>{text(outcome.claim.source)}</td><td>{measured}</td><td>{text(_verdict(outcome))}</td></tr>"
        )
    body = [
        f"<h1>{title}</h1>",
        f'<p class="about">{text(_about(result))} {text(_HOW_JUDGED)}</p>',
        f'<div class="wide"><table class="words"><tr>{head}</tr>{"".join(rows)}</table></div>',
        *map(_section, outcomes),
        f"<section><h2>Sources</h2>{_list(_sources(outcomes))}</section>",
        f"<footer><p>Written by <code>{text(_command(result))}</code> on "
        f"{text(result['device'])}, {result['seconds']:.0f} s.</p></footer>",
    ]
    return document.page(title, body)


_HOW_JUDGED = (
    "Each criterion was fixed before its experiment ran. The seeds are divided into disjoint sets; "
    "where these do not agree, the verdict is “depends”."
)


def _section(outcome: Outcome) -> str:
    claim = outcome.claim
    items = {
        "Source": claim.source,
        "Varied": claim.varied,
        "Criterion": claim.criterion,
        "Measured": "; ".join(_figures(outcome)),
        "Verdict": _verdict(outcome),
    }
    drawn = charts.panels(claim.name, claim.charts(outcome.measured))
    beside = ' class="beside"' if len(drawn) == 1 else ""
    return (
        f'<section id="{claim.name}"{beside}><h2>{text(claim.text)}</h2>{_list(items)}'
        f"{document.figures(drawn)}</section>"
    )


def _list(items: Mapping[str, str]) -> str:
    pairs = (f"<dt>{text(key)}</dt><dd>{text(value)}</dd>" for key, value in items.items())
    return f"<dl>{''.join(pairs)}</dl>"


def _sources(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Return the references of the sources that the claims name, by their keys."""
    named = " ".join(outcome.claim.source for outcome in outcomes)
    return {one.key: one.reference for one in SOURCES if one.key in named}


def _figures(outcome: Outcome) -> list[str]:
    return [f"{figure.name}: {figure}" for figure in outcome.claim.figures(outcome.measured)]


def _verdict(outcome: Outcome) -> str:
    """Write the verdict, and those of the sets where they disagree."""
    if len(set(outcome.sets)) == 1:
        return outcome.verdict
    return f"{outcome.verdict} (sets of seeds: {', '.join(outcome.sets)})"


def _about(result: dict[str, Any]) -> str:
    seeds, options = result["seeds"], result["options"]
    which = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    return (
        f"{result['data']}, {which}, mini-batches of {result['batch_size']}; learnt means "
        f"{options['target']:.0%} of the test set. ".replace("%", " %")
    ).strip()


def _command(result: dict[str, Any]) -> str:
    options = result["options"]
    words = ["bnjax claims"]
    if options["only"]:
        words.append(f"--only {' '.join(options['only'])}")
    if options["quick"]:
        words.append("--quick")
    if options["data"] != "digits":
        words.append(f"--data {options['data']}")
    if options["seeds"] is not None:
        words.append(f"--seeds {options['seeds']}")
    if options["first_seed"]:
        words.append(f"--first-seed {options['first_seed']}")
    return " ".join(words)
