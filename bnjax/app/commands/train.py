"""`bnjax train`: the baseline and the normalized network on the same data, side by side."""

import contextlib
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bnjax import training
from bnjax.app.io import signals
from bnjax.app.io.terminal import TrainingProgress, say
from bnjax.app.measures import divergence, gradients
from bnjax.app.measures.looks import Recorder, choose_batch
from bnjax.app.options import Train
from bnjax.app.run import config, epochs, metrics, networks, processes, results, session
from bnjax.app.run.folder import RunFolder
from bnjax.app.run.session import Run, Session


def train(options: Train, *, given: frozenset[str] = frozenset()) -> int:
    """Train as the options say; write the run folder; print the summary.

    Args:
        options: The options.
        given: The names of those that were spelt out, as --epochs.

    Returns:
        The exit code: 0, 3 where a network diverged and the run stopped for it, or 130 after
        Ctrl-C or SIGTERM.

    Raises:
        UserError: Options or data do not fit, and nothing has been trained; or the folder cannot
            be written, and what stands in it is whole.
    """
    began = time.perf_counter()
    options.check_processes()
    several = options.coordinator, options.num_processes, options.process_id
    with contextlib.ExitStack() as stack:
        with processes.joined(*several) as partners:
            run = processes.together(partial(_begin, options, given, stack))
            if run is None:
                return 0
            if run.folder is not None:
                partners.announce(run.folder.path)
            with signals.held_back() as asked_to_stop:
                if options.resume is not None:
                    session.take_up(run, Path(options.resume))
                interrupted = _train(run, asked_to_stop)
        return results.leave(run, began, interrupted=interrupted)  # by the first one alone


def _begin(options: Train, given: frozenset[str], stack: contextlib.ExitStack) -> Session | None:
    """Read the data, open the folder, build the networks; None where all is done already."""
    old, path = None, Path(options.resume or "")
    if options.resume is not None:
        old, own = config.read(path)
        options = config.beside(options, given, own)
        if results.finished(path, options.epochs):
            if processes.is_first():
                results.draw_missing(path, own)
                say(
                    f"the run in {path} is finished: {options.epochs} epochs; more with --epochs, "
                    f"predictions with bnjax predict {path} FILE"
                )
            return None
    options.check()
    if old is None and options.network != "baseline":
        options.check_normalizes()
    mesh = processes.choose(options.devices)
    if processes.is_first():
        say(f"reading {options.data}")  # the first word: what comes next takes some seconds
    data, batch_size = networks.load(options, seed=options.seed)
    found = config.make(
        options,
        config.resolve(
            options.data,
            data,
            batch_size,
            learning_rate=options.resolved_learning_rate(),
            devices=1 if mesh is None else mesh.size,
        ),
    )
    if old is not None:
        config.check_same(path, old, found)
    optimizer = networks.make_optimizer(options.optimizer, options.resolved_learning_rate())
    runs = {}
    for name in networks.NAMES if options.network == "both" else (options.network,):
        # both running kinds, for the summary to compare
        averages = {"decay": options.decay, "other_decays": (None,)}
        net = networks.make_network(options, data.n_in, data.n_out, name, **averages)
        # the same weights for both, as they share sizes and key
        start = training.init(net, optimizer, jax.random.key(options.seed))
        runs[name] = Run(net, jax.tree.map(np.array, start))
    folder = None
    if processes.is_first():
        if old is None:
            folder = RunFolder.create(options.out, overwrite=options.overwrite)
        else:
            folder = RunFolder.reopen(path)
        stack.callback(folder.close)
        if old is None or options.epochs > old["options"]["epochs"]:
            folder.write(config.FILE, found)
    return Session(options, data, batch_size, folder, optimizer, runs, mesh)


def _train(run: Session, asked_to_stop: list[int]) -> bool:
    """Train all networks epoch by epoch, from where the session stands.

    Returns:
        Whether a signal has ended it.
    """
    options, names, classify = run.options, tuple(run.runs), bool(run.data.classes)
    compiled = {name: epochs.compile_training(run, one) for name, one in run.runs.items()}
    recorder = _recorder(run)
    compare_at = {(options.epochs + 1) // 2: "middle", 1: "start"}
    stop = False
    with TrainingProgress(names, options.epochs, silent=not processes.is_first()) as progress:
        for epoch in range(run.epoch + 1, options.epochs + 1):
            if epoch in compare_at:
                _compare(run, compare_at[epoch], epoch)
            for name, one in run.runs.items():
                before = one.state
                line, costs = epochs.advance(compiled[name], one, name, classify=classify)
                if recorder is not None and (seen := recorder.look(name, one.state.params, epoch)):
                    line["geometry"] = seen
                one.metrics.append(line)
                if run.folder is not None:
                    run.folder.write_metrics(line)
                progress.advance(name, epoch, *_figures(run, one))
                if one.divergence is None:
                    one.divergence = epochs.find_divergence(run, one, before, costs, epoch)
                    if one.divergence is not None:
                        progress.say(divergence.describe(name, one.divergence))
            run.epoch = epoch
            if run.stopped:
                break
            stop = processes.anyone(bool(asked_to_stop))
            every = options.checkpoint_every
            if every and (epoch % every == 0 or (stop and epoch < options.epochs)):
                if recorder is not None:
                    recorder.write()  # before: a checkpoint counts on what was seen up to it
                session.save(run)
            if stop:
                break
    if recorder is not None:
        recorder.write()
    _compare(run, "end", max(run.epoch, 1))
    return stop


def _compare(run: Session, moment: str, epoch: int) -> None:
    """Compare the normalized network's gradients by hand and by JAX, on an epoch's first batch."""
    if (one := run.runs.get("bn")) is not None and any(one.net.normalized):
        indices = epochs.order(run, epoch)[0]
        batch = run.data.x_train[indices], run.data.targets_train[indices], indices >= 0
        run.checks[moment] = gradients.compare(one.net, one.state, *batch)


def _recorder(run: Session) -> Recorder | None:
    """Prepare the looks that --diagnostics asks for, in the process that writes."""
    options, data = run.options, run.data
    if not options.diagnostics or run.folder is None:
        return None
    x, targets = jnp.asarray(data.x_train), jnp.asarray(data.targets_train)
    return Recorder(
        run.folder,
        {name: one.net for name, one in run.runs.items()},
        {name: one.state.params for name, one in run.runs.items()},
        choose_batch(x, targets, batch_size=run.batch_size, seed=options.seed),
        every=options.diagnostics,
        epochs=options.epochs,
        start=run.epoch,
    )


def _figures(run: Session, one: Run) -> tuple[str, float]:
    """Return what the progress says of the last epoch, and the seconds that are left."""
    line, seconds = one.metrics[-1], metrics.epoch_seconds(one.metrics)
    text = f"cost {_short(line['cost'])}  test cost {_short(line['test_cost'])}"
    if (accuracy := line["test_accuracy"]) is not None:
        text = f"cost {_short(line['cost'])}  test accuracy {accuracy:.1%}"
    if seconds is not None:
        text += f"  {len(run.data.x_train) / seconds:,.0f} samples/s"
    return text, (run.options.epochs - line["epoch"]) * (seconds or line["seconds"])


def _short(cost: float) -> str:
    return f"{cost:.4f}" if cost < 1e4 else f"{cost:.3g}"
