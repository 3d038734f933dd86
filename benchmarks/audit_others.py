"""Audit the derivative rules of JAX, Optax and the libraries beside them with `bnjax.audit`.

Each function of `_rules_of_others.py` is compared with the same written plainly, in every mode and
under every transform; `_findings_in_others.py` holds the points where a derivative is wrong, which
the audit must refuse and three lines of JAX reproduce.

    pip install '.[equinox,flax]' lineax optimistix diffrax
    python benchmarks/audit_others.py                     # all, as two tables in Markdown
    python benchmarks/audit_others.py --only special det  # those with one of these words
    python benchmarks/audit_others.py --json              # one line per function

The exit code is 1 where a function is refused that is not among the findings: it is a new finding,
or a false alarm, and both need a look.
"""

import argparse
import contextlib
import io
import json
import math
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import jax
from _findings_in_others import FINDINGS
from _rules_of_others import LIBRARIES, Case, collect
from jax.extend import core

from bnjax import audit

SECOND_ORDER = ("rev-over-rev", "fwd-over-rev")
RULES = {"custom_jvp_call": "custom_jvp", "custom_vjp_call": "custom_vjp"}


def compare(case: Case) -> audit.Report:
    """Audit one function, with x64 switched on where its arguments need it."""
    wide = any(getattr(leaf, "dtype", None) == "float64" for leaf in case.args)
    with jax.enable_x64(wide):
        return audit.compare(case.f, case.g, case.args, **case.options)


def rules(program: Any) -> Iterator[str]:
    """Yield which kinds of derivative rules a program uses."""
    for equation in program.eqns:
        if equation.primitive.name in RULES:
            yield RULES[equation.primitive.name]
        for inner in core.jaxprs_in_params(equation.params):
            yield from rules(inner)


def rule_of(case: Case) -> str:
    """Name the kinds of rules that a function uses itself, or those of JAX's primitives."""
    found = set(rules(jax.make_jaxpr(case.f)(*case.args).jaxpr))
    return ", ".join(sorted(found)) or "primitives"


def judge(name: str, case: Case) -> dict[str, Any]:
    """Audit one function; return the row of its table."""
    report = compare(case)
    # many rules have no second order: the table says so, and it is no wrong number
    raised = [row for row in report.rows if row.verdict == "raises" and row.mode in SECOND_ORDER]
    wrong = [row for row in report.rows if row.failed and row not in raised]
    judged = [row for row in report.rows if row.verdict in ("agrees", "disagrees", "coarse")]
    simplest = [row for row in wrong if row.mode == wrong[0].mode]
    worst = max(simplest or judged, key=lambda row: row.scaled)
    return {
        "name": name,
        "rule": rule_of(case),
        "reference": "differences" if case.g is None else "plain",
        "comparisons": len(report.rows),
        "worst": worst.scaled,
        "ok": not wrong,
        "where": f"{worst.mode} is {worst.got:.6g}, not {worst.wanted:.6g}" if wrong else "",
        "why": worst.why,
        "lacks": sorted({row.mode for row in raised}),
        "raises": sorted({row.why for row in raised}),
    }


def by_hand(lines: str) -> str:
    """Run three lines, and return what they print."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(lines, {})
    return printed.getvalue().strip()


def show(results: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    """Print both tables."""
    installed = (f"{name} {version(name)}" for name in LIBRARIES if find_spec(name))
    print(", ".join(installed), end="\n\n")
    print("| function | rule | compared with | comparisons | worst error, eps | verdict |")
    print("|---|---|---|---:|---:|---|")
    for one in results:
        verdict = "agrees" if one["ok"] else f"**refused**: {one['where']}"
        if one["lacks"]:
            verdict += f"; no {', '.join(one['lacks'])}"
        print(
            f"| `{one['name']}` | {one['rule']} | {one['reference']} | {one['comparisons']} "
            f"| {one['worst']:.1f} | {verdict} |"
        )
    for one in found:
        off = f", off by {one['worst']:.1e} eps" if math.isfinite(one["worst"]) else ""
        verdict = "no longer found" if one["ok"] else one["where"] + off
        print(f"**{one['name']}**: {one['what']}. Audit: {verdict}.\n")
        print(f"```python\n{one['lines']}\n# {one['printed']}\n```\n")


def main() -> int:
    """Audit all or some, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=[""], help="words of the names to audit")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    def chosen(name: str) -> bool:
        return any(word in name for word in options.only)

    results, found = [], []
    for name, case in collect().items():
        if chosen(name):
            results.append(judge(name, case))
            if options.json:
                print(json.dumps(results[-1]), flush=True)
    for name, finding in FINDINGS.items():
        if chosen(name):
            more = {"what": finding.what, "lines": finding.by_hand}
            found.append(judge(name, finding.case) | more | {"printed": by_hand(finding.by_hand)})
            if options.json:
                print(json.dumps(found[-1]), flush=True)
    if not options.json:
        show(results, found)
    return int(not all(one["ok"] for one in results))


if __name__ == "__main__":
    sys.exit(main())
