"""What --diagnostics records, what bnjax explain makes of it, and what it does with ruins."""

import base64
import html
import json
import os
import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import HANGING

pytest.importorskip("matplotlib")

from app_runs import begun, killed_before, line, metrics
from pages import Page

from bnjax import geometry, identities
from bnjax.app import data as datasets
from bnjax.app import load_run
from bnjax.app.errors import UserError
from bnjax.app.io import arrays as npz
from bnjax.app.main import run
from bnjax.app.measures import looks
from bnjax.app.options import Train
from bnjax.app.report import sphere, weight
from bnjax.geometry.recording import first_line, look_line, without_looks
from bnjax.network import Network, init

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def task(three_classes):
    return ["train", "--data", str(three_classes), "--hidden", "5", "--batch-size", "16"]


@pytest.fixture(scope="module")
def recorded(three_classes, tmp_path_factory):
    """A run of four epochs, looked at before it and after the second and the fourth.

    What trains it is a hand that shrinks the weights: compiling real training takes longer than
    all that is tested here. The slow tests train.
    """
    path = tmp_path_factory.mktemp("runs") / "recorded"
    options = Train(data=str(three_classes), hidden=(5,), batch_size=16, epochs=4, diagnostics=2)
    found = datasets.load(options.data, cost=options.cost)
    x, targets = jnp.asarray(found.x_train), jnp.asarray(found.targets_train)
    folder = begun(path, options, digest=datasets.digest(found))
    nets = {name: Network((3, 5, 3), norm=name == "bn") for name in ("baseline", "bn")}
    started = {name: init(net, jax.random.key(0)) for name, net in nets.items()}
    params = {name: params for name, (params, _) in started.items()}
    batch = looks.choose_batch(x, targets, batch_size=16, seed=options.seed)
    recorder = looks.Recorder(folder, nets, params, batch, every=2, epochs=4)
    for epoch in (1, 2, 3, 4):
        for name in nets:
            params[name] = jax.tree.map(lambda a: 0.9 * a, params[name])
            seen = recorder.look(name, params[name], epoch)
            figures = {"cost": 1 / epoch, "test_accuracy": 1 - 0.2 / epoch}
            figures |= {"geometry": seen} if seen else {}
            folder.write_metrics(line(name, epoch, **figures))
    recorder.write()
    folder.write(datasets.FILE, datasets.to_json(found.preparation))
    for name, (_, state) in started.items():
        folder.write_params(f"params_{name}", params[name], state)
    folder.close()
    return path


@pytest.fixture
def copy(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "copy", ignore=lambda *_: ["report"])


def explained(folder, capsys, *more):
    """What --json says of a run."""
    assert run(["explain", str(folder), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


# --- recording ------------------------------------------------------------------------------------


def test_every_second_epoch_is_looked_at_and_the_start(recorded):
    (x, targets), history = looks.read(recorded)
    assert x.shape == (16, 3) and targets.shape == (16, 3)
    assert {name: rows["epoch"].tolist() for name, rows in history.items()} == {
        "baseline": [0, 2, 4],
        "bn": [0, 2, 4],
    }
    for one in metrics(recorded):
        assert ("geometry" in one) == (one["epoch"] % 2 == 0)
        if "geometry" in one:
            row = history[one["network"]][one["epoch"] // 2]
            np.testing.assert_allclose(one["geometry"]["W_bar"], row["W_bar"], rtol=1e-3)
            assert not {"cos1", "percentiles", "epoch"} & one["geometry"].keys()


def test_the_last_look_is_at_the_network_that_the_run_leaves(recorded):
    (x, targets), history = looks.read(recorded)
    x, targets = np.asarray(x, np.float64), np.asarray(targets, np.float64)
    with np.load(recorded / "params_bn.npz") as params:
        W, gamma, beta = (params[f"layer0.{name}"] for name in ("W", "gamma", "beta"))
        W1, b1 = params["layer1.W"], params["layer1.b"]
    y = gamma * ((h := x @ W) - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) + beta
    u = 1 / (1 + np.exp(-y))
    delta = (1 / (1 + np.exp(-(u @ W1 + b1))) - targets) / len(x)
    last = history["bn"][-1]
    np.testing.assert_allclose(last["error"][1], np.linalg.norm(delta), rtol=1e-9)
    rms = np.sqrt(np.mean((u.T @ delta) ** 2))
    np.testing.assert_allclose(last["W_bar"][1], rms, rtol=1e-9)


@pytest.mark.parametrize(
    ("own", "samples", "size"), [(16, 50, 16), (1, 100, 60), (5000, 5000, 1000), (1, 9, 9)]
)
def test_the_batch_is_as_large_as_a_mini_batch(own, samples, size):
    x = np.arange(samples)
    chosen, same = looks.choose_batch(x, x, batch_size=own, seed=3)
    assert chosen.shape == (size,) and len(np.unique(chosen)) == size
    np.testing.assert_array_equal(chosen, same)
    again, _ = looks.choose_batch(x, x, batch_size=own, seed=3)
    np.testing.assert_array_equal(chosen, again)


@pytest.mark.slow
@pytest.mark.parametrize("lose", [False, True])
def test_a_killed_run_goes_on_as_if_never_stopped(task, tmp_path, capsys, lose):
    more = ["--epochs", "5", "--checkpoint-every", "2", "--diagnostics", "1"]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert run([*task, *more, "--out", str(whole)]) == 0
    with killed_before("bn", 4):
        run([*task, *more, "--out", str(folder)])
    if lose:
        (folder / looks.FILE).write_bytes(b"not an archive")
    assert run(["train", "--resume", str(folder)]) == 0
    printed = capsys.readouterr().err
    assert ("looks up to epoch 2 are missing" in printed) == lose
    (batch, wanted), (same, found) = looks.read(whole), looks.read(folder)
    for one, other in zip(batch, same, strict=True):
        np.testing.assert_array_equal(one, other)
    for name, rows in wanted.items():
        kept = rows[rows["epoch"] > 2] if lose else rows
        assert found[name].tobytes() == kept.tobytes()
    for one, other in zip(metrics(whole), metrics(folder), strict=True):
        assert one["geometry"] == other["geometry"]


# --- one weight -----------------------------------------------------------------------------------


def constructed(u, x, delta, **more):
    """The angles of one layer that was built to measure."""
    name = "bn" if more.get("norm", True) else "baseline"
    return {name: (geometry.layer_angles(u, x, delta, **more),)}


U = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [1.0, 2.0, 0.0], [-1.0, 2.0, 0.0]])
SKEW = np.array([[1.0], [-1.0], [-1.0], [1.0]])  # at right angles to both that vary


def test_a_weight_says_why_it_stopped():
    x = U[:, :1]
    handed = weight.examine(constructed(U, x, 3 * x, eps=0.0), layer=0, neuron=0, input=1)
    assert handed.text.startswith(
        "It stopped because the error is aligned with x̂: γ learns instead"
    )
    assert "θ1 = 0.0°" in handed.text and handed.gradient == 0
    np.testing.assert_allclose(handed.gamma_gradient, 12)
    mixed = x + U[:, 1:2] + SKEW
    synced = weight.examine(constructed(U, x, mixed, eps=0.0), layer=0, neuron=0, input=0)
    assert synced.text.startswith("It stopped because the input is aligned with x̂")
    constant = weight.examine(constructed(U, x, mixed, eps=0.0), layer=0, neuron=0, input=2)
    assert "the input is the same for all samples" in constant.text
    assert constant.defined == (True, False, True) and constant.corner is None
    dead = weight.examine(constructed(U, x, 0 * x, eps=0.0), layer=0, neuron=0, input=1)
    assert "the error is the same for all samples" in dead.text
    learning = weight.examine(constructed(U, x, mixed, eps=0.0), layer=0, neuron=0)
    assert learning.input == 1 and learning.text.startswith("It learns:")
    right = weight.examine(constructed(U, x, x + SKEW, eps=0.0), layer=0, neuron=0, input=1)
    assert right.text.startswith("It hardly learns") and "nearly a right angle" in right.text


def test_the_corner_of_the_triangle_is_the_bracket():
    """The law of cosines on the sphere: G.2's bracket at ε = 0 is sin θ1 sin θ2 cos A."""
    u, x, delta = np.random.default_rng(1).normal(size=(3, 9, 1))
    found = weight.examine(constructed(u, x, delta, eps=0.0), layer=0, neuron=0, input=0)
    cos1, cos2, _ = found.cosines
    sines = np.sqrt((1 - cos1**2) * (1 - cos2**2))
    np.testing.assert_allclose(sines * np.cos(np.radians(found.corner)), found.bracket, rtol=1e-9)
    points = sphere.place(found)
    pairs = (("Δ̂", "x̂"), ("û", "x̂"), ("Δ̂", "û"))
    got = [points[one] @ points[other] for one, other in pairs]
    np.testing.assert_allclose(got, found.cosines, rtol=1e-9)


def test_without_normalization_the_averages_learn_or_balance():
    delta = U[:, :1] + 0.5
    more = {"norm": False, "eps": 0.0}
    averages = weight.examine(
        constructed(U + 5, U[:, :1], delta, **more), layer=0, neuron=0, input=1
    )
    assert averages.text.startswith("It learns because of the averages")
    np.testing.assert_allclose(averages.gradient, ((U[:, 1] + 5) * delta[:, 0]).sum())
    # ⟨Δ u⟩ is made zero by the mean that is added
    balanced = weight.examine(
        constructed(U - 2, U[:, :1], delta, **more), layer=0, neuron=0, input=0
    )
    assert "two parts balance" in balanced.text and balanced.tags[0] == "G.6"
    assert abs(balanced.gradient) < 1e-12


def test_a_weight_of_the_run_has_the_slope_of_the_cost(recorded, capsys):
    found = explained(recorded, capsys, "--layer", "0", "--neuron", "3", "--input", "1")["weight"]
    assert (found["layer"], found["neuron"], found["input"]) == (0, 3, 1)
    (x, targets), _ = looks.read(recorded)
    x, targets = np.asarray(x), np.asarray(targets)
    with np.load(recorded / "params_bn.npz") as params:
        params = {name: array.copy() for name, array in params.items()}
    W = params["layer0.W"]

    def cost(moved):
        W[1, 3] += moved
        y = (h := x @ W) - h.mean(0)
        y = params["layer0.gamma"] * y / np.sqrt(h.var(0) + 1e-5) + params["layer0.beta"]
        z = 1 / (1 + np.exp(-y)) @ params["layer1.W"] + params["layer1.b"]
        W[1, 3] -= moved
        return np.mean(np.sum(np.logaddexp(0, z) - targets * z, 1))  # BL.2

    slope = (cost(1e-5) - cost(-1e-5)) / 2e-5
    np.testing.assert_allclose(found["gradient"], slope, rtol=1e-6)


def test_what_names_no_weight_is_refused_in_one_line(recorded, refused):
    def refuse(*more):
        return refused("explain", recorded, *more)

    assert "--layer: expected one of the layers of the normalized network, 0 to 1, got 2" in refuse(
        "--layer", "2"
    )
    assert "--neuron: expected" in refuse("--layer", "0", "--neuron", "5")
    assert "--input: expected" in refuse("--layer", "0", "--neuron", "0", "--input", "-1")
    assert "--layer: name it beside --neuron" in refuse("--neuron", "1")
    assert "--neuron: name it beside --input" in refuse("--layer", "1", "--input", "1")
    assert "no network 'bm': valid: baseline, bn" in refuse("--network", "bm")


# --- the page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(recorded):
    assert run(["explain", str(recorded)]) == 0
    return recorded / "report" / "index.html"


def test_the_page_needs_nothing_but_itself(page):
    text = page.read_text(encoding="utf-8")
    found = Page(text)
    assert found.open == [] and len(found.ids) == len(set(found.ids))
    assert all(address.startswith("data:") for address in found.loads)
    assert "url(" not in text and "@import" not in text and "<script" not in text
    assert 'name="viewport"' in text and "@media print" in text
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)
    pictures = [address for address in found.loads if "svg" in address]
    assert len(pictures) > 10
    for address in pictures:
        drawn = base64.b64decode(address.split(",", 1)[1]).decode()
        assert drawn.rstrip().endswith("</svg>") and not re.search(r'(href|src)="http', drawn)


def test_the_page_says_what_json_says_and_cites_equations_that_exist(page, recorded, capsys):
    text = page.read_text(encoding="utf-8")
    found = explained(recorded, capsys)
    assert found["looks"] == {"baseline": [0, 2, 4], "bn": [0, 2, 4]} and found["missing"] == []
    tags = {one.tag for one in identities.all()}
    for finding in found["findings"]:
        assert html.escape(finding["text"]) in text
        assert all(html.escape(words) in text for words in finding["advice"])
        assert set(finding["tags"]) <= tags
    assert html.escape(found["weight"]["text"]) in text
    _, history = looks.read(recorded)
    wanted = history["bn"]["W_bar"] / history["baseline"]["W_bar"]
    figures = {one["name"]: one["figures"] for one in found["findings"]}["amplitudes"]
    figures = figures["compared"]
    k = figures["step"] // 2
    np.testing.assert_allclose(figures["ratio"], wanted[k, figures["layer"]])
    assert abs(np.log(figures["ratio"])) == pytest.approx(np.abs(np.log(wanted)).max())


def test_text_says_it_in_a_terminal_and_writes_nothing(copy, capsys):
    assert run(["explain", str(copy), "--text", "--layer", "1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "What constant statistics would get wrong [D.13, D.9]" in printed
        and "One weight: layer 1" in printed
    )
    assert not (copy / "report").exists()


def test_a_report_that_cannot_be_written_is_one_line(copy, refused):
    (copy / "report").write_text("in the way")
    assert "report/index.html cannot be written" in refused("explain", copy)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_shows_the_page_and_misses_nothing(page, tmp_path):
    def browse(*more):
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=HANGING, check=True)

    asked = tmp_path / "asked.html"
    script = """<script>onload = () => { const images = [...document.images];
        document.title = [images.length, images.filter(i => i.complete && i.naturalWidth).length,
        performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length,
        document.documentElement.scrollWidth <= innerWidth].join(' ') }</script>"""
    policy = r'<meta http-equiv="Content-Security-Policy"[^>]*>'  # under which no script runs
    asked.write_text(
        re.sub(policy, "", page.read_text(encoding="utf-8")) + script, encoding="utf-8"
    )
    for width in (360, 1200):
        dom = browse(f"--window-size={width},2000", "--dump-dom", asked.as_uri()).stdout
        count, drawn, fetched, fits = re.search("<title>(.*?)</title>", dom)[1].split()
        assert int(count) > 10 and drawn == count and fetched == "0" and fits == "true"
    shot = tmp_path / "shot.png"
    browse("--window-size=1000,2000", f"--screenshot={shot}", page.as_uri())
    from matplotlib.image import imread

    seen = imread(shot)[..., :3].mean(2)
    rows = (seen < 0.6).any(1)  # of ink
    assert seen.shape == (2000, 1000) and rows[:400].any() and rows.mean() > 0.3


# --- recordings ---------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    """A recording of two layers, as a Recorder writes it."""
    look = geometry.empty_look(2)
    look["eps_share"], look["W_bar"], look["zero_gamma"] = 0.2, [1, 2], [0, 0.75]
    lines = [first_line(without_looks(["stem", "<b>"], [True, True], ["", ""], [], [64, 64]))]
    lines += [look_line(step, look) for step in (0, 100)]
    (tmp_path / "own" / "cnn.jsonl").parent.mkdir()
    (tmp_path / "own" / "cnn.jsonl").write_bytes(b"".join(lines))
    return tmp_path / "own" / "cnn.jsonl"


def test_a_recording_is_explained_as_a_run_is(file, capsys, refused):
    found = explained(file, capsys)
    assert found["looks"] == {"cnn": [0, 100]} and found["samples"] == 64
    assert found["outstanding"] == ["wrong", "epsilon"] and found["weight"] is None
    assert run(["explain", str(file)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Layer 1 (<b>): γ is zero" in printed and f"see {file}.html" in printed
    assert "&lt;b&gt;" in (file.parent / "cnn.jsonl.html").read_text(encoding="utf-8")
    assert "--layer: a recording holds no single weights" in refused("explain", file, "--layer", 1)


def test_recordings_in_one_folder_are_compared(file, capsys):
    shutil.copy(file, file.parent / "other.jsonl")
    found = explained(file.parent, capsys)
    assert found["looks"] == {"cnn": [0, 100], "other": [0, 100]}
    (amplitudes,) = [one for one in found["findings"] if one["name"] == "amplitudes"]
    assert "less than a factor of 2" in amplitudes["text"]


@pytest.mark.parametrize("damage", ["first", "middle", "no look", "pipe", "hole", "empty"])
def test_what_is_no_whole_recording_is_refused_in_one_line(file, damage, refused):
    lines = file.read_bytes().splitlines(keepends=True)
    said = "not a recording of bnjax"
    match damage:
        case "first":
            file.write_bytes(b"[" * 100_000 + b"\n")
        case "middle":
            file.write_bytes(lines[0] + b"{}\n" + lines[1])
            said = "is damaged: line 2"
        case "no look":
            file.write_bytes(lines[0])
            said = "holds no look at a layer"
        case "empty":
            file.write_bytes(b"")
        case "pipe":
            file.unlink()
            os.mkfifo(file)
            said = "is a pipe or a device, not a file"
        case "hole":
            os.truncate(file, 2**33)
            said = "has more than"
    assert said in refused("explain", file)


@pytest.mark.parametrize("value", [1e308, -1e308, -1, 1e-320, None, 2**70, 10**400, True, "x", []])
def test_figures_that_no_look_has_are_refused_or_explained(file, value, capsys):
    first, *rest = (json.loads(one) for one in file.read_bytes().splitlines())
    for look in rest:
        look |= {
            key: [[value] * 40 if isinstance(one, list) else value for one in own]
            for key, own in look.items()
            if key != "step"
        }
    changes = ([first, *rest], [first | {"samples": [value] * 2}, *rest], [first, {"step": value}])
    for lines in changes:
        file.write_text("".join(json.dumps(one) + "\n" for one in lines))
        code = run(["explain", str(file), "--json"])
        assert code in (0, 2) and len(capsys.readouterr().err.splitlines()) == (code == 2)


# --- ruins ----------------------------------------------------------------------------------------


def test_a_run_without_diagnostics_is_looked_at_in_its_end(copy, recorded, capsys, refused):
    whole = explained(recorded, capsys)
    (copy / looks.FILE).unlink()
    config = json.loads((copy / "config.json").read_text())
    config["options"]["diagnostics"] = 0
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "params_baseline.npz").unlink()
    found = explained(copy, capsys)
    assert found["looks"] == {"bn": [4]}
    assert "trained without --diagnostics" in found["missing"][0]
    assert found["layers"]["bn"] == whole["layers"]["bn"] and found["weight"] == whole["weight"]
    config["resolved"]["data"] = "gone.npz"
    (copy / "config.json").write_text(json.dumps(config))
    found = explained(copy, capsys)
    assert found["looks"] == {} and found["weight"] is None
    assert [one["name"] for one in found["findings"]] == ["curves"]
    assert any("data cannot be looked at again" in each for each in found["missing"])
    assert "nothing is known of single weights" in refused("explain", copy, "--layer", "0")
    assert run(["explain", str(copy)]) == 0  # the curves are shown all the same


def test_a_run_of_the_baseline_only_has_no_word_of_normalization(copy, capsys):
    (copy / "params_bn.npz").unlink()
    kept = [line for line in metrics(copy) if line["network"] == "baseline"]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    with np.load(copy / looks.FILE) as arrays:
        arrays = {name: array for name, array in arrays.items() if name != "bn"}
    np.savez(copy / looks.FILE, **arrays)
    found = explained(copy, capsys)
    names = {one["name"] for one in found["findings"]}
    assert names == {
        *("curves", "wrong", "errors", "amplitudes", "averages", "activations", "directions")
    }
    assert found["weight"]["network"] == "baseline" and found["weight"]["means"] is not None
    said = [one["text"] for one in found["findings"] if one["name"] != "wrong"]
    assert "ormaliz" not in " ".join(said)


def test_a_run_that_was_killed_shows_its_course(copy, capsys):
    for file in copy.glob("params_*.npz"):
        file.unlink()
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"network": "bn", "epo')
    found = explained(copy, capsys)
    assert found["looks"]["bn"] == [0, 2, 4] and found["weight"] is None
    assert any("--resume" in each for each in found["missing"])


@pytest.mark.parametrize("damage", ["cut", "other", "pickled"])
def test_a_damaged_record_is_named_and_the_rest_shown(copy, capsys, damage):
    file = copy / looks.FILE
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "other":
        np.savez(file, x=np.zeros((2, 3)), targets=np.zeros((2, 3)), bn=np.zeros(3))
    else:
        np.savez(file, x=np.array([{}], object))
    (copy / "params_baseline.npz").unlink()
    found = explained(copy, capsys)
    assert f"{looks.FILE} cannot be read" in found["missing"][0]
    assert found["looks"] == {"bn": [4]}  # from the data


def test_rows_that_are_not_finite_are_left_out_and_named(copy, capsys):
    with np.load(copy / looks.FILE) as arrays:
        arrays = {name: array for name, array in arrays.items() if name != "sha256"}
    arrays["bn"]["W_bar"][1:] = np.nan
    np.savez(copy / looks.FILE, **arrays)
    found = explained(copy, capsys)
    assert found["looks"]["bn"] == [0]
    assert "After epoch 2 the figures of bn are not finite" in found["missing"][0]


def test_where_nothing_can_be_shown_it_is_an_error(copy, tmp_path, capsys, refused):
    assert "no run has begun in it: there is no config.json" in refused(
        "explain", tmp_path / "nowhere"
    )
    (copy / "params_bn.npz").write_bytes(b"not an archive")
    assert "cannot be read" in explained(copy, capsys)["missing"][0]
    (copy / looks.FILE).unlink()
    for file in copy.glob("params_*.npz"):
        file.unlink()
    (copy / "metrics.jsonl").write_text("")
    assert "nothing to show" in refused("explain", copy)
    (copy / "metrics.jsonl").unlink()
    assert "nothing to show" in refused("explain", copy)
    (copy / "config.json").write_text("[]")
    assert "expected `object`, got `array`" in refused("explain", copy)
    (copy / "config.json").write_text("{")
    assert "config.json: is not JSON" in refused("explain", copy)


# --- ruins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "preparation.json", looks.FILE])
def test_a_pipe_or_an_endless_file_is_not_read(name, copy, capsys):
    (copy / name).unlink()
    os.mkfifo(copy / name)
    code = run(["explain", str(copy), "--text"])
    printed = " ".join(capsys.readouterr().err.split())
    assert code == 2 * (name == "config.json") and f"{name}" in printed
    assert "is a pipe or a device, not a file" in printed
    (copy / name).unlink()
    (copy / name).touch()
    os.truncate(copy / name, 2**33)  # a hole
    assert run(["explain", str(copy), "--text"]) == code
    assert "memory" not in capsys.readouterr().err


def changed(file, **arrays):
    """Write arrays into a file, under the right digest."""
    old = {name: array for name, array in npz.load(file).items() if name != "sha256"}
    with file.open("wb") as out:
        npz.save(out, old | arrays)


@pytest.mark.parametrize("kind", [np.int64, np.complex128, bool, "U3"])
def test_parameters_that_are_no_real_numbers_are_refused(kind, copy):
    changed(copy / "params_baseline.npz", **{"layer1.b": np.ones(3).astype(kind)})
    with pytest.raises(UserError, match="params_baseline.npz: expected the parameters of"):
        load_run(copy)


def test_an_archive_that_unpacks_to_more_than_itself_is_refused(copy):
    with np.load(copy / "params_bn.npz") as archive:
        np.savez_compressed(copy / "params_bn.npz", **archive, more=np.zeros(10_000_000))
    with pytest.raises(UserError, match="it claims to hold 80,"):
        load_run(copy)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.array(1.0)},
        {"x": np.zeros((0, 3))},
        {"targets": np.zeros((7, 3))},
        {"x": np.zeros((16, 3), "U3")},
        {"bn": np.zeros(3)},
        {"bn": np.zeros(0, [("epoch", int)])},
        {"other": np.zeros(3)},
        "swapped",
        "cut",
        "reversed",
        "without a layer",
    ],
    ids=str,
)
def test_looks_that_this_network_cannot_have_had_are_left_out(arrays, copy, capsys):
    rows = looks.read(copy)[1]
    match arrays:
        case "swapped":
            arrays = {"bn": rows["baseline"], "baseline": rows["bn"]}
        case "cut":
            arrays = {"bn": rows["bn"][:0]}
        case "reversed":
            arrays = {"bn": rows["bn"][::-1]}
        case "without a layer":
            kind = [(each, "<f8", (1,)) for each in geometry.Summary._fields]
            arrays = {"bn": np.zeros(3, [("epoch", "<i4"), *kind])}
    changed(copy / looks.FILE, **arrays)
    (said, *_) = explained(copy, capsys)["missing"]
    assert said.startswith(f"{looks.FILE} cannot be read (")


@pytest.mark.parametrize("key", ["batch_size", "devices", "data", "activation", "decay"])
def test_half_a_character_in_the_configuration_is_refused(key, copy, refused):
    config = json.loads((copy / "config.json").read_text())
    config["options"][key] = "\ud800"
    (copy / "config.json").write_text(json.dumps(config))
    if key == "data":  # it may be the name of a file
        assert run(["explain", str(copy), "--json"]) == 0
    else:
        assert "its options are not those of this version" in refused("explain", copy)


def test_thousands_of_layers_are_not_traced_to_be_refused(copy, capsys):
    config = json.loads((copy / "config.json").read_text())
    config["options"]["hidden"] = [1] * 30_000
    (copy / "config.json").write_text(json.dumps(config))
    assert run(["explain", str(copy), "--text"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "does not hold 30001 layers" in said and "2 layers" in said


def test_more_weights_than_can_be_counted_are_refused(copy, three_classes, refused):
    said = "--hidden: expected a network with fewer than 2,147,483,648 weights, got 6,000,000,000"
    assert said in refused("train", "--data", three_classes, "--hidden", 10**9, "--batch-size", 16)
    config = json.loads((copy / "config.json").read_text())
    config["options"]["hidden"] = [10**9]
    (copy / "config.json").write_text(json.dumps(config))
    assert said in refused("train", "--resume", copy)
