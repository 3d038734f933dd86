"""`bnjax explain`: what a run, or a recording, shows of how its networks learnt."""

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
from bnjax.app.report import weight as weights
from bnjax.app.report.evidence import Evidence, gather
from bnjax.app.report.subjects import describe_run, networks_of, recordings_in
from bnjax.app.report.weight import Weight
from bnjax.report import Report, Subject
from bnjax.report.page import per_layer


def explain(options: Explain) -> int:
    """Explain a run or a recording as the options say: a page, JSON or text.

    Returns:
        The exit code, 0.

    Raises:
        UserError: There is nothing to show, no such weight, or the page cannot be written.
    """
    options.check()
    path, weight = Path(options.run), None
    if recorded := recordings_in(path):
        if options.layer is not None or options.network is not None:
            raise UserError(
                f"--layer: a recording holds no single weights, and {path} is one; leave it out"
            )
        report = _of_recordings(path, recorded)
    else:
        evidence = gather(path)
        weight = _choose(evidence, options)
        report = _of_run(evidence, weight, checked=not (options.json or options.text))
    if options.json:
        print(files.to_json(_gathered(path, report, weight)).decode())
        return 0
    for sentence in report.missing:
        say(sentence)
    console = make_console()
    if options.text:
        _print(console, report)
        return 0
    out = _write(path, report)
    for finding in report.short:
        console.print(f"{finding.says}\n")
    if options.layer is not None and weight is not None:
        console.print(f"{weight.name}: {weight.text} [{', '.join(weight.tags)}]\n")
    console.print(f"see {out}", soft_wrap=True)
    return 0


def _choose(evidence: Evidence, options: Explain) -> Weight | None:
    """Look at the weight that is asked for, or at one by default."""
    if not evidence.angles:
        if options.layer is None and options.network is None:
            return None
        raise UserError(
            f"--layer: nothing is known of single weights of {evidence.path}. "
            + " ".join(evidence.missing)
        )
    chosen = {"layer": options.layer, "neuron": options.neuron, "input": options.input}
    return weights.examine(evidence.angles, **chosen, name=options.network)


def _of_run(evidence: Evidence, weight: Weight | None, *, checked: bool) -> Report:
    return Report(
        networks_of(evidence),
        f"How the run {evidence.path.resolve().name} learnt",
        describe_run(evidence),
        tuple(evidence.missing),
        () if weight is None else (weights.as_finding(weight, evidence, checked=checked),),
    )


def _of_recordings(path: Path, subjects: Sequence[Subject]) -> Report:
    name = path.resolve().stem if path.is_file() else path.resolve().name
    return Report(tuple(subjects), f"How {name} learnt")


def _write(path: Path, report: Report) -> Path:
    """Write the page: into a folder's report/, or beside a file."""
    single = path.is_file()
    out = path.with_name(f"{path.name}.html") if single else path / "report" / "index.html"
    try:
        if not single:
            files.subfolder(out.parent)  # before drawing, which takes a while
        text = report.html()
        files.write(out, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
    except OSError as error:
        raise UserError(
            f"{out} cannot be written: {error.strerror}; see to its permissions, or use --text or "
            "--json, which write nothing"
        ) from error
    return out


def _print(console: Console, report: Report) -> None:
    console.print(f"{report.about}\n")
    for finding in (*report.findings, *report.more):
        tags = f" [{', '.join(finding.tags)}]" if finding.tags else ""
        console.print(f"{finding.title}{tags}", style="bold")
        console.print(f"{finding.lines}\n")


def _gathered(path: Path, report: Report, weight: Weight | None) -> dict[str, Any]:
    seen = [one for one in report.subjects if one.seen]
    kept = ("name", "title", "text", "items", "advice", "tags", "figures", "strength")
    return {
        "run": str(path),
        "missing": report.missing,
        "samples": max((max(one.recording.samples, default=0) for one in seen), default=0),
        "looks": {one.name: one.recording.steps.tolist() for one in seen},
        "outstanding": [finding.name for finding in report.short],
        "findings": [{key: getattr(one, key) for key in kept} for one in report.findings],
        "layers": {one.name: per_layer(one) for one in seen},
        "weight": None
        if weight is None
        else dataclasses.asdict(weight)
        | {key: getattr(weight, key) for key in ("corner", "text", "tags")},
    }
