"""What `bnjax train --diagnostics 1` costs in the default run, and `geometry.Recorder` for a CNN.

    python -m benchmarks.diagnostics [--repeats 5]
    python -m benchmarks.diagnostics --recorder [--batch 128] [--samples 128 32]

Each run is a process of its own, with and without it in turn, and counted in processor seconds:
wall time is another matter on a machine with other work. Two figures, best of several:

- in all: a whole process with it against one without, so with all that is compiled;
- epoch by epoch: the looks and the writing against the rest of the same training loop, in one
  process, from the first epoch to the last: what a longer run approaches.

With --recorder a CNN of `_cnns`, in flax linen with bnjax's layers, sees 32 x 32 images: the best
processor seconds of a training step, and of a look at the batch or at its first samples; and, once
each, what compiling the two takes.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--recorder", action="store_true")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--samples", type=int, nargs="+", default=[128, 32])
    options = parser.parse_args()
    if options.recorder:
        _recorder(options.batch, options.samples, options.repeats)
        return
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


def _recorder(batch: int, samples: list[int], repeats: int) -> None:
    """Print what a look at a CNN costs, in training steps."""
    import jax
    import numpy as np

    from benchmarks import _cnns
    from bnjax.geometry import Recorder
    from bnjax.layers.linen import BatchNorm

    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(_cnns.CLASSES, size=batch)
    cnn = _cnns.linen(BatchNorm, jax.numpy.asarray(x))

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        (_, state), grads = jax.value_and_grad(cnn.loss, has_aux=True)(params, state, x, labels)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), state

    compiling, seconds = _timed(lambda: step(cnn.params, cnn.state), repeats)
    print(f"step: {1e3 * seconds:.1f} ms, compiled in {compiling:.1f} s")
    for n in samples:
        numbers = itertools.count()
        with tempfile.NamedTemporaryFile() as file:
            with Recorder(cnn.loss, file.name, every=1, has_aux=True) as recorder:

                def look(n: int = n, recorder: Any = recorder, numbers: Any = numbers) -> None:
                    recorder.look(next(numbers), cnn.params, cnn.state, x[:n], labels[:n])

                of_look, look_seconds = _timed(look, repeats)
        print(
            f"look at {n} samples: {1e3 * look_seconds:.1f} ms, compiled in {of_look:.1f} s; "
            f"one per 100 steps: {look_seconds / seconds:+.2f} %"
        )


def _timed(function: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return processor seconds of the first call, and of the best of the next ones."""
    import jax

    spent = []
    for _ in range(1 + repeats):
        began = time.process_time()
        jax.block_until_ready(function())
        spent.append(time.process_time() - began)
    return spent[0] - min(spent[1:]), min(spent[1:])


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
