"""`bnjax claims`: the table, the page, and experiments that are kept; most of them pretended."""

import dataclasses
import json
import re
import shutil
import signal
import time

import numpy as np
import pytest
from kills import watched
from processes import command, ended

pytest.importorskip("sklearn")

from app_runs import Killed

from bnjax import claims
from bnjax.app.main import run
from bnjax.app.report import charts
from bnjax.claims import NOT_SEEN, SEEN, Chart, Curve, Figure, Measured

SEEDS = 3


def pretended(name, better):
    """A claim whose experiment trains nothing: it measures what it is told to."""

    def measure(setting):
        calls.append(name)
        setting.report(1, 2)
        setting.report(2, 2)
        values = better + 0.01 * np.arange(len(setting.seeds))
        return Measured({"x": (1, 2.0, "y")}, {"a": np.stack([values, 2 * values], 1)})

    real = next(claim for claim in claims.CLAIMS if claim.name == name)
    return dataclasses.replace(
        real,
        text=f"The claim <{name}> & its text.",
        run=measure,
        judge=lambda m: SEEN if np.median(m.values["a"]) > 1 else NOT_SEEN,
        figures=lambda m: (Figure(f"a{m.varied['x'][0]}", m.values["a"][:, 0], ".2f"), never),
        charts=lambda m: (
            Chart("a over x", "x", "a", (Curve("it", "bn", (1.0, 2.0), m.values["a"]),)),
        ),
    )


calls = []
never = Figure("b", np.full(SEEDS, np.nan), ".2f")


@pytest.fixture(autouse=True)
def two_claims(monkeypatch):
    calls.clear()
    found = pretended("learning_rates", 2.0), pretended("initial_values", 0.1)
    monkeypatch.setattr(claims, "CLAIMS", found)
    return found


@pytest.fixture
def task(three_classes, tmp_path):
    return ["claims", "--data", str(three_classes), "--quick", "--out", str(tmp_path / "c")]


def test_a_table_a_page_and_json_come_of_it(task, tmp_path, capsys):
    assert run(task) == 0
    printed = capsys.readouterr()
    assert calls == ["learning_rates", "initial_values"]
    assert "2.01 (2.00 to 2.02)" in printed.out and "b: never" in printed.out
    assert "not seen here" in printed.out and "learning_rates: seen" in printed.err
    result = json.loads((tmp_path / "c" / "claims.json").read_text())
    first, second = result["claims"]
    assert (first["verdict"], second["verdict"]) == ("seen", "not seen here")
    assert first["sets"] == ["seen"] * 3 and first["seeds"] == [0, 1, 2]
    assert first["figures"]["a1"] == {
        "median": 2.01,
        "least": 2.0,
        "most": 2.02,
        "unit": "",
    }
    assert first["criterion"] == claims.CLAIMS[0].criterion
    for name in ("learning_rates", "initial_values"):
        assert (tmp_path / "c" / "claims" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    # the page needs nothing else
    page = (tmp_path / "c" / "index.html").read_text()
    assert "default-src 'none'" in page and "<script" not in page
    assert "The claim &lt;learning_rates&gt; &amp; its text." in page
    assert all(
        link.startswith(("#", "data:")) for link in re.findall(r'(?:src|href)="([^"]*)', page)
    )
    text = (tmp_path / "c" / "CLAIMS.md").read_text()
    for link in re.findall(r"\]\(([^)]*)\)", text):
        assert link.startswith("#") or (tmp_path / "c" / link).exists()


def test_json_is_all_of_stdout(task, capsys):
    assert run([*task, "--json", "--only", "initial_values", "--first-seed", "7"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["claims"]
    assert one["name"] == "initial_values" and one["seeds"] == [7, 8, 9]


def test_what_is_finished_is_kept(task, tmp_path, monkeypatch, two_claims):
    def killed(setting):
        raise Killed

    second = dataclasses.replace(two_claims[1], run=killed)
    monkeypatch.setattr(claims, "CLAIMS", (two_claims[0], second))
    with pytest.raises(Killed):
        run(task)
    assert calls == ["learning_rates"]
    assert not (tmp_path / "c" / "claims.json").exists()
    monkeypatch.setattr(claims, "CLAIMS", two_claims)
    assert run(["claims", "--resume", str(tmp_path / "c")]) == 0
    assert calls == ["learning_rates", "initial_values"]
    assert run([*task[:-1], str(tmp_path / "whole")]) == 0
    ours, theirs = (
        json.loads((tmp_path / name / "claims.json").read_text())["claims"]
        for name in ("c", "whole")
    )
    for one in (*ours, *theirs):
        del one["seconds"]
    assert ours == theirs
    # by another criterion it is measured again
    other = dataclasses.replace(two_claims[0], criterion="Another one.")
    monkeypatch.setattr(claims, "CLAIMS", (other, two_claims[1]))
    calls.clear()
    assert run(["claims", "--resume", str(tmp_path / "c")]) == 0
    assert calls == ["learning_rates"]


def test_bad_input_is_one_line(task, tmp_path, capsys, refused, three_classes):
    folder = tmp_path / "c"
    for more, message in (
        (["--only", "depht"], "--only: unknown claim 'depht'"),
        (["--seeds", "0"], "--seeds: expected a number at least 1, got 0"),
        (["--target", "95"], "--target: expected a number above 0 and below 1, got 95"),
        (["--first-seed", "-1"], "--first-seed: expected a number at least 0"),
    ):
        assert message in refused(*task, *more)
    assert not folder.exists()
    assert "no claims have been begun in it" in refused("claims", "--resume", folder)
    assert run(task) == 0
    capsys.readouterr()
    assert "is not empty" in refused(*task)
    assert "--only: cannot be combined with --resume" in refused(
        "claims", "--resume", folder, "--only", "depth"
    )
    (folder / "claims" / "learning_rates.json").write_text("{")
    assert "delete it, to measure it again" in refused("claims", "--resume", folder)
    assert run([*task, "--overwrite"]) == 0
    capsys.readouterr()
    assert "not a sweep" in refused(
        "sweep", "--data", three_classes, "--out", folder, "--overwrite", "--batch-size", 8
    )


def test_numbers_to_predict_are_refused(tmp_path, refused):
    x = np.random.default_rng(0).normal(size=(60, 3))
    np.savez(tmp_path / "data.npz", x=x, y=x @ [1.0, -2.0, 0.5] + 0.01)
    assert "squared_error" in refused("claims", "--data", tmp_path / "data.npz")


@pytest.mark.slow
def test_a_kill_at_any_change_to_the_folder_costs_nothing(task, tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "picture", lambda drawn: lambda file: file.write(b"a picture"))
    whole, left = tmp_path / "c", []

    def at(kind, name):
        left.append(tmp_path / "left" / str(len(left)))
        if whole.exists():
            shutil.copytree(whole, left[-1])

    def told(folder):
        result = json.loads((folder / "claims.json").read_text())["claims"]
        return [{k: v for k, v in one.items() if k != "seconds"} for one in result]

    with watched(whole, at):
        assert run(task) == 0
    assert len(left) > 30
    for folder in left:
        begun = (folder / "config.json").exists()
        going_on = ["claims", "--resume", str(folder)] if begun else [*task[:-1], str(folder)]
        assert run(going_on) == 0
        assert told(folder) == told(whole)
        assert not [*folder.rglob("*.tmp")]


@pytest.mark.slow
def test_after_a_signal_it_goes_on(three_classes, tmp_path):
    task = ["claims", "--data", three_classes, "--quick", "--seeds", "1", "--target", "0.8"]
    task += ["--only", "learning_rates", "initial_values"]
    folder = tmp_path / "c"
    finished = folder / "claims" / "learning_rates.json"
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        process = command(*task, "--out", folder, "--overwrite")
        while not finished.exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        ended(process, code)
        kept = finished.read_bytes()
        ended(command("claims", "--resume", folder))
        assert finished.read_bytes() == kept
        assert len(json.loads((folder / "claims.json").read_text())["claims"]) == 2
