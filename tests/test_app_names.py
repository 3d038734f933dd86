"""Awkward names of folders and data; folders and files that go away under a run; odd outputs."""

import io
import os
import re
import shutil
import sys

import jax
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")

from app_runs import after, compiled_once, line, summary_of

from bnjax.app import load_run
from bnjax.app.errors import UserError
from bnjax.app.main import run
from bnjax.app.run import checkpoints, metrics
from bnjax.app.run.folder import RunFolder

AWKWARD = (
    *("lr[0.1] *é", "[a-z]", "*", "?", "two words", " ", "line\nbreak", "\r", "tab\t", "☃𝔊"),
    *("-dash", "--out", "~", "$HOME", "${x}", "%s{}", "\\", "'\"", "#", ".hidden", "x" * 250),
    *("con\x1b[2Jtrol", "checkpoints", "epoch_1.npz", "config.json"),
    *([os.fsdecode(b"\xff\xfe")] if sys.platform == "linux" else []),
)
TASK = ["--network", "baseline", "--hidden", "3", "--batch-size", "16", "--epochs", "2"]
TASK += ["--checkpoint-every", "1"]


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    with compiled_once():
        yield


@pytest.fixture(scope="module")
def table(three_classes):
    """The same samples as text, whose classes have names that few encodings know."""
    with np.load(three_classes) as arrays:
        rows = zip(arrays["x"].tolist(), arrays["y"].tolist(), strict=True)
        rows = [f"{','.join(map(repr, x))},{'é☃Z'[y]}" for x, y in rows]
    return "\n".join(["a,b,$\\foo$,label", *rows]).encode()


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    """A run of awkward names: its folder's, its data's."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "$\\foo$.csv").write_bytes(table)
    path = folder / "lr[0.1] *é"
    assert run(["train", "--data", str(folder / "$\\foo$.csv"), *TASK, "--out", str(path)]) == 0
    return path


@pytest.fixture
def task(whole):
    return ["train", "--data", str(whole.parent / "$\\foo$.csv"), *TASK]


@pytest.fixture
def begun(whole, tmp_path):
    """A copy of the run, as if it had been killed at its end."""
    folder = shutil.copytree(whole, tmp_path / "begun")
    (folder / "summary.json").unlink()
    return folder


@pytest.mark.parametrize("name", AWKWARD, ids=ascii)
def test_a_folder_may_have_any_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a leading dash stays one
    folder = RunFolder.create(name, overwrite=False)
    for epoch in (1, 2, 3):
        folder.write_metrics(line("bn", epoch))
        checkpoints.write(folder, after(epoch), keep=2)
    folder.close()
    assert os.listdir() == [name]
    folder = RunFolder.reopen(folder.path)
    found = checkpoints.newest(folder.path, after(0).networks, most=3)
    for got, wanted in zip(*map(jax.tree.leaves, (found, after(3))), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert [one["epoch"] for one in metrics.read(folder.path)] == [1, 2, 3]
    assert len(folder.keep_metrics(2)) == 2
    folder.close()
    RunFolder.create(name, overwrite=True).close()
    assert os.listdir(name) == [".bnjax"]


def test_a_run_of_awkward_names_comes_to_its_end(whole, capsys):
    assert summary_of(whole)["finished"]
    assert {"curves.png", "inputs.png"} < {file.name for file in whole.iterdir()}
    assert load_run(whole).classes == tuple(sorted("é☃Z"))
    assert run(["train", "--resume", str(whole)]) == 0
    assert f"the run in {whole} is finished" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.slow
def test_data_whose_name_is_no_text_end_in_a_finished_run(table, tmp_path, capsys):
    data, folder = (tmp_path / os.fsdecode(name) for name in (b"\xff$\\foo$.csv", b"run\xfe"))
    data.write_bytes(table)
    assert run(["train", "--data", str(data), *TASK, "--out", str(folder), "--json"]) == 0
    assert summary_of(folder)["finished"]
    assert (folder / "curves.png").exists() and "cannot" not in capsys.readouterr().err
    (folder / "summary.json").unlink()
    assert run(["train", "--resume", str(folder)]) == 0
    assert summary_of(folder)["finished"]
    assert run(["predict", str(folder), str(data)]) == 0
    assert run(["explain", str(folder), "--json"]) == 0


def test_a_kill_before_the_pictures_does_not_cost_them(whole, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / "run")
    for name in ("curves.png", "inputs.png"):
        (folder / name).unlink()
    (folder / ".curves.png.tmp").write_bytes(b"torn")
    assert run(["train", "--resume", str(folder)]) == 0
    assert "is finished: 2 epochs" in capsys.readouterr().err
    assert {file.name for file in folder.iterdir()} == {file.name for file in whole.iterdir()}


def test_a_kill_before_the_configuration_is_whole_leaves_a_folder_to_begin_in(task, tmp_path):
    folder = RunFolder.create(str(tmp_path / "run"), overwrite=False)
    (folder.path / ".config.json.tmp").write_bytes(b'{"opt')
    folder.close()
    assert run([*task, "--out", str(folder.path)]) == 0
    assert not [*folder.path.rglob(".*.tmp")]


def taken_away(folder, how):
    match how:
        case "renamed":
            folder.rename(folder.with_name("elsewhere"))
        case "replaced":
            folder.rename(folder.with_name("elsewhere"))
            folder.mkdir()
        case "removed":
            shutil.rmtree(folder)
        case "metrics.jsonl deleted":
            (folder / "metrics.jsonl").unlink()
        case "metrics.jsonl replaced":
            (folder / "metrics.jsonl").unlink()
            (folder / "metrics.jsonl").write_text("somebody's")


@pytest.mark.parametrize(
    "how", ["renamed", "replaced", "removed", "metrics.jsonl deleted", "metrics.jsonl replaced"]
)
@pytest.mark.parametrize("epoch", [1, 2])
def test_what_goes_away_under_a_run_ends_it(how, epoch, task, tmp_path, monkeypatch, capsys):
    folder, write = tmp_path / "run", RunFolder.write_metrics

    def writes(self, line):
        write(self, line)
        if line["epoch"] == epoch:
            taken_away(folder, how)

    monkeypatch.setattr(RunFolder, "write_metrics", writes)
    assert run([*task, "--out", str(folder)]) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"bnjax: {folder}")
    assert ("was deleted" in last) or ("cannot be written" in last)
    if how.endswith("replaced"):
        assert os.listdir(folder) == [] or (folder / "metrics.jsonl").read_text() == "somebody's"


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "checkpoints/epoch_2.npz"])
def test_going_on_changes_nothing_that_a_link_leads_to(name, begun, tmp_path, capsys):
    outside = tmp_path / "outside"
    (begun / name).rename(outside)
    (begun / name).symlink_to(outside)
    with (begun / "metrics.jsonl").open("a") as file:
        file.write('{"torn')
    before = {file: file.read_bytes() for file in (outside, *outside.glob("*")) if file.is_file()}
    code = run(["train", "--resume", str(begun), "--epochs", "3"])
    assert before == {file: file.read_bytes() for file in before}
    assert code == 2 * (name != "checkpoints/epoch_2.npz")  # which is a file as any other
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_output_without_these_characters_ends_nothing(
    encoding, task, whole, tmp_path, monkeypatch
):
    written = {name: io.TextIOWrapper(io.BytesIO(), encoding) for name in ("stdout", "stderr")}
    for name, stream in written.items():
        monkeypatch.setattr(sys, name, stream)
    assert run([*task, "--out", str(tmp_path / "é☃")]) == 0
    assert run(["predict", str(whole), str(whole.parent / "é☃.csv")]) == 2
    texts = {}
    for name, stream in written.items():
        stream.flush()
        texts[name] = stream.buffer.getvalue().decode(encoding)
    assert "3 classes: Z, " in texts["stdout"] and "\\u2603" in texts["stdout"]
    assert "\\u2603.csv" in texts["stderr"] and "Traceback" not in texts["stderr"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_no_color_means_none(task, tmp_path, monkeypatch):
    out, err = Terminal(), Terminal()
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert run([*task, "--out", str(tmp_path / "run")]) == 0
    assert "\x1b" not in out.getvalue()
    # the live bar moves the cursor, and colours nothing
    assert not re.findall(r"\x1b\[[\d;]*m", err.getvalue())


def test_a_path_that_no_system_has_is_refused_in_one_line(task, whole, refused):
    long, data = "x" * 5000, whole.parent / "$\\foo$.csv"
    for arguments in (
        *(("explain", long), ("predict", long, data), ("train", "--resume", long)),
        *(("predict", whole, f"{long}.csv"), ("predict", whole, data, "--out", long)),
        *((*task, "--out", long), ("train", "--data", f"{long}.csv")),
    ):
        assert long in refused(*arguments)
    with pytest.raises(UserError, match="no run has begun"):
        load_run(long)
