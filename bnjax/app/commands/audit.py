"""`bnjax audit`: hold bnjax's own rules, or a user's function, to a plain reference."""

import importlib
import operator
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
from rich.table import Table

from bnjax import audit as rules
from bnjax.app.errors import UserError, nearest
from bnjax.app.io import files
from bnjax.app.io.terminal import console as make_console
from bnjax.app.options import Audit
from bnjax.app.run.config import device_name
from bnjax.own_rules import DTYPES, Case, own_cases

_WORKERS = 2  # compiling is what takes the time, and it leaves Python's lock alone


class Finding(NamedTuple):
    """What came of one rule on one kind of arguments: a report for each of `DTYPES`."""

    rule: str
    what: str
    reports: tuple[rules.Report, ...]

    @property
    def worst(self) -> rules.Row:
        """The worst row of all dtypes."""
        return max(self.reports, key=lambda report: (not report.ok, report.worst.scaled)).worst


def audit(options: Audit) -> int:
    """Audit what the options name, bnjax's own rules if they name nothing; print what was found.

    Returns:
        The exit code: 0, or 1 if a rule and its reference disagree.

    Raises:
        UserError: The options do not fit, or a function cannot be loaded or called.
    """
    options.check()
    return _theirs(options) if options.functions else _ours(options)


def _theirs(options: Audit) -> int:
    """Audit a function of the user's."""
    sys.path.insert(0, "")  # what lies in the current folder can be named
    f, *rest = [_load(name, "functions") for name in options.functions]
    assert options.args is not None
    make_args = _load(options.args, "--args")
    try:
        args = make_args()
    except Exception as error:
        raise UserError(f"--args: {options.args}() raised {_said(error)}") from error
    try:
        report = rules.compare(
            f,
            rest[0] if rest else None,
            args,
            rtol=options.rtol,
            modes=options.modes or "all",
            transforms=options.transforms or "all",
            allow_coarse_derivatives=options.allow_coarse_derivatives,
            key=options.seed,
        )
    except Exception as error:  # their functions may raise anything
        said = str(error) if str(error).startswith("audit.") else _said(error)
        raise UserError(f"{options.functions[0]}: {said}") from error
    if options.json:
        print(files.to_json(report.to_json()).decode())
    else:
        print(report)
    return 0 if report.ok else 1


def _load(name: str, option: str) -> Callable[..., Any]:
    """Import MODULE and take NAME out of it."""
    module, _, attribute = name.partition(":")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            raise UserError(f"{option}: there is no module {module!r}") from None
        raise UserError(f"{option}: importing {module} raised {_said(error)}") from error
    except Exception as error:
        raise UserError(f"{option}: importing {module} raised {_said(error)}") from error
    try:
        found = operator.attrgetter(attribute)(loaded)
    except AttributeError:
        names = [one for one in vars(loaded) if not one.startswith("_")]
        hint = nearest(attribute, names)
        raise UserError(f"{option}: {module} has no {attribute!r}: {hint}") from None
    if not callable(found):
        raise UserError(f"{option}: {name} is a {type(found).__name__}, not a function")
    return found


def _said(error: Exception) -> str:
    first = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first[0]}"


def _ours(options: Audit) -> int:
    """Audit bnjax's own rules over shapes, axes, weights, scales and dtypes."""
    began = time.perf_counter()
    jax.config.update("jax_enable_x64", True)
    cases = own_cases(options.seed)
    count = sum(len(case.inputs) for case in cases)
    console = make_console(stderr=True)
    console.print(f"auditing {count} cases in {len(DTYPES)} dtypes")
    with ThreadPoolExecutor(_WORKERS) as pool:
        findings = [one for found in pool.map(partial(_audit, options), cases) for one in found]
    if not findings:
        raise UserError("--modes: no rule is compared in these modes")
    entries = [
        {"rule": one.rule, "case": one.what, "dtype": dtype, **report.to_json()}
        for one in findings
        for dtype, report in zip(DTYPES, one.reports, strict=True)
    ]
    at = max(findings, key=lambda one: (one.worst.failed, one.worst.scaled))
    summary = {
        "cases": len(findings),
        "comparisons": sum(len(entry["rows"]) for entry in entries),
        "failed": sum(not entry["ok"] for entry in entries),
        "worst": {"rule": at.rule, "case": at.what, **at.worst._asdict()},
        "tolerance": entries[0]["tolerance"],
        "audits": entries,
        "device": device_name(),
        "seconds": time.perf_counter() - began,
    }
    if options.json:
        print(files.to_json(summary).decode())
    else:
        _show(findings, summary)
    return 1 if summary["failed"] else 0


def _audit(options: Audit, case: Case) -> list[Finding]:
    """Compare one rule on all its arguments, in every dtype."""
    modes = [mode for mode in case.modes if mode in (options.modes or rules.MODES)]
    if not modes:
        return []
    compare = rules.make_compare(
        case.f,
        case.g,
        argnums=case.argnums,
        rtol=options.rtol,
        modes=modes,
        transforms=options.transforms or "jit",
    )
    return [
        Finding(case.rule, what, tuple(compare(make(dtype), key=options.seed) for dtype in DTYPES))
        for what, make in case.inputs.items()
    ]


def _show(findings: list[Finding], summary: dict[str, Any]) -> None:
    """Print the summary for a person, on stdout."""
    console = make_console()
    if not console.is_terminal:
        console.width = 130  # a file has no width
    table = Table("rule", "on", title="worst error, in eps of each dtype", title_justify="left")
    for title in (*DTYPES, "comparisons"):
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for rule, what, reports in findings:
        figures = (f"{report.worst.scaled:.2g}" for report in reports)
        verdict = "agrees" if all(report.ok for report in reports) else "disagrees"
        count = sum(len(report.rows) for report in reports)
        table.add_row(rule, what, *figures, str(count), verdict)
    console.print(table)
    console.print(
        "Scales are those of bfloat16 and float32; float16 and float64 are tried at the same share "
        "of their range.",
        soft_wrap=True,
    )
    for rule, what, reports in findings:
        for dtype, report in zip(DTYPES, reports, strict=True):
            if not report.ok:
                console.print(f"{rule}, {what}, {dtype}:\n{report}", soft_wrap=True)
    worst = summary["worst"]
    console.print(
        f"{summary['cases']} cases in {len(DTYPES)} dtypes, {summary['comparisons']} comparisons, "
        f"{summary['failed']} disagree; worst {worst['scaled']:.2g} eps, up to "
        f"{summary['tolerance']:g} agrees ({worst['mode']} of {worst['leaf']} in {worst['dtype']}, "
        f"{worst['rule']}, {worst['case']}); {summary['device']}, {summary['seconds']:.1f} s",
        soft_wrap=True,
    )
