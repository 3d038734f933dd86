"""A kill at any change that a run makes to its folder, or that going on makes, costs no bit."""

import shutil
import signal

import numpy as np
import pytest
from kills import KINDS, watched
from processes import TESTS, command, ended, python

pytest.importorskip("tyro")

from app_runs import compiled_once, summary_of

from bnjax.app.main import run
from bnjax.app.run import metrics

pytestmark = pytest.mark.slow

RUNS = 25  # that are killed twice
KILLS = 10  # of each, chosen anywhere; and one for each kind of change to each file


@pytest.fixture(scope="module", autouse=True)
def many_runs():
    with compiled_once(draw=False):
        yield


@pytest.fixture(scope="module")
def task(three_classes):
    task = ["train", "--data", str(three_classes), "--hidden", "4", "--optimizer", "momentum"]
    task += ["--batch-size", "16", "--diagnostics", "1", "--epochs", "3", "--checkpoint-every", "1"]
    return [*task, "--keep", "2"]


def kept_of(folder, arguments, kept):
    """Run a command, and keep what each kill would have left of its folder.

    Returns the changes, (kind, name), each with the folder as it was in it, which may not exist.
    """
    changes = []

    def at(kind, name):
        left = kept / str(len(changes)) / "run"
        left.parent.mkdir(parents=True)
        if folder.exists():
            shutil.copytree(folder, left)
        changes.append(((kind, name), left))

    with watched(folder, at):
        assert run(arguments) == 0
    return changes


def copied(left, folder):
    """A copy of what a kill left, if it left anything."""
    return shutil.copytree(left, folder) if left.exists() else folder


def going_on(folder, task):
    """The command of a supervisor: resume, or begin where nothing was begun."""
    begun = (folder / "config.json").exists()
    return ["train", "--resume", str(folder)] if begun else [*task, "--out", str(folder)]


def contents(folder):
    """All that a run has left that does not depend on the clock, times aside."""
    lines = metrics.read(folder)
    for line in lines:
        del line["seconds"]
    summary = summary_of(folder)
    for network in summary["networks"].values():
        network.pop("samples_per_second", None)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    arrays = {}
    for file in folder.rglob("*.npz"):
        with np.load(file) as archive:
            arrays[file.relative_to(folder)] = {
                key: array.tobytes()
                for key, array in archive.items()
                if key not in ("about", "sha256")
            }
    kept = {name: (folder / name).read_bytes() for name in ("preparation.json", ".bnjax")}
    checks = summary["gradient_difference"], summary["finished"]
    return names, lines, arrays, kept, checks


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    """What a run that nobody kills leaves, and what each kill would have left."""
    folder = tmp_path_factory.mktemp("whole")
    changes = kept_of(folder / "run", [*task, "--out", str(folder / "run")], folder / "kept")
    assert {kind for (kind, _), _ in changes} == {"mkdir", *KINDS} - {"truncate"}
    return contents(folder / "run"), changes


def test_a_kill_at_any_change_of_a_run_costs_no_bit(task, whole, tmp_path):
    wanted, changes = whole
    assert len(changes) > 400
    for number, (change, left) in enumerate(changes):
        folder = copied(left, tmp_path / str(number))
        assert run(going_on(folder, task)) == 0, change
        assert contents(folder) == wanted, change


def test_a_kill_at_any_change_of_going_on_costs_no_bit(task, whole, tmp_path, rng):
    """Each kill once more: what each of some runs that went on would have left."""
    wanted, changes = whole
    tried = set()
    for number in rng.permutation(len(changes))[:RUNS]:
        folder = copied(changes[number][1], tmp_path / str(number) / "run")
        again = kept_of(folder, going_on(folder, task), tmp_path / str(number))
        assert contents(folder) == wanted, changes[number][0]
        some = {rng.integers(len(again)) for _ in range(KILLS)}
        of_each = {change: at for at, (change, _) in enumerate(again) if change not in tried}
        for change, left in (again[at] for at in sorted({*some, *of_each.values()})):
            tried.add(change)
            assert run(going_on(left, task)) == 0, (changes[number][0], change)
            assert contents(left) == wanted, (changes[number][0], change)
    assert {kind for kind, _ in tried} == {*KINDS}


def test_real_kills_of_real_processes_cost_no_bit(task, whole, tmp_path, rng):
    wanted, changes = whole
    # in the first half: how often geometry.npz is written depends on the time that it takes
    for number in sorted(rng.integers(20, len(changes) // 2, size=4).tolist()):
        folder = tmp_path / str(number)
        arguments = [TESTS / "kills.py", folder, number, *task, "--out", folder]
        ended(python(*arguments, JAX_ENABLE_X64="1"), -signal.SIGKILL)
        ended(command(*going_on(folder, task), JAX_ENABLE_X64="1"))
        assert contents(folder) == wanted, number
