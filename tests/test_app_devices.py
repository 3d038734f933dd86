"""Training on several devices and in several processes, from the command line."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from processes import all_ended, command, cpus, ended, free_address, until

pytest.importorskip("tyro")

from bnjax.app.errors import UserError
from bnjax.app.run import meeting, metrics

TASK = ["--hidden", "5", "--batch-size", "16", "--epochs", "4", "--checkpoint-every", "3"]
X64 = {"JAX_ENABLE_X64": "1"}


@pytest.fixture(scope="module")
def task(three_classes):
    return ["train", "--data", three_classes, *TASK]


def one(*arguments, devices=1):
    return command(*arguments, **X64, **cpus(devices))


def several(number, *arguments):
    """So many processes of one run."""
    at = ["--coordinator", free_address(), "--num-processes", number, "--process-id"]
    return [one(*arguments, *at, each) for each in range(number)]


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
    (out, err), (other_out, other_err) = all_ended(*several(2, *task, "--out", folder, "--json"))
    close(folder, alone)
    assert json.loads(out)["finished"] and "epoch 4/4" in err
    assert other_out == "" and "epoch" not in other_err
    (folder / "summary.json").unlink()
    (_, err), (_, other_err) = all_ended(*several(2, "train", "--resume", folder))
    assert "going on from the checkpoint of epoch 3" in err and "going on" not in other_err
    close(folder, alone)
    said = all_ended(*several(2, *task, "--out", folder), code=2)
    assert "is not empty" in said[0][1] and "another process of this run" in said[1][1]


LONG = ["--hidden", "5", "--batch-size", "16", "--epochs", "200", "--checkpoint-every", "3"]


@pytest.fixture(scope="module")
def undisturbed(three_classes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    all_ended(*several(2, "train", "--data", three_classes, *LONG, "--out", folder))
    return folder


def said_on_leaving(process):
    """What a process says that has lost a partner: one line, and nothing behind it."""
    _, err = ended(process, code=2, hanging=60)
    assert "Traceback" not in err and "Check failure" not in err and "@  " not in err
    said = [line for line in err.splitlines() if line.startswith("bnjax: ")]
    assert said == err.splitlines()[-1:]
    return said[0]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_dies_ends_the_others_and_the_run_goes_on(
    lost, undisturbed, three_classes, tmp_path
):
    folder = tmp_path / "run"
    both = several(2, "train", "--data", three_classes, *LONG, "--out", folder)
    until((folder / "checkpoints" / "epoch_3.npz").exists, both[lost])
    both[lost].kill()
    ended(both[lost], code=-signal.SIGKILL)
    said = said_on_leaving(both[1 - lost])
    assert said.startswith(f"bnjax: process {lost} has died; the last checkpoint is of epoch ")
    assert said.endswith(f"bnjax train --resume {folder} in all processes goes on")
    all_ended(*several(2, "train", "--resume", folder))
    for name in ("params_baseline.npz", "params_bn.npz"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 2])
def test_a_process_that_stops_ends_the_others(lost, three_classes, tmp_path):
    folder = tmp_path / "run"
    processes = several(3, "train", "--data", three_classes, *LONG, "--out", folder)
    stopped = processes.pop(lost)
    until((folder / "checkpoints" / "epoch_3.npz").exists, stopped)
    stopped.send_signal(signal.SIGSTOP)
    try:
        for process in processes:
            said = said_on_leaving(process)
            assert said.startswith(f"bnjax: process {lost} has not answered for 30 s, end it; the ")
        stopped.send_signal(signal.SIGCONT)
        assert "bnjax: process " in said_on_leaving(stopped)
    finally:
        stopped.kill()


@pytest.mark.slow
@pytest.mark.parametrize("came", [0, 1])
def test_a_process_that_never_comes_ends_the_others(came, task, in_tmp_path):
    at = ["--coordinator", free_address(), "--num-processes", "2", "--process-id", came]
    said = said_on_leaving(one(*task, *at))
    assert f"--coordinator: process {1 - came}" in said and "has not come within 40 s" in said
    assert not list(in_tmp_path.iterdir())


def test_a_process_of_another_run_is_refused():
    address = free_address()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(meeting.meet, address, 2, 0)
        with pytest.raises(UserError, match="process 1 of 3 does not fit"):
            meeting.meet(address, 3, 1)
        others, _ = meeting.meet(address, 2, 1)
        links, same = first.result()
    assert (*links, *others, same) == (1, 0, address)
    for link in (*links.values(), *others.values()):
        link.close()


@pytest.mark.slow
def test_a_process_that_fails_alone_ends_the_others(three_classes, tmp_path):
    folder = tmp_path / "run"
    both = several(2, "train", "--data", three_classes, *LONG, "--out", folder)
    until((folder / "checkpoints" / "epoch_3.npz").exists, both[0])
    (folder / metrics.FILE).unlink()
    assert f"{metrics.FILE} was deleted or replaced while" in said_on_leaving(both[0])
    assert "bnjax: process 0 has failed, see what it says" in said_on_leaving(both[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "0"], "--devices: expected a number at least 1, got 0"),
        (["--devices", "99"], "--devices: expected at most"),
        (["--devices", "some"], "--devices"),
        (["--process-id", "0"], "--process-id: needs --coordinator HOST:PORT"),
        (
            ["--coordinator", "here", "--num-processes", "2", "--process-id", "1"],
            "--coordinator: expected HOST:PORT, got 'here'",
        ),
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
