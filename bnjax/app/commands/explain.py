"""`bnjax explain`: what a run shows of how its networks learnt."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bnjax.app.errors import UserError
from bnjax.app.io import files
from bnjax.app.io.terminal import console as make_console
from bnjax.app.io.terminal import say
from bnjax.app.options import Explain
from bnjax.app.report import findings, page, panels, sphere
from bnjax.app.report import weight as weights
from bnjax.app.report.evidence import Evidence, gather
from bnjax.app.report.finding import Finding
from bnjax.app.report.weight import Weight


def explain(options: Explain) -> int:
    """Explain a run as the options say: a page, JSON or text.

    Returns:
        The exit code, 0.

    Raises:
        UserError: There is nothing to show, no such weight, or the page cannot be written.
    """
    options.check()
    evidence = gather(options.run)
    found = findings.find(evidence)
    short = findings.outstanding(found)
    asked = options.layer is not None
    weight = None
    if evidence.angles or asked or options.network is not None:
        weight = weights.examine(
            evidence,
            layer=options.layer,
            neuron=options.neuron,
            input=options.input,
            name=options.network,
        )
    if options.json:
        print(files.to_json(_gathered(evidence, found, short, weight)).decode())
        return 0
    for sentence in evidence.missing:
        say(sentence)
    console = make_console()
    if options.text:
        _print(console, evidence, found, weight)
        return 0
    out = _write(evidence, found, short, weight)
    for finding in short:
        console.print(f"{finding.text} [{', '.join(finding.tags)}]\n")
    if asked and weight is not None:
        console.print(f"{weight.name}: {weight.text} [{', '.join(weight.tags)}]\n")
    console.print(f"see {out}", soft_wrap=True)
    return 0


def _write(
    evidence: Evidence, found: Sequence[Finding], short: Sequence[Finding], weight: Weight | None
) -> Path:
    out = evidence.path / "report" / "index.html"
    try:
        files.subfolder(out.parent)  # before drawing, which takes a while
        triangle = autodiff = None
        if weight is not None:
            triangle, autodiff = sphere.draw(weight), weights.by_autodiff(evidence, weight)
        drawn = panels.draw(evidence)
        text = page.write(evidence, found, short, drawn, weight, triangle, autodiff)
        files.write(out, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
    except OSError as error:
        raise UserError(
            f"{out} cannot be written: {error.strerror}; see to its permissions, or use --text or "
            "--json, which write nothing"
        ) from error
    return out


def _print(
    console: Console, evidence: Evidence, found: Sequence[Finding], weight: Weight | None
) -> None:
    console.print(page.describe(evidence) + "\n")
    for finding in found:
        console.print(f"{finding.title} [{', '.join(finding.tags)}]", style="bold")
        console.print(finding.text + "\n")
    if weight is not None:
        console.print(f"One weight: {weight.name} [{', '.join(weight.tags)}]", style="bold")
        console.print(weight.text)


def _gathered(
    evidence: Evidence, found: Sequence[Finding], short: Sequence[Finding], weight: Weight | None
) -> dict[str, Any]:
    return {
        "run": str(evidence.path),
        "missing": evidence.missing,
        "samples": evidence.samples,
        "looks": {name: rows["epoch"].tolist() for name, rows in evidence.history.items()},
        "outstanding": [finding.name for finding in short],
        "findings": [dataclasses.asdict(finding) for finding in found],
        "layers": {name: page.per_layer(rows) for name, rows in evidence.history.items()},
        "weight": None if weight is None else dataclasses.asdict(weight),
    }
