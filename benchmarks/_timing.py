"""What the benchmarks share: interleaved timing, a table of it, and what it ran on."""

import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from importlib import metadata

import jax


def interleave(candidates: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Time each candidate in turn, round after round, after one warm-up each.

    On a busy machine neighbours in time are comparable; one candidate's block of rounds after
    another's is not. Each round has an order of its own: what a candidate leaves behind, threads
    that still spin or caches that are full, would always slow down the same next one.

    Args:
        candidates: What to time, by name. Each must wait for its own result.
        rounds: How often.

    Returns:
        Seconds, one per round, by name.
    """
    for candidate in candidates.values():
        candidate()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    rng = random.Random(0)
    for _ in range(rounds):
        for name, candidate in rng.sample(list(candidates.items()), len(candidates)):
            started = time.perf_counter()
            candidate()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def summarize(seconds: dict[str, list[float]], baseline: str) -> dict[str, dict[str, float]]:
    """Reduce to median and best, in seconds, and to how many times the baseline's they are."""
    reduced = {
        name: {"median": statistics.median(times), "best": min(times)}
        for name, times in seconds.items()
    }
    unit = reduced[baseline]
    return {
        name: row | {f"{kind}_ratio": row[kind] / unit[kind] for kind in ("median", "best")}
        for name, row in reduced.items()
    }


def table(seconds: dict[str, list[float]], baseline: str, *, title: str = "") -> None:
    """Print a markdown table: median and best in ms, and both as multiples of the baseline's.

    Args:
        seconds: As `interleave` hands them out.
        baseline: The name of the row that counts 1.00.
        title: What the rows are; the first column's head.
    """
    width = max(map(len, (title, *seconds)))
    print(f"| {title:{width}} | median ms |  best ms | x median | x best |")
    print(f"|{'-' * (width + 2)}|----------:|---------:|---------:|-------:|")
    for name, row in summarize(seconds, baseline).items():
        print(
            f"| {name:{width}} | {1e3 * row['median']:9.3f} | {1e3 * row['best']:8.3f} "
            f"| {row['median_ratio']:8.2f} | {row['best_ratio']:6.2f} |"
        )
    print(f"\nx: times the row {baseline!r}; {len(seconds[baseline])} interleaved rounds")


def machine() -> str:
    """Describe what the numbers were measured on, in one line."""
    device = jax.devices()[0]
    found = [f"Python {platform.python_version()}"]
    for package in ("jax", "flax", "optax", "torch"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} missing")
    return f"{os.cpu_count()} CPUs, {device.platform} ({device.device_kind}); {', '.join(found)}"
