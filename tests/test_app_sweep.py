"""The sweep on the command line: both networks over learning rates and seeds."""

import csv
import json

import numpy as np
import pytest

pytest.importorskip("sklearn")

from bnjax.app.main import run
from bnjax.app.run import metrics

RATES, SEEDS = (0.02, 1e30), 2
TASK = ["--hidden", "--norm-output", "--cost", "squared_error", "--batch-size", "16"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    path = tmp_path_factory.mktemp("data") / "data.npz"
    y = np.digitize(x[:, 0], [-0.5, 0.5])
    # a test set that comes with the data: `train` splits by its seed, `sweep` does not
    np.savez(path, x=x[:48], y=y[:48], x_test=x[48:], y_test=y[48:])
    return path


def sweep(data, out, *more):
    rates = ["--learning-rates", *map(str, RATES), "--seeds", str(SEEDS)]
    return run(
        ["sweep", "--data", str(data), *TASK, *rates, "--epochs", "6", "--out", str(out), *more]
    )


@pytest.fixture(scope="module")
def swept(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "sweep"
    assert sweep(data, folder) == 0
    return folder, json.loads((folder / "sweep.json").read_text())


def test_every_network_of_the_grid_is_there_once(swept):
    folder, result = swept
    grid = {(r["network"], r["learning_rate"], r["seed"]) for r in result["networks"]}
    assert grid == {(n, r, s) for n in ("baseline", "bn") for r in RATES for s in range(SEEDS)}
    assert len(result["networks"]) == len(grid) and result["at_once"] == 1
    assert result["how"] == "loop: one network after the other"
    with (folder / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, wanted in zip(rows, result["networks"], strict=True):
        assert row["network"] == wanted["network"] and int(row["seed"]) == wanted["seed"]
        assert float(row["final_test_accuracy"]) == wanted["final_test_accuracy"]
        assert (row["diverged_in_epoch"] or None) == (
            wanted["diverged_in_epoch"] and str(wanted["diverged_in_epoch"])
        )
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "config.json").read_text())["options"]["seeds"] == SEEDS


def test_what_diverged_is_marked(swept):
    for row in swept[1]["networks"]:
        lost = row["learning_rate"] == RATES[1]
        assert (row["diverged_in_epoch"] is not None) == (row["final_test_cost"] is None) == lost


@pytest.mark.slow
def test_each_network_is_as_train_would_have_trained_it(swept, data, tmp_path):
    for seed in range(SEEDS):
        arguments = ["train", "--data", str(data), *TASK, "--epochs", "6", "--seed", str(seed)]
        arguments += ["--learning-rate", str(RATES[0]), "--checkpoint-every", "0"]
        assert run([*arguments, "--out", str(tmp_path / str(seed))]) == 0
        lines = metrics.read(tmp_path / str(seed))
        for line in lines[-2:]:
            (row,) = (
                row
                for row in swept[1]["networks"]
                if (row["network"], row["learning_rate"], row["seed"])
                == (line["network"], RATES[0], seed)
            )
            assert row["final_test_cost"] == pytest.approx(line["test_cost"], rel=1e-9)


@pytest.mark.slow
def test_side_by_side_they_are_the_same_and_the_summary_says_so(swept, data, tmp_path, capsys):
    assert sweep(data, tmp_path / "s", "--at-once", "3", "--json") == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["how"] == "vmap: 2 at once" and "epochs of single networks 24/24" in printed.err
    for row, wanted in zip(result["networks"], swept[1]["networks"], strict=True):
        if wanted["final_test_cost"] is not None:
            assert row["final_test_cost"] == pytest.approx(wanted["final_test_cost"], rel=1e-8)
        assert row["diverged_in_epoch"] == wanted["diverged_in_epoch"]


@pytest.mark.slow
def test_regression_is_swept_by_its_cost(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(60, 3))
    np.savez(tmp_path / "data.npz", x=x, y=x @ [1.0, -2.0, 0.5] + 0.01)
    assert sweep(tmp_path / "data.npz", tmp_path / "s") == 0
    assert "not finite" in capsys.readouterr().out
    result = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert {row["final_test_accuracy"] for row in result["networks"]} == {None}


def test_bad_input_is_one_line(data, tmp_path, capsys, refused):
    for more, message in (
        (["--learning-rates"], "--learning-rates"),
        (["--learning-rates", "0.1", "-1"], "--learning-rates: expected a number above 0, got -1"),
        (["--learning-rates", "1", "1"], "expected different ones"),
        (["--seeds", "0"], "--seeds: expected a number at least 1, got 0"),
        (["--at-once", "0"], "--at-once: expected a number at least 1"),
        (["--batch-size", "1"], "--batch-size: expected a number at least 2, got 1"),
        (["--batch-size", "500"], "expected at most 48"),
        (["--cost", "softmax"], "--cost: unknown name 'softmax'"),
    ):
        assert message in refused("sweep", "--data", data, *more, "--out", tmp_path / "s")
    assert not (tmp_path / "s").exists()
    (tmp_path / "notes.txt").write_text("mine")
    assert sweep(data, tmp_path) == 2
    assert "is not empty" in capsys.readouterr().err
