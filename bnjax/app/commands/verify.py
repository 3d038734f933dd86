"""`bnjax verify`: every equation, on fresh random cases, in a table."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from bnjax import identities
from bnjax.app.io import files
from bnjax.app.io.terminal import console as make_console
from bnjax.app.options import Verify
from bnjax.app.run.config import device_name
from bnjax.identities import Identity, Result, sheet

# (ε, B, n): with a width of 7 or more every activation occurs in the networks of a case
SETTINGS = ((0.0, 8, 7), (0.3, 3, 9))
_THREADS = 2  # compiling takes most of the time, and it does not hold Python's lock


class CaseSetting(NamedTuple):
    """The arguments that the cases of one run over all identities share."""

    dtype: str
    eps: float
    batch: int
    width: int


class Check(NamedTuple):
    """One identity on one case, and the seed that draws the case again."""

    result: Result
    seed: int

    def repeat(self) -> str:
        """Return the command that repeats the check."""
        tag, *_, dtype, eps, batch, width = self.result
        return (
            f"bnjax verify --only {tag} --seed {self.seed} --cases 1 --batch {batch} "
            f"--width {width} --eps {eps:g} --dtype {dtype}"
        )


def verify(options: Verify) -> int:
    """Check the chosen identities and print the results.

    Returns:
        The exit code: 0, or 1 if an identity falls short.

    Raises:
        UserError: An option is out of its range; nothing has been checked.
    """
    began = time.perf_counter()
    options.check()
    jax.config.update("jax_enable_x64", True)
    chosen = [one for one in identities.all() if not options.only or one.tag in options.tags()]
    settings = _settings(options)
    found: dict[str, list[Check]] = {one.tag: [] for one in chosen}
    with _progress(len(chosen), len(settings) * options.cases) as advance:

        def run(setting: CaseSetting) -> list[Check]:
            return list(_checks(chosen, setting, options, advance))

        with ThreadPoolExecutor(_THREADS) as pool:
            for checks in pool.map(run, settings):
                for check in checks:
                    found[check.result.tag].append(check)
    summary = _summary(chosen, found, options)
    summary["seconds"] = time.perf_counter() - began
    if options.json:
        print(files.to_json(summary).decode())
    else:
        _print_summary(chosen, found, summary, options)
    return 0 if summary["passed"] else 1


def _settings(options: Verify) -> list[CaseSetting]:
    dtypes = tuple(identities.TOLERANCE) if options.dtype == "both" else (options.dtype,)
    settings = [
        CaseSetting(
            dtype,
            eps if options.eps is None else options.eps,
            batch if options.batch is None else options.batch,
            width if options.width is None else options.width,
        )
        for eps, batch, width in SETTINGS
        for dtype in dtypes
    ]
    return list(dict.fromkeys(settings))  # equal ones are run once


def _checks(
    chosen: list[Identity], setting: CaseSetting, options: Verify, advance: Any
) -> Iterator[Check]:
    """Check, on every case of a setting, the identities that apply there."""
    for seed in range(options.seed, options.seed + options.cases):
        case = identities.draw(jax.random.key(seed), **setting._asdict())
        for one in chosen:
            if one.applies(setting.eps, setting.batch):
                yield Check(identities.measure(one, case), seed)
            advance()


@contextmanager
def _progress(equations: int, cases: int) -> Iterator[Any]:
    """Show the progress on stderr: a bar in a terminal, one line elsewhere."""
    console = make_console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        message = (
            f"checking {_count(equations, 'equation')}, each on {_count(cases, 'random case')}"
        )
        console.print(message)
        yield lambda: None
        return
    columns = TextColumn("checking"), BarColumn(bar_width=40), MofNCompleteColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("checking", total=equations * cases)
        yield lambda: progress.advance(task)


def _worst(checks: list[Check], dtype: str) -> Check | None:
    """Return the check of that dtype that is nearest to failing, None if there is none."""
    of = [check for check in checks if check.result.dtype == dtype]
    # a claim that could not be refuted is worse than any error
    return max(of, key=lambda one: (not one.result.refuted(), one.result.error), default=None)


def _summary(
    chosen: list[Identity], found: dict[str, list[Check]], options: Verify
) -> dict[str, Any]:
    """Summarize the checks in plain Python values, ready for JSON."""
    entries, worst = [], {}
    for one in chosen:
        checks = found[one.tag]
        at_worst = {
            dtype: {**check.result._asdict(), "seed": check.seed, "repeat": check.repeat()}
            for dtype in identities.TOLERANCE
            if (check := _worst(checks, dtype)) is not None
        }
        for dtype, check in at_worst.items():
            if dtype not in worst or check["error"] > worst[dtype]["error"]:
                worst[dtype] = check
        entries.append(
            {
                "tag": one.tag,
                "claim": one.claim,
                "formula": one.formula,
                "source": one.source,
                "holds": one.holds,
                "scale": one.scale,
                "checks": len(checks),
                "verdict": _verdict(one, checks, options),
                "worst": at_worst,
            }
        )
    return {
        "equations": len(chosen),
        "checks": sum(len(checks) for checks in found.values()),
        "passed": not any(entry["verdict"] == "falls short" for entry in entries),
        "tolerance": options.tolerance or identities.TOLERANCE,
        "worst": worst,
        "identities": entries,
        "errata": {one.tag: one.correction for one in chosen if one.correction},
        "device": device_name(),
    }


def _verdict(one: Identity, checks: list[Check], options: Verify) -> str:
    if not checks:
        return (
            f"needs ε = 0, B ≥ {one.batch}" if one.holds == "eps = 0" else f"needs B ≥ {one.batch}"
        )
    if not all(check.result.passed(options.tolerance) for check in checks):
        return "falls short"
    return "claim refuted" if one.correction else "holds"


def _print_summary(
    chosen: list[Identity], found: dict[str, list[Check]], summary: dict[str, Any], options: Verify
) -> None:
    """Print the summary on stdout, as a table and sentences."""
    console = make_console()
    if not console.is_terminal:
        console.width = 130  # a file has no width
    table = Table("tag", "claim", "source")
    dtypes = [dtype for dtype in identities.TOLERANCE if dtype in summary["worst"]]
    for dtype in dtypes:
        table.add_column(dtype, justify="right")
    table.add_column("verdict")
    group = None
    for one, entry in zip(chosen, summary["identities"], strict=True):
        letters = one.tag.split(".")[0]
        if letters != group:
            table.add_section()
            table.add_row(letters, identities.GROUPS[letters], style="bold")
            group = letters
        at_worst = [_worst(found[one.tag], dtype) for dtype in dtypes]
        errors = ("–" if check is None else f"{check.result.error:.1e}" for check in at_worst)
        table.add_row(one.tag, one.claim, one.source, *errors, entry["verdict"])
    console.print(table)
    short = [entry for entry in summary["identities"] if entry["verdict"] == "falls short"]
    for entry in short:
        for check in found[entry["tag"]]:
            if not check.result.passed(options.tolerance):
                _print_line(console, _shortfall(check, options))
                break
    worst = ", ".join(
        f"{check['error']:.1e} in {dtype} ({check['tag']})"
        for dtype, check in summary["worst"].items()
    )
    failures = f"{len(short)} fall{'s' if len(short) == 1 else ''} short"
    _print_line(
        console,
        f"{_count(len(chosen), 'equation')}, {_count(summary['checks'], 'check')}, {failures}; "
        f"worst scaled error {worst or 'none'}; {summary['device']}, {summary['seconds']:.1f} s",
    )
    _print_line(
        console,
        "S0 to S4 are the notes that bnjax grew out of. Formulas, derivations and sources: "
        f"{sheet.COMMAND}",
    )
    if summary["errata"]:
        _print_line(console, "\nWhat the sources get wrong:")
        for tag, correction in summary["errata"].items():
            _print_line(console, f"{tag}  {correction}")


def _shortfall(check: Check, options: Verify) -> str:
    """Return by how much a check fell short, and the command that repeats it."""
    result = check.result
    if not result.refuted():
        refutation = 0.0 if result.refutation is None else result.refutation
        what = f"the false claim is only {refutation:.1e} from the truth, not {result.margin:g}"
    else:
        limit = options.tolerance or identities.TOLERANCE[result.dtype]
        what = f"scaled error {result.error:.1e} > {limit:g}"
    return f"{result.tag} falls short: {what}; to repeat: {check.repeat()}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _print_line(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True)
