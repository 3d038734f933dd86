"""What `bnjax train --diagnostics 1` costs in the default run.

    python -m benchmarks.diagnostics [--repeats 5]

Each run is a process of its own, with and without it in turn, and counted in processor seconds:
wall time is another matter on a machine with other work. Two figures, best of several:

- in all: a whole process with it against one without, so with all that is compiled;
- epoch by epoch: the looks and the writing against the rest of the same training loop, in one
  process, from the first epoch to the last: what a longer run approaches.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        _child(options.child, options.epochs)
        return
    runs: dict[int, list[dict[str, float]]] = {0: [], 1: []}
    for _ in range(options.repeats):
        for every in (0, 1):
            command = [sys.executable, "-m", "benchmarks.diagnostics", "--child", str(every)]
            command += ["--epochs", str(options.epochs)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs[every].append(json.loads(printed.splitlines()[-1]))
    off, on = (min(run["all"] for run in runs[every]) for every in (0, 1))
    print(f"in all: {off:.2f} s, with diagnostics {on:.2f} s: {100 * (on / off - 1):+.1f} %")
    start = min(run["start"] for run in runs[1])
    looks, loop = min((run["looks"], run["loop"]) for run in runs[1])
    print(f"of that compiling and the first look: {start:.2f} s")
    print(
        f"epoch by epoch: {loop - looks:.2f} s, looks {looks:.2f} s: "
        f"{100 * looks / (loop - looks):+.1f} %"
    )


def _child(every: int, epochs: int) -> None:
    """Train once; print processor seconds."""
    from bnjax.app.main import run
    from bnjax.app.measures import looks as diagnostics

    spent = {"start": 0.0, "looks": 0.0, "began": 0.0, "ended": 0.0}

    def timed(name: str, into: str) -> None:
        plain = getattr(diagnostics.Recorder, name)

        def method(self: Any, *args: Any, **more: Any) -> Any:
            before, counted = time.process_time(), sum(spent[key] for key in ("start", "looks"))
            result = plain(self, *args, **more)
            spent["ended"] = time.process_time()
            inner = spent["start"] + spent["looks"] - counted  # what it called is counted already
            spent[into] += spent["ended"] - before - inner
            if name == "__init__":
                spent["start"], spent["looks"] = spent["start"] + spent["looks"], 0.0
                spent["began"] = spent["ended"]
            return result

        setattr(diagnostics.Recorder, name, method)

    for name, into in (("__init__", "start"), ("look", "looks"), ("write", "looks")):
        timed(name, into)
    with tempfile.TemporaryDirectory() as folder:
        more = ["--epochs", str(epochs), "--diagnostics", str(every)]
        if run(["train", *more, "--out", f"{folder}/run", "--json"]):
            raise SystemExit("the run failed")
    figures = {"all": time.process_time(), "loop": spent["ended"] - spent["began"], **spent}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
