"""`bnjax claims`: each claim about learning as an experiment, and what came of it."""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from bnjax import claims as library
from bnjax.app import data as datasets
from bnjax.app.io import files
from bnjax.app.io.terminal import TrainingProgress, say
from bnjax.app.options import Claims
from bnjax.app.report import charts, verdicts
from bnjax.app.run import config, measured
from bnjax.app.run.measured import ClaimsFolder, Outcome
from bnjax.claims import Claim, Data, Setting

_BATCH = 60
_SPLIT_SEED = 0  # one split: the seeds are those of weights and batches


def claims(options: Claims, *, given: frozenset[str] = frozenset()) -> int:
    """Measure the claims as the options say; write the folder; print the table.

    Args:
        options: The options.
        given: The names of those that were spelt out, as --only.

    Returns:
        The exit code, 0: that a claim is not seen is what this is to find out.

    Raises:
        UserError: Options or data do not fit, or the folder cannot be written.
    """
    begun = None
    if options.resume is not None:
        begun, options = measured.take_up(options, given)
    options.check()
    say(f"reading {options.data}")
    data, setting = _load(options)
    now = config.make(options, config.resolve(options.data, data, setting.batch_size))
    if begun is not None:
        config.check_same(Path(options.resume or ""), begun, now)
        folder = ClaimsFolder.reopen(Path(options.resume or ""))
    else:
        folder = ClaimsFolder.create(options.out, overwrite=options.overwrite)
    with contextlib.closing(folder):
        if begun is None:
            folder.write(config.FILE, now)
        chosen = [claim for claim in library.CLAIMS if claim.name in (options.only or claim.name)]
        outcomes = _measure(folder, setting, chosen)
        about = {
            "data": data.name,
            "options": dataclasses.asdict(options),
            "batch_size": setting.batch_size,
            "seeds": setting.seeds,
            "device": config.device_name(),
            "seconds": sum(outcome.seconds for outcome in outcomes),  # those of before, too
            "out": str(folder.path),
        }
        result = about | {"claims": [outcome.summary() for outcome in outcomes]}
        _write(folder, result, outcomes)
    if options.json:
        print(files.to_json(result).decode())
    else:
        verdicts.show(result, outcomes)
    return 0


def _load(options: Claims) -> tuple[datasets.Data, Setting]:
    """Read the data; return them, and what the experiments are run on."""
    data = datasets.load(
        options.data, cost="sigmoid_cross_entropy", label=options.label, seed=_SPLIT_SEED
    )
    for note in data.notes:
        say(note)
    arrays = data.x_train, data.targets_train, data.x_test, data.targets_test
    setting = Setting(
        Data(*map(jnp.asarray, arrays)),
        seeds=tuple(range(options.first_seed, options.first_seed + options.count())),
        quick=options.quick,
        batch_size=min(_BATCH, len(data.x_train)),
        target=options.target,
    )
    return data, setting


def _measure(folder: ClaimsFolder, setting: Setting, chosen: list[Claim]) -> list[Outcome]:
    """Run the experiments that the folder does not hold yet, one after the other."""
    outcomes = []
    with TrainingProgress(tuple(one.name for one in chosen), 100, unit="done") as progress:
        for claim in chosen:
            outcome = measured.read(folder.path, claim, setting.seeds)
            if outcome is None:
                began = time.perf_counter()
                reporting = dataclasses.replace(setting, report=_reporter(progress, claim.name))
                found = claim.run(reporting)
                seconds = time.perf_counter() - began
                outcome = Outcome(claim, found, setting.seeds, seconds)
                measured.write(folder, outcome)
            progress.say(f"{claim.name}: {outcome.verdict}")
            outcomes.append(outcome)
    return outcomes


def _reporter(progress: TrainingProgress, name: str) -> Any:
    began = time.perf_counter()

    def report(done: int, total: int) -> None:
        seconds = time.perf_counter() - began
        progress.advance(name, 100 * done // total, "", seconds / done * (total - done))

    return report


def _write(folder: ClaimsFolder, result: dict[str, Any], outcomes: list[Outcome]) -> None:
    """Write pictures, table, page; claims.json last."""
    for outcome in outcomes:
        drawn = charts.picture(outcome.claim.charts(outcome.measured))
        folder.write(f"claims/{outcome.claim.name}.png", drawn)
    folder.write("CLAIMS.md", verdicts.as_markdown(result, outcomes).encode())
    folder.write("index.html", verdicts.as_page(result, outcomes).encode())
    folder.write("claims.json", result)
