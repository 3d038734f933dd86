"""Run folders in ruins: refused in one line, or read; no traceback, nothing else touched."""

import os
import resource
import shutil
import signal
import sys
import traceback
from pathlib import Path

import pytest
from damage import damage

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")

from bnjax.app.commands import train
from bnjax.app.errors import UserError
from bnjax.app.main import run
from bnjax.app.measures import looks
from bnjax.app.run import results, saved

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the bound on memory is Linux's"),
]

PARTS, CASES = 5, 300  # one part for each worker
SECONDS = 120  # a command that takes as long hangs; nothing is measured by it
GIGABYTES = 3  # more than a command may allocate


class Hangs(BaseException):
    """A command that does not end."""


@pytest.fixture(scope="module")
def ended(three_classes, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "ended"
    arguments = ["--hidden", "4", "--batch-size", "16", "--epochs", "4", "--checkpoint-every", "2"]
    arguments += ["--diagnostics", "2", "--optimizer", "momentum", "--out", str(path)]
    assert run(["train", "--data", str(three_classes), *arguments]) == 0
    for picture in path.glob("*.png"):
        picture.write_bytes(b"a picture")
    return path


@pytest.fixture(scope="module")
def nothing_trained():
    """What --resume reads is read, and nothing is trained on it."""

    def begun(run, asked_to_stop):
        train._recorder(run)
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_train", begun)
        patch.setattr(results, "leave", lambda *arguments, **more: 0)
        patch.setattr(looks.Recorder, "look", lambda *arguments: {})
        yield


@pytest.fixture
def bounded():
    """Neither time nor memory without end."""

    def hangs(*_):
        raise Hangs

    limits = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + GIGABYTES * 2**30, limits[1]))
    before = signal.signal(signal.SIGALRM, hangs)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    resource.setrlimit(resource.RLIMIT_AS, limits)


def commands(case, folder, data):
    """What reads a run, some in turn; None for `load_run`."""
    yield ["explain", str(folder), ("--json", "--text")[case // 2 % 2]]
    yield ["predict", str(folder), str(data)] if case % 3 else None
    yield ["train", "--resume", str(folder)]


def attempt(arguments, folder, capsys):
    """Return what is wrong with how a command ends, or nothing."""
    signal.alarm(SECONDS)
    try:
        code = run(arguments) if arguments else loaded(folder)
    except (Exception, Hangs) as error:
        frames = traceback.extract_tb(error.__traceback__)
        *_, last = [frame for frame in frames if "/bnjax/" in frame.filename] or frames
        return f"{error!r:.300} in {last.filename}, line {last.lineno}"
    finally:
        signal.alarm(0)
        err = capsys.readouterr().err
    refusals = [line for line in err.splitlines() if line.startswith("bnjax: ")]
    if code == 2 and (len(refusals) != 1 or refusals != err.splitlines()[-1:]):
        return f"not one line: {err}"
    if code not in (0, 2, 3) or any(word in err for word in ("Traceback", "memory", "\x1b")):
        return f"exit code {code}: {err}"
    return None


def loaded(folder):
    """Load a run; return what the exit code would be, having printed what it would."""
    try:
        saved.load_run(folder)
    except UserError as error:
        print(f"bnjax: {error}", file=sys.stderr)
        return 2
    return 0


@pytest.mark.parametrize("part", range(PARTS))
def test_ruins_are_refused_in_one_line_or_read(
    part, ended, three_classes, tmp_path, rng, capsys, bounded, nothing_trained, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.npz")
    outside = tmp_path / "outside" / "file"
    outside.parent.mkdir()
    outside.write_text("somebody's")
    data, wrong = three_classes.read_bytes(), {}
    for case in range(CASES):
        folder = shutil.copytree(ended, tmp_path / "run")
        if case % 2:
            (folder / "summary.json").unlink()  # it goes on
        how = f"case {case}: {damage(rng, folder, outside)}"
        for arguments in commands(case, folder, three_classes):
            if found := attempt(arguments, folder, capsys):
                wrong.setdefault(f"{arguments and arguments[0]}: {found}", how)
        assert outside.read_text() == "somebody's" and os.listdir(outside.parent) == ["file"], how
        shutil.rmtree(folder)
    assert three_classes.read_bytes() == data
    assert not wrong
