"""Run folders in ruins: refused in one line, or read; no traceback, nothing else touched."""

import os
import resource
import shutil
import signal
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

pytestmark = pytest.mark.slow

CASES = 1500
SECONDS = 10  # a command that takes as long hangs
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


def commands(folder, data):
    """What reads a run; None for `load_run`."""
    yield ["explain", str(folder), "--json"]
    yield ["explain", str(folder), "--text"]
    yield ["predict", str(folder), str(data)]
    yield None
    yield ["train", "--resume", str(folder)]


def attempt(arguments, folder, capsys):
    """Return what is wrong with how a command ends, or nothing."""
    signal.alarm(SECONDS)
    try:
        if arguments is None:
            try:
                saved.load_run(folder)
            except UserError as error:
                return None if len(str(error).splitlines()) == 1 else "more than one line"
            return None
        code = run(arguments)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "bnjax/app" in f.filename] or frames
        return f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}: {error}"[
            :300
        ]
    finally:
        signal.alarm(0)
        err = capsys.readouterr().err
    lines = err.splitlines()
    if code not in (0, 2, 3):
        return f"exit code {code}"
    last = [line for line in lines if line.startswith("bnjax: ")]
    if "Traceback" in err or (code == 2 and (len(last) != 1 or last != lines[-1:])):
        return f"not one line: {err}"
    return f"control characters: {err!r}" if "\x1b" in err else None


def test_ruins_are_refused_in_one_line_or_read(
    ended, three_classes, tmp_path, rng, capsys, bounded, nothing_trained, monkeypatch
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
        for arguments in commands(folder, three_classes):
            if found := attempt(arguments, folder, capsys):
                wrong.setdefault(f"{arguments and arguments[0]}: {found}", how)
        assert outside.read_text() == "somebody's" and os.listdir(outside.parent) == ["file"], how
        shutil.rmtree(folder)
    assert three_classes.read_bytes() == data
    assert not wrong
