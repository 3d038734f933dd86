import json
import signal
import time
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from app_runs import lines_written, metrics
from compiling import quick_flags
from processes import command, ended, python, until
from rich.table import Table

from bnjax import Network, bn_apply
from bnjax.app import load_run
from bnjax.app.data import load
from bnjax.app.io import terminal
from bnjax.app.main import run
from bnjax.app.report import tables
from bnjax.app.run import epochs
from bnjax.app.run.folder import RunFolder
from bnjax.app.run.metrics import epoch_seconds
from bnjax.app.run.session import Run
from bnjax.training import Progress, TrainState

QUICK = ["--epochs", "2", "--hidden", "6", "--batch-size", "200"]


def train(folder, *arguments, **more):
    return command("train", *QUICK, "--out", folder, *arguments, XLA_FLAGS=quick_flags(), **more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One quick run on digits: its folder, its summary, and what it printed on stderr."""
    folder = tmp_path_factory.mktemp("runs") / "quick"
    out, err = ended(train(folder, "--json", cwd=folder.parent))
    return folder, json.loads(out), err


def test_json_prints_one_object_on_stdout_and_progress_goes_to_stderr(finished):
    folder, summary, err = finished
    assert summary["out"] == str(folder)
    assert "epoch 2/2" in err and "samples/s" in err and "Warning" not in err
    assert summary["data"]["classes"] == [str(digit) for digit in range(10)]
    assert set(summary["networks"]) == {"baseline", "bn"}
    for differences in summary["gradient_difference"].values():
        assert set(differences) == {"W", "gamma", "beta"}
        assert 0 < max(differences.values()) < 1e-5


def test_the_run_folder_holds_what_it_should(finished):
    folder, *_ = finished
    names = {".bnjax", "config.json", "summary.json", "metrics.jsonl", "folded.npz"}
    names |= {"preparation.json"}
    names |= {"curves.png", "inputs.png"}
    assert {file.name for file in folder.iterdir()} == names | {
        "params_baseline.npz",
        "params_bn.npz",
    }
    lines = metrics(folder)
    assert [(line["network"], line["epoch"], line["step"]) for line in lines] == [
        ("baseline", 1, 8),
        ("bn", 1, 8),
        ("baseline", 2, 16),
        ("bn", 2, 16),
    ]
    for line in lines:
        assert line["cost"] > 0 and line["seconds"] > 0
        assert 0 <= line["test_accuracy"] <= 1 and 0 <= line["train_accuracy"] <= 1
    config = json.loads((folder / "config.json").read_text())
    assert config["options"]["seed"] == 0 and config["resolved"]["learning_rate"] == 1.5
    assert {"bnjax", "jax", "optax"} <= set(config["versions"])
    with np.load(folder / "params_bn.npz") as saved:
        assert saved["layer0.W"].shape == (64, 6) and saved["layer0.var"].shape == (6,)
        assert saved["layer1.b"].shape == (10,) and saved["layer0.batches"].tolist() == [16] * 6
    for picture in ("curves.png", "inputs.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_the_summary_holds_every_kind_of_statistics_against_training_mode(finished):
    networks = finished[1]["networks"]
    kinds = networks["bn"]["statistics"]
    assert list(kinds) == ["training_mode", "ema", "cumulative", "precise"]
    in_training = kinds.pop("training_mode")["test_accuracy"]
    for figures in kinds.values():
        assert figures["accuracy_gap"] == pytest.approx(in_training - figures["test_accuracy"])
    assert kinds["ema"]["test_accuracy"] == networks["bn"]["final_test_accuracy"]
    assert "statistics" not in networks["baseline"]


def test_the_folded_network_predicts_what_the_normalized_one_does(finished):
    folder, summary, _ = finished
    assert summary["networks"]["bn"]["folded"]["test_predictions_changed"] == 0
    x = np.random.default_rng(0).random((50, 64))
    with np.load(folder / "folded.npz") as folded, np.load(folder / "params_bn.npz") as bn:
        u = 1 / (1 + np.exp(-(x @ folded["layer0.W"] + folded["layer0.b"])))
        got = u @ folded["layer1.W"] + folded["layer1.b"]
        x_hat = (x @ bn["layer0.W"] - bn["layer0.mean"]) / np.sqrt(bn["layer0.var"] + 1e-5)
        u = 1 / (1 + np.exp(-(bn["layer0.gamma"] * x_hat + bn["layer0.beta"])))
        np.testing.assert_allclose(got, u @ bn["layer1.W"] + bn["layer1.b"], atol=1e-5)


def test_a_run_is_read_back_as_it_was_judged(finished):
    folder, summary, _ = finished
    digits = load("digits", cost="sigmoid_cross_entropy")
    found = load_run(folder)
    for name, figures in summary["networks"].items():
        net, params, state, lines = found.networks[name]
        spread = digits.preparation.spread
        raw = digits.x_test * np.where(np.isfinite(spread), spread, 0) + digits.preparation.center
        x = jnp.asarray(found.scale(raw))
        logits, _ = bn_apply(net, params, state, x, train=False)
        correct = np.mean(logits.argmax(axis=1) == digits.targets_test.argmax(axis=1))
        assert correct == pytest.approx(figures["final_test_accuracy"])
        assert lines[-1]["test_accuracy"] == figures["final_test_accuracy"]


@pytest.mark.slow
def test_a_run_repeats_to_the_last_bit(finished, tmp_path, capsys):
    folder, *_ = finished
    out, _ = ended(train(tmp_path / "again"))
    timeless = [
        [{key: value for key, value in line.items() if key != "seconds"} for line in metrics(path)]
        for path in (folder, tmp_path / "again")
    ]
    assert timeless[0] == timeless[1]
    assert "steps to 95 %" in out and str(tmp_path / "again") in out


BASELINE = ["--hidden", "--epochs", "1", "--network", "baseline"]


@pytest.mark.usefixtures("quick_training")
def test_a_run_is_overwritten_on_demand_and_what_is_not_of_it_stays(tmp_path, refused, capsys):
    folder = tmp_path / "run"
    one = [*BASELINE, "--checkpoint-every", "1", "--out", str(folder)]
    assert run(["train", *one]) == 0
    for name in ("notes.txt", "checkpoints/notes.txt", "report.txt"):
        (folder / name).write_text("mine\n")
    before = (folder / "summary.json").read_text()
    capsys.readouterr()
    assert "is not empty" in refused("train", *one)
    assert (folder / "summary.json").read_text() == before
    assert run(["train", *one, "--overwrite"]) == 0
    assert len(metrics(folder)) == 1 and (folder / "summary.json").read_text() != before
    for name in ("notes.txt", "checkpoints/notes.txt", "report.txt"):
        assert (folder / name).read_text() == "mine\n"


@pytest.mark.parametrize("marker", [None, "{}", '{"folder": "sweep", "bnjax": "0"}', "{"])
def test_a_folder_that_holds_no_run_is_never_emptied(marker, tmp_path, refused):
    files = {
        "config.json": "{}",
        "report/a.html": "mine",
        "checkpoints/b": "mine",
        "curves.png": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    if marker is not None:
        (tmp_path / ".bnjax").write_text(marker)
    said = refused("train", *BASELINE, "--out", tmp_path, "--overwrite")
    assert "overwrite" in said and "name another folder" in said
    for name, text in files.items():
        assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "report", "curves.png"])
def test_no_link_in_a_run_folder_is_followed(name, tmp_path, refused):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    RunFolder.create(str(folder), overwrite=False).close()
    if name in ("checkpoints", "report"):
        outside.mkdir()
        inside = [outside / "epoch_1.npz", outside / "index.html"]
    else:
        inside = [outside]
    for file in inside:
        file.write_text("precious")
    (folder / name).symlink_to(outside)
    (folder / "config.json").write_text("{}")
    run(["train", *BASELINE, "--out", str(folder), "--overwrite"])
    assert all(file.read_text() == "precious" for file in inside)


def test_an_empty_name_is_no_folder(in_tmp_path, refused):
    assert "--out: expected the name of a folder, got an empty one" in refused("train", "--out", "")
    assert not list(in_tmp_path.iterdir())


@pytest.mark.usefixtures("quick_training")
def test_a_run_killed_before_it_wrote_anything_can_begin_again(tmp_path, refused):
    folder = tmp_path / "run"
    RunFolder.create(str(folder), overwrite=False).close()
    (folder / "..bnjax.tmp").write_text("{")
    assert f"begin one with bnjax train --out {folder}" in refused("train", "--resume", folder)
    assert run(["train", *BASELINE, "--out", str(folder)]) == 0
    assert {file.name for file in folder.iterdir() if "tmp" in file.name} == set()


@pytest.mark.slow
def test_a_binary_task_has_one_output(tmp_path, capsys):
    arguments = ["--data", "breast_cancer", "--network", "bn", "--epochs", "6", "--hidden", "8"]
    arguments += ["--statistics", "precise"]
    assert run(["train", *arguments, "--json", "--out", str(tmp_path / "run")]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert len(summary["data"]["classes"]) == 2
    with np.load(tmp_path / "run" / "params_bn.npz") as saved:
        assert saved["layer1.W"].shape == (8, 1)
        # pooled over one pass, not averaged over six
        assert saved["layer0.batches"].tolist() == [-(-summary["data"]["train_samples"] // 60)] * 8
    figures = summary["networks"]["bn"]
    assert figures["final_test_accuracy"] > 0.9
    assert figures["statistics"]["precise"]["test_accuracy"] == figures["final_test_accuracy"]


@pytest.mark.slow
def test_regression_is_judged_by_its_cost(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    np.savez(tmp_path / "data.npz", x=x, y=x @ [1.0, -2.0, 0.5] + 0.01)
    arguments = ["--data", str(tmp_path / "data.npz"), "--cost", "squared_error", "--epochs", "30"]
    arguments += ["--hidden", "16", "--learning-rate", "0.05", "--activation", "tanh"]
    arguments += ["--statistics", "cumulative", "--network", "bn"]
    assert run(["train", *arguments, "--out", str(tmp_path / "run")]) == 0
    assert "final test cost" in capsys.readouterr().out
    lines = metrics(tmp_path / "run")
    assert lines[-1]["test_accuracy"] is None
    with np.load(tmp_path / "run" / "params_bn.npz") as saved:
        assert saved["layer0.batches"].tolist() == [lines[-1]["step"]] * 16
    assert (tmp_path / "run" / "folded.npz").exists()
    assert lines[-1]["test_cost"] < lines[0]["test_cost"] / 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [["--batch-size", "1", "--network", "baseline"], ["--hidden", "--norm-output"]]
)
def test_incremental_updates_and_no_hidden_layer(more, tmp_path):
    one = ["--epochs", "1", "--hidden", "4", "--network", "both", "--data", "breast_cancer"]
    assert run(["train", *one, *more, "--learning-rate", "0.1", "--out", str(tmp_path / "r")]) == 0


@pytest.mark.slow
def test_batch_gradient_descent_makes_one_step_per_epoch(tmp_path):
    by_hand = [*QUICK, "--network", "bn", "--gradient", "hand", "--batch-size", "full"]
    assert run(["train", *by_hand, "--out", str(tmp_path / "run")]) == 0
    assert metrics(tmp_path / "run")[-1]["step"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "digit"], "did you mean 'digits'?"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--activation", "sigmod"], "--activation: unknown name 'sigmod': did you mean 'sigmoid'"),
        (["--cost", "softmax"], "--cost: unknown name 'softmax'"),
        (["--network", "nb"], "--network: unknown name 'nb'"),
        (["--optimizer", "sdg"], "did you mean 'sgd'?"),
        (["--gradient", "by-hand"], "--gradient: unknown name"),
        (["--scale", "ranges"], "did you mean 'range'?"),
        (["--learning-rate", "-1"], "--learning-rate: expected a number above 0, got -1.0"),
        (["--learning-rate", "nan"], "got nan"),
        (["--eps", "-0.1"], "--eps: expected a number at least 0, got -0.1"),
        (["--decay", "1"], "--decay: expected a number at least 0 and below 1, got 1.0"),
        (["--initializer", "glorot"], "--initializer: unknown name 'glorot': did you mean"),
        (["--init-scale", "0"], "--init-scale: expected a number above 0, got 0"),
        (["--hidden", "10", "0"], "--hidden: expected a number at least 1, got 0"),
        (["--epochs", "0"], "--epochs: expected a number at least 1, got 0"),
        (["--epochs", "many"], "--epochs"),
        (["--batch-size", "0"], "--batch-size: expected a number at least 1, got 0"),
        (["--batch-size", "1"], "a batch of 1 has no variance"),
        (["--batch-size", "5000"], "expected at most 1437, the size of the training set, got 5000"),
        (["--test-fraction", "1.5"], "--test-fraction"),
        (["--seed", "-3"], "--seed: expected a number at least 0"),
        (["--hidden"], "--hidden: without hidden layers there is nothing to normalize"),
        (["--norm-output", "--network", "baseline"], "--norm-output: the baseline normalizes"),
        (
            ["--epoch", "3"],
            "unknown option --epoch. Did you mean --epochs? See bnjax train --help.",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, in_tmp_path, refused):
    assert message in refused("train", *arguments)
    assert not list(in_tmp_path.iterdir())


def test_an_unwritable_folder_is_refused(tmp_path, refused):
    (tmp_path / "file").write_text("")
    err = refused("train", *QUICK, "--out", tmp_path / "file" / "run")
    assert "--out: " in err and "cannot be used: Not a directory" in err


def test_help_has_an_example_and_version_works(capsys):
    assert run(["--version"]) == 0 and run(["--help"]) == 0 and run(["train", "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("bnjax 0.") and printed.count("Example: bnjax train") >= 2
    assert run(["trian"]) == 2
    assert "trian" in capsys.readouterr().err


def test_without_the_extra_one_line_says_what_to_install():
    code = """
import sys
sys.modules["tyro"] = None
from bnjax.app.io import terminal
from bnjax.app.main import run
from bnjax.app.run.folder import RunFolder
sys.exit(run(["train"]))
"""
    _, err = ended(python("-c", code), code=2)
    assert err.count("\n") == 1 and "pip install 'bnjax[cli]'" in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(number, tmp_path):
    folder = tmp_path / "run"
    arguments = ["train", "--epochs", "100000", "--network", "bn", "--hidden", "--norm-output"]
    process = command(*arguments, "--out", folder)
    until(lambda: lines_written(folder), process)
    process.send_signal(number)
    out, err = ended(process, code=130)
    assert "interrupted after epoch" in err and f"bnjax train --resume {folder} goes on" in err
    lines = metrics(folder)
    assert (folder / f"checkpoints/epoch_{lines[-1]['epoch']}.npz").exists() and "network" in out
    with np.load(folder / "params_bn.npz") as saved:
        assert saved["layer0.batches"][0] == lines[-1]["step"]
    assert (folder / "curves.png").exists()


@pytest.mark.slow
def test_the_second_signal_ends_at_once_wherever_it_comes(tmp_path, rng):
    arguments = ["train", "--epochs", "100000", "--network", "bn", "--hidden", "--norm-output"]
    for number in range(6):
        process = command(*arguments, "--out", tmp_path / str(number))
        time.sleep(rng.uniform(0.3, 6))  # while importing, compiling, training
        for _ in range(3):
            process.send_signal(signal.SIGINT)
        _, err = ended(process, code=130)
        assert err.count("bnjax: interrupted\n") <= 1 and "interrupted" in err
        assert "Traceback" not in err and "Error" not in err


def test_a_table_that_does_not_fit_is_printed_row_by_row(capsys):
    table = Table("network", "samples/s")
    table.add_row("baseline", "205,896")
    terminal.console(width=12).print(table)
    assert capsys.readouterr().out == "network: baseline\n  samples/s: 205,896\n"


def test_identical_networks_have_the_same_speed_although_one_comes_first(monkeypatch):
    """What comes first pays for warming up: ten seconds by this clock, then one each."""
    now, took = [0.0], iter([10.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr(epochs, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def epochs_of(state):
        for epoch in (1, 2, 3):
            now[0] += next(took)
            names = "test_cost", "test_accuracy", "train_accuracy"
            yield Progress(epoch, state, jnp.ones((1, 2)), dict.fromkeys(names, jnp.ones(1)))

    state = TrainState((), (), (), jnp.int32(0))
    runs = {name: Run(Network((4, 2)), state) for name in ("baseline", "bn")}
    trained = {name: epochs_of(state) for name in runs}
    speeds = {name: [] for name in runs}
    for _ in range(3):
        for name, one in runs.items():
            one.metrics.append(epochs.advance(trained[name], one, name, classify=True)[0])
            speeds[name].append(epoch_seconds(one.metrics))
    assert [one.seconds for one in runs.values()] == [12.0, 3.0]
    assert speeds["baseline"] == speeds["bn"] == [None, 1.0, 1.0]


def test_the_summary_names_the_slower_network_and_what_it_holds_for():
    options = {"initializer": "glorot_uniform", "init_scale": 1.0}
    summary = {"options": options, "learning_rate": 1.5}
    for baseline, bn, said in (
        (1032, 120, "the baseline needs 8.6 times as many steps to 95 % as the normalized network"),
        (120, 240, "the normalized network needs 2.0 times as many steps to 95 % as the baseline"),
        (None, 120, None),
        (None, None, None),
        (120, 120, None),
    ):
        networks = {"baseline": {"steps_to_95": baseline}, "bn": {"steps_to_95": bn}}
        *first, same, how = tables.comparison(summary | {"networks": networks})
        assert first == ([said] if said else [])
        assert "(glorot_uniform, scale 1) and learning rate (1.5)" in same and "bnjax sweep" in how
    assert tables.comparison(summary | {"networks": {"bn": {"steps_to_95": 120}}}) == []


def test_no_style_without_colour_and_no_command_to_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal.say("a\x1b[31mb\udcff é\n")
    terminal.console().print("bold", style="bold")
    printed = capsys.readouterr()
    assert printed.err == "a\\x1b[31mb\\udcff é\n\n" and printed.out == "bold\n"
