"""Training on several devices and in several processes, from the command line."""

import json

import numpy as np
import pytest
from processes import all_ended, command, cpus, ended, free_address

pytest.importorskip("tyro")

from bnjax.app.run import metrics

TASK = ["--hidden", "5", "--batch-size", "16", "--epochs", "4", "--checkpoint-every", "3"]
X64 = {"JAX_ENABLE_X64": "1"}


@pytest.fixture(scope="module")
def task(three_classes):
    return ["train", "--data", three_classes, *TASK]


def one(*arguments, devices=1):
    return command(*arguments, **X64, **cpus(devices))


def two(*arguments):
    """Two processes of one run."""
    at = ["--coordinator", free_address(), "--num-processes", "2", "--process-id"]
    return [one(*arguments, *at, number) for number in "01"]


def close(folder, wanted):
    """The same run but for rounding, in float64."""
    lines = [metrics.read(path) for path in (folder, wanted)]
    assert len(lines[0]) == len(lines[1]) == 8
    for got, right in zip(*lines, strict=True):
        assert [got[k] for k in ("network", "epoch", "step")] == [
            right[k] for k in ("network", "epoch", "step")
        ]
        for key in ("cost", "test_cost", "train_accuracy", "test_accuracy"):
            assert got[key] == pytest.approx(right[key], rel=1e-9)
    for name in ("baseline", "bn"):
        arrays = []
        for path in (folder, wanted):
            with np.load(path / f"params_{name}.npz") as archive:
                arrays.append(dict(archive))
        for key, array in arrays[0].items():
            if array.dtype.kind == "f" and "remainder" not in key:
                np.testing.assert_allclose(array, arrays[1][key], rtol=1e-9, atol=1e-11)


@pytest.fixture(scope="module")
def alone(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "alone"
    ended(one(*task, "--out", folder))
    return folder


@pytest.mark.slow
def test_three_devices_train_what_one_does(task, alone, tmp_path):
    folder = tmp_path / "three"
    ended(one(*task, "--devices", "all", "--out", folder, devices=3))
    close(folder, alone)
    assert json.loads((folder / "config.json").read_text())["resolved"]["devices"] == 3
    (folder / "summary.json").unlink()  # where there are other devices it goes on, and says so
    _, err = ended(one("train", "--resume", folder, devices=2))
    assert "was begun on 3 devices, now it is 2 devices: the last digits may differ" in err
    close(folder, alone)


@pytest.mark.slow
def test_each_device_may_normalize_by_itself(task, alone, tmp_path):
    folder = tmp_path / "apart"
    more = ["--devices", "2", "--no-sync-statistics", "--gradient", "hand"]
    ended(one(*task, *more, "--out", folder, devices=2))
    lines = [metrics.read(path) for path in (folder, alone)]
    for got, right in zip(*lines, strict=True):
        same = got["cost"] == pytest.approx(right["cost"], rel=1e-9)
        assert same == (got["network"] == "baseline")


@pytest.mark.slow
def test_two_processes_train_what_one_does_and_go_on_after_a_kill(task, alone, tmp_path):
    folder = tmp_path / "two"
    (out, err), (other_out, other_err) = all_ended(*two(*task, "--out", folder, "--json"))
    close(folder, alone)
    assert json.loads(out)["finished"] and "epoch 4/4" in err
    assert other_out == "" and "epoch" not in other_err
    (folder / "summary.json").unlink()
    (_, err), (_, other_err) = all_ended(*two("train", "--resume", folder))
    assert "going on from the checkpoint of epoch 3" in err and "going on" not in other_err
    close(folder, alone)
    said = all_ended(*two(*task, "--out", folder), code=2)
    assert "is not empty" in said[0][1] and "another process of this run" in said[1][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "0"], "--devices: expected a number at least 1, got 0"),
        (["--devices", "99"], "--devices: expected at most"),
        (["--devices", "some"], "--devices"),
        (["--process-id", "0"], "--process-id: needs --coordinator HOST:PORT"),
        (["--coordinator", "here:1"], "--coordinator: needs --num-processes beside it, or auto"),
        (
            ["--coordinator", "here:1", "--num-processes", "2", "--process-id", "2"],
            "--process-id: expected a number at least 0 and below 2, got 2",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, in_tmp_path, refused):
    assert message in refused("train", *arguments)
    assert not list(in_tmp_path.iterdir())
