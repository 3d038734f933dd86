"""The sweep on the command line: both networks over learning rates, other options and seeds."""

import csv
import itertools
import json

import numpy as np
import pytest
from compiling import quickly_compiled

pytest.importorskip("sklearn")

from bnjax import training
from bnjax.app.main import run
from bnjax.app.report import sweep_table
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


@pytest.fixture(scope="module")
def scaled(data, tmp_path_factory):
    """The same sweep over initial scales too, and how many programs it needs."""
    folder, calls = tmp_path_factory.mktemp("sweeps") / "scaled", []
    sweep_of = training.sweep

    def counted(*arguments, **options):
        calls.append(options)
        return sweep_of(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch, quickly_compiled():
        patch.setattr(training, "sweep", counted)
        assert sweep(data, folder, "--vary", "init-scale=1,50") == 0
    return folder, json.loads((folder / "sweep.json").read_text()), len(calls)


def test_another_option_is_varied_with_every_rate(scaled, swept):
    folder, result, programs = scaled
    networks = result["networks"]
    grid = {(r["network"], r["init_scale"], r["learning_rate"], r["seed"]) for r in networks}
    wanted = itertools.product(("baseline", "bn"), (1.0, 50.0), RATES, range(SEEDS))
    assert grid == set(wanted) and len(networks) == len(grid)
    assert result["varied"] == "init_scale" and programs == 2  # one for each kind of network
    of_scale_1 = [row for row in networks if row["init_scale"] == 1]
    for row, same in zip(of_scale_1, swept[1]["networks"], strict=True):
        assert (row["network"], row["seed"]) == (same["network"], same["seed"])
        assert row["diverged_in_epoch"] == same["diverged_in_epoch"]
        if same["final_test_cost"] is not None:
            assert row["final_test_cost"] == pytest.approx(same["final_test_cost"], rel=1e-9)
    header, *_ = (folder / "sweep.csv").read_text().splitlines()
    assert header.startswith("network,learning_rate,init_scale,seed,final_test_accuracy,")
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_scaled_network_is_as_train_would_have_trained_it(scaled, data, tmp_path):
    arguments = ["train", "--data", str(data), *TASK, "--epochs", "6", "--init-scale", "50"]
    arguments += ["--learning-rate", str(RATES[0]), "--checkpoint-every", "0"]
    assert run([*arguments, "--out", str(tmp_path / "run")]) == 0
    for line in metrics.read(tmp_path / "run")[-2:]:
        wanted = {
            "network": line["network"],
            "seed": 0,
            "init_scale": 50,
            "learning_rate": RATES[0],
        }
        (row,) = (row for row in scaled[1]["networks"] if row.items() >= wanted.items())
        assert row["final_test_cost"] == pytest.approx(line["test_cost"], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vary", "values"),
    [
        ("batch_size=8,16", (8, 16)),
        ("epochs=1,3", (1, 3)),
        ("decay=0,0.5", (0, 0.5)),
        ("eps=1e-5,10", (1e-5, 10)),
        ("split_seed=0,1", (0, 1)),
        ("test_fraction=0.2,0.5", (0.2, 0.5)),
    ],
)
def test_an_option_that_needs_a_program_of_its_own_is_varied(vary, values, data, tmp_path, capsys):
    option = vary.partition("=")[0]
    with np.load(data) as arrays:
        np.savez(tmp_path / "unsplit.npz", x=arrays["x"], y=arrays["y"])
    arguments = ["sweep", "--data", str(tmp_path / "unsplit.npz"), *TASK, "--seeds", "1"]
    arguments += ["--learning-rates", "0.1", "--epochs", "2", "--vary", vary]
    assert run([*arguments, "--out", str(tmp_path / "s")]) == 0
    assert option in capsys.readouterr().out
    result = json.loads((tmp_path / "s" / "sweep.json").read_text())
    bn = [row for row in result["networks"] if row["network"] == "bn"]
    assert tuple(row[option] for row in bn) == values
    assert bn[0]["final_test_cost"] != bn[1]["final_test_cost"]


def rows_of(network, init_scale, rate, *steps):
    return [
        {
            "network": network,
            "init_scale": init_scale,
            "learning_rate": rate,
            "seed": seed,
            "final_test_accuracy": 0.97 if step else 0.5,
            "final_test_cost": 0.1,
            "steps_to_95": step,
            "diverged_in_epoch": None,
        }
        for seed, step in enumerate(steps)
    ]


def test_each_network_is_compared_at_its_best_and_from_the_same_weights():
    rows = [
        *rows_of("baseline", 1.0, 0.5, 960, 1000, None),
        *rows_of("baseline", 1.0, 2.0, 100, None, None),  # the median never gets there
        *rows_of("baseline", 4.0, 0.5, 250, 230, 240),
        *rows_of("bn", 1.0, 0.5, 110, 120, 130),
        *rows_of("bn", 4.0, 0.5, 150, 160, 170),
    ]
    found = sweep_table.best(rows, "init_scale")
    assert found["baseline"] == {
        "init_scale": 4.0,
        "learning_rate": 0.5,
        "steps_to_95": 240,
        "final_test_accuracy": 0.97,
        "final_test_cost": 0.1,
    }
    result = {"networks": rows, "varied": "init_scale", "best": found, "classes": ["0", "1"]}
    at_best, same = sweep_table.comparisons({**result, "options": {"init_scale": 1}})
    assert at_best.endswith("the baseline needs 2.0 times as many")
    assert "240 steps (init scale 4" in at_best and "120 steps (init scale 1" in at_best
    assert same.endswith("the baseline needs 8.3 times as many") and "1,000 steps" in same
    swapped = [{**row, "network": {"bn": "baseline"}.get(row["network"], "bn")} for row in rows]
    result |= {"networks": swapped, "best": sweep_table.best(swapped, "init_scale")}
    at_best, _ = sweep_table.comparisons({**result, "options": {"init_scale": 1}})
    assert at_best.endswith("the normalized network needs 2.0 times as many")


def test_what_never_gets_there_needs_no_number_of_times_as_many():
    rows = rows_of("baseline", 1.0, 0.5, None) + rows_of("bn", 1.0, 0.5, 120)
    found = sweep_table.best(rows, None)
    result = {"networks": rows, "varied": None, "best": found, "classes": ["0", "1"]}
    (line,) = sweep_table.comparisons(result)
    assert "the baseline never at 95 %" in line and "times" not in line


def test_bad_input_is_one_line(data, tmp_path, capsys, refused):
    for more, message in (
        (["--learning-rates"], "--learning-rates"),
        (["--learning-rates", "0.1", "-1"], "--learning-rates: expected a number above 0, got -1"),
        (["--learning-rates", "1", "1"], "expected different ones"),
        (["--seeds", "0"], "--seeds: expected a number at least 1, got 0"),
        (["--vary", "init_scales=1,2"], "did you mean 'init_scale'? valid: init_scale, batch_size"),
        (["--vary", "hidden=3,4"], "--vary: 'hidden' is no option that can be varied"),
        (["--vary", "learning-rate=3,4"], "learning rates are varied by --learning-rates"),
        (["--vary", "init_scale=1,0"], "--init-scale: expected a number above 0, got 0.0"),
        (["--vary", "init_scale=1,one"], "--vary: expected numbers behind init_scale=, with"),
        (["--vary", "init_scale"], "--vary: expected numbers behind init_scale="),
        (["--vary", "epochs=1,2.5"], "--vary: expected whole numbers behind epochs="),
        (["--vary", "decay=0.5,0.5"], "--vary: expected different values, got one twice"),
        (["--vary", "batch_size=8,500"], "--batch-size: expected at most 48"),
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
