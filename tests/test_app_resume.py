"""Nothing lost: checkpoints, going on after a kill, full disks, two runs at once, divergence."""

import dataclasses
import hashlib
import json
import resource
import shutil
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import quickly_compiled
from processes import command, ended, until

pytest.importorskip("tyro")

from app_runs import after, begun, killed_before, lines_written, summary_of

from bnjax import training
from bnjax.app.errors import UserError
from bnjax.app.main import run
from bnjax.app.measures import divergence
from bnjax.app.options import Train
from bnjax.app.run import checkpoints, metrics, networks, saved
from bnjax.app.run.config import read as read_config
from bnjax.app.run.folder import RunFolder
from bnjax.network import Dense, Network, NormDense
from bnjax.training import TrainState

EPOCHS = ["--epochs", "5", "--checkpoint-every", "2"]
TASK = ["--optimizer", "momentum", "--batch-size", "16"]
DEEP = ["--hidden", "5"]
FLAT = ["--hidden", "--norm-output"]  # quickly compiled


@pytest.fixture(scope="module")
def task(three_classes):
    return ["train", "--data", str(three_classes), *TASK]


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with quickly_compiled():
        assert run([*task, *FLAT, *EPOCHS, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def deep(task, tmp_path_factory):
    """The same with a hidden layer, so with statistics to save."""
    folder = tmp_path_factory.mktemp("runs") / "deep"
    assert run([*task, *DEEP, *EPOCHS, "--out", str(folder)]) == 0
    return folder


def load(path):
    with np.load(path) as archive:
        return dict(archive)


def same(folder, wanted):
    """Both runs left the same metrics, times aside, and the same bits in their parameters."""
    for line in (lines := [metrics.read(path) for path in (folder, wanted)])[0] + lines[1]:
        del line["seconds"]
    assert lines[0] == lines[1] and (folder / "metrics.jsonl").read_bytes().endswith(b"}\n")
    for name in ("baseline", "bn"):
        arrays = [load(path / f"params_{name}.npz") for path in (folder, wanted)]
        assert arrays[0].keys() == arrays[1].keys()
        for key, array in arrays[0].items():
            assert array.tobytes() == arrays[1][key].tobytes(), key
    summaries = [summary_of(path) for path in (folder, wanted)]
    assert summaries[0]["gradient_difference"] == summaries[1]["gradient_difference"]
    assert summaries[0]["finished"]


@pytest.mark.usefixtures("quick_training")
def test_a_killed_run_goes_on_to_the_same_bits(task, whole, tmp_path, capsys):
    folder = tmp_path / "run"
    with killed_before("bn", 4, torn='{"network": "bn", "epo'):
        run([*task, *FLAT, *EPOCHS, "--out", str(folder)])
    with pytest.raises(UserError, match="expected params_NETWORK.npz of a run that has ended"):
        saved.load_run(folder)
    assert run(["train", "--resume", str(folder)]) == 0
    assert f"going on from the checkpoint of epoch 2 in {folder}" in capsys.readouterr().err
    same(folder, whole)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        "epoch_2.npz",
        "epoch_4.npz",
    }


def test_a_finished_run_says_so(whole, capsys):
    before = sorted((file, file.stat().st_mtime_ns) for file in whole.rglob("*"))
    assert run(["train", "--resume", str(whole)]) == 0
    assert f"the run in {whole} is finished: 5 epochs" in capsys.readouterr().err
    assert before == sorted((file, file.stat().st_mtime_ns) for file in whole.rglob("*"))


def test_what_cannot_go_on_is_refused_in_one_line(whole, three_classes, tmp_path, refused):
    resume = ["train", "--resume", whole]
    assert "--seed: cannot be combined with --resume" in refused(*resume, "--seed", "0")
    assert "--hidden: cannot be combined with" in refused(*resume, "--hidden=5")
    assert "expected at least 5" in refused(*resume, "--epochs", "4")
    assert "no run has begun in it: there is no config.json" in refused(
        "train", "--resume", tmp_path
    )
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    (cut / "summary.json").unlink()  # killed just before its end
    (cut / "config.json").write_text((cut / "config.json").read_text()[:-10])
    assert "config.json: is not JSON" in refused("train", "--resume", cut)
    config = json.loads((whole / "config.json").read_text())
    config["options"]["colour"] = "red"
    (cut / "config.json").write_text(json.dumps(config))
    assert "unknown option 'colour'" in refused("train", "--resume", cut)
    del config["options"]["colour"]
    other = tmp_path / "data.npz"
    arrays = load(three_classes)
    np.savez(other, x=arrays["x"] + 1e-9, y=arrays["y"])
    config["resolved"]["data"] = str(other)
    (cut / "config.json").write_text(json.dumps(config))
    assert f"{other} is not the data that {cut} was trained on" in refused("train", "--resume", cut)
    config["resolved"]["data"], config["x64"] = str(three_classes), not config["x64"]
    (cut / "config.json").write_text(json.dumps(config))
    assert "was begun with JAX_ENABLE_X64=" in refused("train", "--resume", cut)


def test_a_run_of_before_initial_scales_is_read_as_it_was_trained(whole, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(whole, old)
    written = json.loads((old / "config.json").read_text())
    assert (written["options"].pop("initializer"), written["options"].pop("init_scale")) == (
        "glorot_uniform",
        1.0,
    )
    (old / "config.json").write_text(json.dumps(written))
    assert read_config(old)[1] == dataclasses.replace(read_config(whole)[1], out=str(old))
    then, now = (saved.load_run(folder).networks["bn"].net for folder in (old, whole))
    assert then == now


def test_a_run_keeps_the_initial_weights_that_it_was_asked_for(three_classes, tmp_path):
    options = Train(data=str(three_classes), init_scale=0.01, initializer="orthogonal")
    begun(tmp_path / "run", options).close()
    read = read_config(tmp_path / "run")[1]
    for name in networks.NAMES:
        net = networks.make_network(read, 3, 3, name, decay=0.9)
        assert (net.init_scale, net.initializer) == (0.01, "orthogonal")


def test_a_second_run_into_the_folder_is_refused(task, whole, tmp_path, refused):
    folder = RunFolder.create(str(tmp_path / "run"), overwrite=False)
    shutil.copy(whole / "config.json", folder.path)
    message = f"another run is writing into {folder.path}"
    assert message in refused(*task, *FLAT, *EPOCHS, "--out", folder.path, "--overwrite")
    assert message in refused("train", "--resume", folder.path)
    folder.close()
    RunFolder.reopen(folder.path).close()


@pytest.fixture
def three(tmp_path):
    """A run folder with the checkpoints of epochs 2, 4 and 6."""
    folder = RunFolder.create(str(tmp_path / "three"), overwrite=False)
    for epoch in (2, 4, 6):
        checkpoints.write(folder, after(epoch), keep=3)
    yield folder
    folder.close()


def names_in(folder):
    return {path.name for path in (folder.path / "checkpoints").iterdir()}


def newest(folder, most=9, template=None):
    return checkpoints.newest(folder.path, (template or after(0)).networks, most=most)


def test_metrics_cover_an_epoch_once_every_network_has_its_line():
    lines = [
        {"network": name, "epoch": epoch} for epoch in (1, 2, 3) for name in ("bn", "baseline")
    ]
    for count, epoch in ((0, 0), (1, 0), (2, 1), (5, 2), (6, 3)):
        assert metrics.covered(lines[:count], ("baseline", "bn")) == epoch
    assert metrics.covered([*lines[:2], *lines[4:]], ("bn",)) == 1


def test_the_newest_checkpoint_is_read_to_the_bit(three, capsys):
    found, wanted = newest(three), after(6)
    assert (found.epoch, found.about, capsys.readouterr().err) == (6, wanted.about, "")
    for got, right in zip(*map(jax.tree.leaves, (found.networks, wanted.networks)), strict=True):
        assert got.tobytes() == right.tobytes() and got.dtype == right.dtype


def spoil(file: Path, how: str):
    content = bytearray(file.read_bytes())
    match how:
        case "a flipped bit":
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        case "a cut file":
            file.write_bytes(content[:-5])
        case "an empty file":
            file.write_bytes(b"")
        case "another number":
            with np.load(file) as archive:
                arrays = dict(archive)
            arrays["['bn'].params[0].W"][0, 0] += 1
            np.savez(file, **arrays)
        case "a number less":
            with np.load(file) as archive:
                arrays = dict(archive)
            del arrays["['bn'].params[0].W"]
            np.savez(file, **arrays)


@pytest.mark.parametrize(
    "how", ["a flipped bit", "a cut file", "an empty file", "another number", "a number less"]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(three, how, capsys):
    spoil(three.path / "checkpoints" / "epoch_6.npz", how)
    assert newest(three).epoch == 4
    said = capsys.readouterr().err
    assert "the checkpoint of epoch 6 is passed over: a damaged file" in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_no_flipped_bit_of_a_checkpoint_is_taken_for_a_number(three, rng):
    file = three.path / "checkpoints" / "epoch_6.npz"
    content, right = file.read_bytes(), after(6)
    for at in rng.integers(8 * len(content), size=2000):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << (at % 8)
        file.write_bytes(flipped)
        try:
            found = checkpoints.read(three.path, 6, after(0).networks)
        except ValueError:
            continue
        leaves = map(jax.tree.leaves, (found.networks, right.networks))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(*leaves, strict=True))


def test_a_checkpoint_that_does_not_fit_is_passed_over(three, capsys):
    assert newest(three, most=5).epoch == 4
    assert "metrics.jsonl ends before it, after epoch 5" in capsys.readouterr().err


def test_where_no_checkpoint_can_be_read_nothing_is_begun_anew(three):
    with pytest.raises(UserError, match="none of the 3 checkpoints in .* can be used"):
        newest(three, template=after(0, width=5))
    assert names_in(three) == {f"epoch_{epoch}.npz" for epoch in (2, 4, 6)}


def test_the_newest_are_kept_and_what_lay_ahead_is_dropped(three):
    spoil(three.path / "checkpoints" / "epoch_6.npz", "a flipped bit")
    (three.path / "checkpoints" / ".epoch_7.npz.tmp").write_text("of a kill")
    (three.path / "checkpoints" / "epoch_x.npz").write_text("somebody's")
    checkpoints.write(three, after(5), keep=2)
    assert names_in(three) == {"epoch_4.npz", "epoch_5.npz", "epoch_x.npz"}


def test_a_full_disk_loses_nothing_that_stood(three):
    folder = three
    line = metrics.Line(
        network="bn", epoch=1, step=3, cost=1, test_cost=1, train_accuracy=None, test_accuracy=None,
        seconds=0.1,
    )  # fmt: skip
    folder.write_metrics(line)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = sorted(folder.path.rglob("*"))
    big = after(8, width=5000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for write in (
            lambda: checkpoints.write(folder, big, keep=1),
            lambda: folder.write("summary.json", {"text": "x" * 2000}),
            lambda: folder.write_metrics(line | {"network": "x" * 2000}),
            lambda: folder.write("curves.png", lambda file: file.write(bytes(2000))),
        ):
            with pytest.raises(UserError, match="cannot be written: .* is as it was before"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(folder.path.rglob("*")) == before
    assert metrics.read(folder.path) == [line]
    assert newest(folder).epoch == 6


@pytest.mark.usefixtures("quick_training")
def test_a_lost_network_stops_the_run_and_the_last_good_checkpoint_stays(task, tmp_path, capsys):
    arguments = [*task, *FLAT[:1], "--cost", "squared_error", "--network", "baseline"]
    arguments += ["--learning-rate", "1e55", "--epochs", "9", "--checkpoint-every", "1"]
    assert run([*arguments, "--out", str(tmp_path / "run"), "--keep", "2"]) == 3
    err = capsys.readouterr().err
    summary = summary_of(tmp_path / "run")
    lost = summary["diverged"]["baseline"]
    assert f"baseline diverged in epoch {lost['epoch']}: the cost" in err
    assert f"the first parameter that went is {lost['parameter']}, at step" in err
    epoch, steps = lost["epoch"], -(-41 // 16)
    assert lost["parameter"] in ("layer0.W", "layer0.b")
    assert (epoch - 1) * steps < lost["parameter_step"] <= epoch * steps
    assert (epoch - 1) * steps < lost["step"] <= epoch * steps
    assert not summary["finished"] and not (tmp_path / "run" / "params_baseline.npz").exists()
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {f"epoch_{number}.npz" for number in range(max(1, epoch - 2), epoch)}
    assert [line["epoch"] for line in metrics.read(tmp_path / "run")] == [*range(1, epoch + 1)]


def spoils(place, at):
    """A step that adds one to every parameter, and infinity to those at `place` at step `at`."""

    def step(state, x, targets, where):
        count = state.step + 1
        params = jax.tree.map(lambda a: a + 1.0, state.params)
        layer = params[place[0]]
        gone = getattr(layer, place[1]) + jnp.where(count == at, jnp.inf, 0)
        params = (*params[: place[0]], layer._replace(**{place[1]: gone}), *params[place[0] + 1 :])
        return state._replace(params=params, step=count), jnp.sum(x)

    return step


def test_the_first_parameter_that_went_is_named_with_its_step():
    params = (NormDense(*np.zeros((3, 2))), Dense(*np.zeros((2, 2))))
    before = TrainState(params, (), (), np.array(10, np.int32))
    order = np.array([[0, 1], [2, 3], [4, -1]])
    x = jnp.ones((5, 1))
    bad = jax.tree.map(lambda a: a + np.nan, before)

    def find(place, at, after, costs):
        return divergence.find(
            spoils(place, at),
            (before, after),
            lambda: (order, x, x),
            epoch=6,
            costs=np.array(costs),
        )

    assert find((0, "W"), 99, before, [1.0, 1.0, 1.0]) is None
    found = find((0, "beta"), 12, bad, [1.0, np.inf, np.nan])
    assert found == (6, 12, np.inf, "layer0.beta", 12)
    found = find((1, "b"), 11, bad, [1.0, 1.0, np.nan])
    assert found[:2] + found[3:] == (6, 13, "layer1.b", 11)
    said = divergence.describe("bn", found)
    assert said == (
        "bn diverged in epoch 6: the cost is nan at step 13; "
        "the first parameter that went is layer1.b, at step 11"
    )
    # not lost the second time: what is lost in the end
    found = find((0, "W"), 99, bad, [1.0, 1.0, 1.0])
    assert found[3:] == ("layer0.W", 13) and "costs are finite" in divergence.describe("bn", found)
    found = find((0, "W"), 99, before, [1.0, np.inf, 1.0])
    assert found[3:] == (None, None) and "no parameter has" in divergence.describe("bn", found)


@pytest.mark.slow
def test_killed_at_random_moments_it_goes_on_to_the_same_bits(task, tmp_path, rng):
    long = [*task, *DEEP, "--epochs", "200", "--checkpoint-every", "7"]
    ended(command(*long, "--out", tmp_path / "whole"))
    outcomes = []
    for number in range(5):
        folder, lines = tmp_path / str(number), rng.integers(395)
        process = command(*long, "--out", folder)
        until((folder / "config.json").exists, process)
        until(lambda folder=folder, lines=lines: lines_written(folder) >= lines, process)
        time.sleep(rng.uniform(0, 0.02))  # anywhere between two lines
        process.send_signal(signal.SIGKILL)
        process.communicate()
        _, err = ended(command("train", "--resume", folder))
        outcomes.append(err)
        same(folder, tmp_path / "whole")
    assert any("going on from the checkpoint of epoch" in outcome for outcome in outcomes)


@pytest.mark.slow
def test_damaged_checkpoints_are_named_and_the_run_goes_on_all_the_same(deep, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(deep, folder)
    (folder / "summary.json").unlink()
    spoil(folder / "checkpoints" / "epoch_4.npz", "a flipped bit")
    _, err = ended(command("train", "--resume", folder, JAX_ENABLE_X64="1"))
    assert "the checkpoint of epoch 4 is passed over" in err and "checkpoint of epoch 2" in err
    same(folder, deep)
    (folder / "summary.json").unlink()
    for epoch in (2, 4):
        spoil(folder / "checkpoints" / f"epoch_{epoch}.npz", "a cut file")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    _, err = ended(command("train", "--resume", folder, JAX_ENABLE_X64="1"), code=2)
    assert "none of the 2 checkpoints" in err
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def write_as_orbax_did(path, checkpoint, kinds):
    """A checkpoint of bnjax 0.1, from before the variance had a remainder."""
    import orbax.checkpoint as ocp

    networks = {}
    for name, one in checkpoint.networks.items():
        fields = [{f: v for f, v in s._asdict().items() if f != "var_remainder"} for s in one.state]
        each = len(fields) // kinds
        by_kind = (fields[first : first + each] for first in range(0, len(fields), each or 1))
        networks[name] = one._replace(state=tuple(zip(*by_kind, strict=True)))
    arrays = {"key": np.zeros(2, np.uint32), "networks": networks}
    arrays["inputs"] = {name: np.zeros((checkpoint.epoch + 1, 3, 5)) for name in networks}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((path / "state").resolve(), arrays)
    (path / "about.json").write_text(json.dumps(checkpoint.about))
    written = (file for file in path.rglob("*") if file.is_file())
    sums = {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in written
    }
    (path / "digests.json").write_text(json.dumps(sums))


@pytest.mark.slow
def test_a_run_of_bnjax_0_1_goes_on(deep, tmp_path, capsys):
    pytest.importorskip("orbax.checkpoint")
    folder = tmp_path / "run"
    shutil.copytree(deep, folder)
    for name in ("summary.json", ".bnjax"):
        (folder / name).unlink()
    net = {"norm": True, "decay": 0.9, "other_decays": (None,)}
    start = training.init(
        Network((3, 5, 3), **net), optax.sgd(0.1, momentum=0.9), jax.random.key(0)
    )
    other = training.init(
        Network((3, 5, 3), norm=False), optax.sgd(0.1, momentum=0.9), jax.random.key(0)
    )
    template = jax.tree.map(np.array, {"baseline": other, "bn": start})
    old = checkpoints.read(folder, 2, template)
    for epoch in (2, 4):
        (folder / "checkpoints" / f"epoch_{epoch}.npz").unlink()
    path = folder / "checkpoints" / "epoch_2"
    path.mkdir()
    write_as_orbax_did(path, old, kinds=2)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["inputs"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(["train", "--resume", str(folder)]) == 0
    assert f"going on from the checkpoint of epoch 2 in {folder}" in capsys.readouterr().err
    ours, theirs = (load(path / "params_bn.npz") for path in (folder, deep))
    for key, array in ours.items():
        if array.dtype.kind == "f" and "remainder" not in key:
            np.testing.assert_allclose(array, theirs[key], rtol=1e-14)
        if key.split(".")[-1] in ("W", "gamma", "beta", "b"):
            assert array.tobytes() == theirs[key].tobytes()
    del ours["layer0.var_remainder"], ours["sha256"]
    np.savez(folder / "params_bn.npz", **ours)
    (state,) = saved.load_run(folder).networks["bn"].state
    assert not np.any(state.var_remainder) and state.var_remainder.shape == state.var.shape
    (path / "about.json").write_text("{}")
    with pytest.raises(ValueError, match="not those that were written"):
        checkpoints.read(folder, 2, template)


@pytest.mark.slow
def test_a_longer_run_is_what_it_would_have_been(task, deep, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(deep, folder)
    assert run(["train", "--resume", str(folder), "--epochs", "9"]) == 0
    assert run([*task, *DEEP, "--epochs", "9", "--out", str(tmp_path / "nine")]) == 0
    lines = [metrics.read(path) for path in (folder, tmp_path / "nine")]
    for line in lines[0] + lines[1]:
        del line["seconds"]
    assert lines[0] == lines[1] and len(lines[0]) == 18
    assert json.loads((folder / "config.json").read_text())["options"]["epochs"] == 9
    assert run(["train", "--resume", str(folder)]) == 0
    assert summary_of(folder)["finished"]


@pytest.mark.slow
def test_after_ctrl_c_the_run_goes_on_where_it_stopped(task, tmp_path):
    folder = tmp_path / "run"
    long = [*task, *DEEP, "--epochs", "400", "--checkpoint-every", "1000"]
    process = command(*long, "--out", folder)
    until(lambda: lines_written(folder), process)
    process.send_signal(signal.SIGINT)
    _, err = ended(process, 130)
    assert f"bnjax train --resume {folder} goes on" in err
    last = metrics.read(folder)[-1]["epoch"]
    _, err = ended(command("train", "--resume", folder))
    assert f"going on from the checkpoint of epoch {last} in" in err
    ended(command(*long, "--out", tmp_path / "whole"))
    same(folder, tmp_path / "whole")


@pytest.mark.slow
def test_a_lost_network_may_go_on_and_the_other_is_unharmed(task, tmp_path, capsys):
    arguments = [*task, *DEEP, *EPOCHS, "--cost", "squared_error"]
    arguments += ["--activation", "relu", "--learning-rate", "30", "--on-divergence", "continue"]
    assert run([*arguments, "--out", str(tmp_path / "run"), "--json"]) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert summary["finished"] and "baseline" in summary["diverged"]
    assert printed.err.count("baseline diverged in epoch") == 1
    assert len(metrics.read(tmp_path / "run")) == 10
    (tmp_path / "run" / "summary.json").unlink()
    assert run(["train", "--resume", str(tmp_path / "run")]) == 0
    assert "baseline diverged" not in capsys.readouterr().err
