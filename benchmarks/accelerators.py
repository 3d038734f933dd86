"""How often batch normalization moves its batch through an accelerator's memory, without one.

Run: python benchmarks/accelerators.py [--targets v5e v6e h100] [--who bnjax flax ...]
         [--only TEXT ...] [--dtypes float32 bfloat16] [--jobs N] [--json] [--list]
         [--texts DIR] [--read FILE]

Needs `pip install '.[accelerators]'` on Linux, x86-64, and no accelerator: every program is
compiled for each target and its text is read; nothing runs, so there are no times. `_workloads`
says what is compiled, `_layers` with which normalization, `_targets` for what, and `_hlo` what is
counted.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import _hlo
import _layers
import _targets
import jax
from _workloads import WORKLOADS

DTYPES = ("float32", "bfloat16")
COLUMNS = ("passes", "rare", "HBM", "kernels", "temporary", "collectives", "forward", "evaluation")
LEGEND = """\
compiled, not run. Cells: {dtypes}, or one figure for both. The unit of passes, rare, HBM and
temporary is the bytes of the normalized array (of one device's part, without padding).

- passes: operands and results of all that runs, in whatever memory they lie; forward + backward of
  a normalization alone takes at least 8.
- rare: what a conditional's costlier branch moves beyond the other, which counts as passes.
- HBM: what goes to and from HBM, padded to tiles, prefetches too; on a GPU the same as passes.
- kernels: launches but for collectives; copies between memories are none.
- temporary: memory beyond arguments and results.
- collectives: all-reduces, all-gathers and others by name.
- forward, evaluation: passes of these alone, at least 3 and, before a ReLU, at least 2.
"""


class Task(NamedTuple):
    """One program to compile."""

    target: str
    workload: str
    who: str
    dtype: str


def measure(task: Task, texts: Path | None = None) -> dict[str, Any]:
    """Compile one program and count what it does.

    Returns:
        The task and the counts, in units of the normalized array's bytes; or the task and why it
        cannot be compiled, as "error".
    """
    workload = WORKLOADS[task.workload]
    devices = _devices(task.target)
    started = time.perf_counter()
    try:
        lowered = workload.lower(_layers.LAYERS[task.who], task.dtype, devices)
        compiled = lowered.compile()
    except Exception as error:  # noqa: BLE001 - a peer's failure is one cell of the table
        return task._asdict() | {"error": f"{type(error).__name__}: {error}"[:500]}
    text = compiled.as_text()
    if texts is not None:
        name = "_".join(task).replace(" ", "_").replace(":", "").replace(",", "")
        (texts / f"{name}.hlo").write_text(text)
    counts, unit = _hlo.count(text), workload.unit(task.dtype, len(devices))
    return task._asdict() | {
        "passes": counts.bytes / unit,
        "rare": counts.rare / unit,
        "hbm": counts.hbm / unit,
        "kernels": counts.kernels,
        "temporary": compiled.memory_analysis().temp_size_in_bytes / unit,
        "collectives": dict(counts.collectives),
        "seconds": time.perf_counter() - started,
    }


@cache
def _devices(target: str) -> list[jax.Device]:
    return _targets.devices(target)


def tasks(options: argparse.Namespace) -> list[Task]:
    """List the programs that were asked for, those first that take longest to compile."""
    chosen = [
        Task(target, workload, who, dtype)
        for target in options.targets
        for workload in workloads(options.only)
        for who in options.who
        for dtype in options.dtypes
        if _layers.LAYERS[who].evaluate or not workload.endswith(": evaluation")
    ]

    def slow(task: Task) -> bool:  # a TPU's compiler tries many ways to tile a convolution
        platform = _targets.TARGETS[task.target].platform
        return platform == "tpu" and task.workload.startswith(("two convolutions", "residual"))

    return sorted(chosen, key=slow, reverse=True)


def workloads(only: list[str]) -> list[str]:
    return [name for name in WORKLOADS if not only or any(text in name for text in only)]


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Compile and count; progress goes to stderr."""
    todo = tasks(options)
    results = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for result in pool.map(partial(measure, texts=options.texts), todo):
            results.append(result)
            if sys.stderr.isatty():
                print(f"\r{len(results)} of {len(todo)}", end="", file=sys.stderr)
    order = {name: place for place, name in enumerate((*WORKLOADS, *_layers.LAYERS))}
    return sorted(results, key=lambda r: (order[r["workload"]], order[r["who"]]))


def table(results: list[dict[str, Any]], target: str, dtypes: list[str]) -> str:
    """Lay out one target's results: a row for each program and layer, dtypes in each cell."""
    found = {(r["workload"], r["who"], r["dtype"]): r for r in results}
    lines = [f"| {target} | | {' | '.join(COLUMNS)} |", f"|---|---|{'---:|' * len(COLUMNS)}"]
    shown = None
    for workload, who in dict.fromkeys((name, who) for name, who, _ in found):
        if ": " in workload and (workload.partition(": ")[0], who, dtypes[0]) in found:
            continue  # a column of the row with its backward pass
        rows = [found[workload, who, dtype] for dtype in dtypes]
        more = {
            column: [found.get((f"{workload}: {column}", who, dtype), {}) for dtype in dtypes]
            for column in ("forward", "evaluation")
        }
        cells = [cell(column, more.get(column, rows)) for column in COLUMNS]
        title = workload if workload != shown else ""
        shown = workload
        lines.append(f"| {title} | {who} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(column: str, rows: list[dict[str, Any]]) -> str:
    """Format one column of one program, compiled with each dtype."""
    if any("error" in row for row in rows):
        return "fails" if column == "passes" else ""

    def figure(row: dict[str, Any]) -> str:
        if column == "collectives":
            return ", ".join(f"{n} {name}" for name, n in sorted(row[column].items()))
        if column == "kernels":
            return str(row[column])
        value = row["passes" if column in ("forward", "evaluation") else column.lower()]
        return f"{value:.1f}" if column == "HBM" else f"{value:.2f}"

    figures = [figure(row) if row else "" for row in rows]
    return figures[0] if len(set(figures)) == 1 else " / ".join(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    targets, everyone = list(_targets.TARGETS), list(_layers.LAYERS)
    parser.add_argument("--targets", nargs="+", choices=targets, default=targets)
    parser.add_argument("--who", nargs="+", choices=everyone, default=everyone)
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="parts of the names")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=[*DTYPES])
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    parser.add_argument("--texts", type=Path, metavar="DIR", help="keep the programs' texts")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--read", type=Path, metavar="FILE", help="show what --json printed before")
    parser.add_argument("--list", action="store_true", help="print the programs' names and exit")
    options = parser.parse_args()
    if options.list:
        print(*workloads(options.only), sep="\n")
        return
    if options.read is not None:
        show(json.loads(options.read.read_text()), options)
        return
    if packages := _targets.missing(options.targets):
        parser.error(
            f"{', '.join(packages)} must be installed to compile for {', '.join(options.targets)}: "
            "pip install '.[accelerators]' (Linux, x86-64)"
        )
    if not workloads(options.only):
        parser.error(f"--only: no program's name contains {' or '.join(options.only)}; try --list")
    absent = _layers.missing()
    options.who = [who for who in options.who if _layers.LAYERS[who].module not in absent]
    if options.texts is not None:
        options.texts.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    found = {"versions": _targets.versions(), "missing": absent, "programs": run(options)}
    found["took"] = f"{time.perf_counter() - started:.0f} s, {options.jobs} processes"
    if options.json:
        print(json.dumps(found))
    else:
        show(found, options)


def show(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the tables, and on stderr what could not be compiled."""
    programs = found["programs"]
    print(LEGEND.format(dtypes=" / ".join(options.dtypes)))
    print(f"{found['versions']}; peers not installed: {', '.join(found['missing']) or 'none'}.")
    print(f"{len(programs)} programs in {found['took']}.")
    chosen = set(workloads(options.only))
    for target in options.targets:
        shown = [
            program
            for program in programs
            if program["target"] == target
            if program["workload"] in chosen and program["who"] in options.who
        ]
        print(f"\n{table(shown, target, options.dtypes)}")
    for program in programs:
        if "error" in program:
            print(*(program[key] for key in (*Task._fields, "error")), sep=" | ", file=sys.stderr)


if __name__ == "__main__":
    main()
