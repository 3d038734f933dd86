"""A run read back: load_run, and bnjax predict on every kind of file."""

import csv
import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sklearn")

from app_data import idx
from app_runs import begun, line

from bnjax import Network, bn_apply, init
from bnjax.app import load_run
from bnjax.app.main import run
from bnjax.app.options import Train

X = np.random.default_rng(0).integers(0, 256, (60, 2, 3))
CLASSES = np.array(["dark", "grey", "light"])
LABELS = np.digitize(X.mean(axis=(1, 2)), [110, 140])


def leave(folder, sizes, rng, *, classes, cost="softmax_cross_entropy", names=("baseline", "bn")):
    """Leave the folder of a run whose parameters and statistics are random numbers."""
    options = Train(cost=cost, hidden=sizes[1:-1])
    run_folder = begun(folder, options)
    scaling = {"center": rng.normal(size=sizes[0]), "spread": 100 * rng.random(sizes[0])}
    for name in names:
        net = Network(sizes, cost=cost, norm=name == "bn")
        params, state = init(net, jax.random.key(0))
        params = jax.tree.map(lambda a: a + rng.normal(size=a.shape), params)
        state = tuple(
            kept._replace(
                mean=rng.normal(size=kept.mean.shape),
                var=rng.random(kept.var.shape),
                batches=kept.batches + 1,
            )
            for kept in state
        )
        run_folder.write_params(f"params_{name}", params, state)
        with np.load(file := folder / f"params_{name}.npz") as written:  # as bnjax 0.1 wrote it
            arrays = {key: array for key, array in written.items() if key != "sha256"}
        np.savez(file, **arrays, classes=classes, **scaling)
        for epoch in (1, 2):
            run_folder.write_metrics(line(name, epoch))
    run_folder.close()
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both networks on six features that are the pixels of small images."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return leave(folder, (6, 4, 3), np.random.default_rng(1), classes=tuple(CLASSES))


def probabilities(folder, name, x):
    """The softmax of the saved network's logits, from the equations, in NumPy."""
    with np.load(folder / f"params_{name}.npz") as saved:
        u = (x - saved["center"]) / saved["spread"]
        x_hidden = u @ saved["layer0.W"]
        if name == "bn":
            r = 1 / np.sqrt(saved["layer0.var"] + 1e-5)
            y = saved["layer0.gamma"] * (x_hidden - saved["layer0.mean"]) * r + saved["layer0.beta"]
        else:
            y = x_hidden + saved["layer0.b"]
        logits = (1 / (1 + np.exp(-y))) @ saved["layer1.W"] + saved["layer1.b"]
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def predicted(path):
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def test_a_run_is_read_back_whole(trained):
    saved = load_run(trained)
    assert set(saved.networks) == {"baseline", "bn"} and saved.classes == ("dark", "grey", "light")
    x = X.reshape(60, 6)
    for name, (net, params, state, metrics) in saved.networks.items():
        assert [line["epoch"] for line in metrics] == [1, 2]
        assert {line["network"] for line in metrics} == {name} and net.norm == (name == "bn")
        logits, _ = bn_apply(net, params, state, jnp.asarray(saved.scale(x)), train=False)
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        wanted = probabilities(trained, name, x)
        np.testing.assert_allclose(e / e.sum(axis=1, keepdims=True), wanted, rtol=1e-6)


def write_csv(path, header=None, labels=True):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        if header:
            rows.writerow(header)
        for x, label in zip(X.reshape(60, 6), CLASSES[LABELS], strict=True):
            rows.writerow([*x, label] if labels else list(x))
    return path


def files(folder):
    """Each kind of file with the same 60 samples, and whether it has labels."""
    np.savez(folder / "with.npz", x=X, y=CLASSES[LABELS])
    np.savez(folder / "without.npz", x=X)
    names = [f"pixel{i}" for i in range(6)]
    (folder / "new-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(X)))
    return {
        folder / "with.npz": True,
        folder / "without.npz": False,
        write_csv(folder / "with.csv"): True,
        write_csv(folder / "named.csv", [*names, "shade"]): True,
        write_csv(folder / "without.csv", labels=False): False,
        write_csv(folder / "named_without.csv", names, labels=False): False,
        folder / "new-images-idx3-ubyte.gz": False,
    }


@pytest.mark.parametrize("name", ["bn", "baseline"])
def test_every_kind_of_file_gives_the_same_predictions(name, trained, tmp_path, capsys):
    wanted = probabilities(trained, name, X.reshape(60, 6))
    out = tmp_path / "out.csv"
    for file, labelled in files(tmp_path).items():
        arguments = ["predict", str(trained), str(file), "--network", name, "--out", str(out)]
        assert run([*arguments, "--overwrite", "--json"]) == 0, capsys.readouterr().err
        found = json.loads(capsys.readouterr().out)
        header, rows = predicted(out)
        extra = ["label"] * labelled
        assert header == ["sample", *extra, "prediction", "p(dark)", "p(grey)", "p(light)"]
        assert [row[0] for row in rows] == [str(i) for i in range(60)]
        got = np.array([row[-3:] for row in rows], float)
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
        assert [row[-4] for row in rows] == CLASSES[wanted.argmax(axis=1)].tolist()
        if labelled:
            assert [row[1] for row in rows] == CLASSES[LABELS].tolist()
            assert found["accuracy"] == pytest.approx(np.mean(wanted.argmax(axis=1) == LABELS))
            cost = -np.log(wanted[np.arange(60), LABELS]).mean()
            assert found["cost"] == pytest.approx(cost, rel=1e-6)
        else:
            assert "accuracy" not in found


def test_labels_of_images_lie_beside_them(trained, tmp_path, refused):
    (tmp_path / "new-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(X)))
    (tmp_path / "new-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    err = refused("predict", trained, tmp_path / "new-images-idx3-ubyte.gz")
    assert "sample 0 (counted from 0): expected a class of" in err


def test_the_csv_lands_in_the_run_folder_by_default(trained, tmp_path, capsys):
    np.savez(tmp_path / "new.npz", x=X, y=CLASSES[LABELS])
    for _ in range(2):  # the second time it is written again
        assert run(["predict", str(trained), str(tmp_path / "new.npz")]) == 0
    assert f"see {trained / 'predictions.csv'}" in capsys.readouterr().out
    assert len(predicted(trained / "predictions.csv")[1]) == 60


@pytest.mark.slow
def test_a_binary_task_has_two_columns_and_regression_one_per_target(tmp_path, capsys, rng):
    x = rng.normal(size=(40, 3))
    np.savez(tmp_path / "two.npz", x=x, y=np.where(x[:, 0] > 0, "yes", "no"))
    two = leave(tmp_path / "two", (3, 1), rng, classes=("no", "yes"), cost="sigmoid_cross_entropy")
    assert run(["predict", str(two), str(tmp_path / "two.npz")]) == 0
    assert "accuracy" in capsys.readouterr().out
    header, rows = predicted(two / "predictions.csv")
    assert header == ["sample", "label", "prediction", "p(no)", "p(yes)"]
    for row in rows:
        no, yes = float(row[3]), float(row[4])
        assert no + yes == pytest.approx(1) and row[2] == ("yes" if yes > 0.5 else "no")

    y = x @ rng.normal(size=(3, 2))
    np.savez(tmp_path / "real.npz", x=x, y=y)
    real = leave(
        tmp_path / "real", (3, 2), rng, classes=(), cost="squared_error", names=["baseline"]
    )
    assert run(["predict", str(real), str(tmp_path / "real.npz"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    header, rows = predicted(real / "predictions.csv")
    assert header == ["sample", "y[0]", "y[1]", "prediction(y[0])", "prediction(y[1])"]
    table = np.array(rows, float)
    np.testing.assert_allclose(table[:, 1:3], y)
    cost = np.sum((table[:, 1:3] - table[:, 3:]) ** 2, axis=1).mean() / 2  # BL.2
    assert found["cost"] == pytest.approx(cost) and found["accuracy"] is None


def test_what_cannot_be_predicted_is_one_line(trained, tmp_path, refused):
    np.savez(tmp_path / "narrow.npz", x=X.reshape(60, 6)[:, :5])
    np.savez(tmp_path / "y.npz", y=LABELS)
    np.savez(tmp_path / "other.npz", x=X, y=np.repeat("red", 60))
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "gaps.csv").write_text("1,2,3,4,5,\n1,2,3,4,5,6\n")
    (tmp_path / "ragged.csv").write_text("1,2,3,4,5,6\n1,2,3,4,5\n")
    good = str(tmp_path / "good.npz")
    np.savez(good, x=X)
    for arguments, message in (
        ([str(tmp_path), good], "there is no config.json"),
        ([str(trained), "nowhere.npz"], "'nowhere.npz' is neither a file"),
        ([str(trained), str(tmp_path)], "expected a file, got a folder"),
        ([str(trained), str(tmp_path / "narrow.npz")], "expected 6 features per sample"),
        ([str(trained), str(tmp_path / "y.npz")], "expected an array 'x', got 'y'"),
        ([str(trained), str(tmp_path / "other.npz")], "got 'red'"),
        ([str(trained), str(tmp_path / "notes.txt")], "expected the magic number"),
        ([str(trained), str(tmp_path / "gaps.csv")], "column 5 (counted from 0): expected a num"),
        ([str(trained), str(tmp_path / "ragged.csv")], "line 2: expected 6 columns"),
        ([str(trained), good, "--label", "y"], "--label names a column of a CSV file"),
        ([str(trained), good, "--network", "nb"], "has no network 'nb': valid: baseline, bn"),
        ([str(trained), good, "--out", good], "exists; name another file, or add --overwrite"),
        ([str(trained), good, "--out", good + "/p.csv"], "cannot be written"),
    ):
        assert message in refused("predict", *arguments)


def test_a_damaged_network_is_named(trained, tmp_path, refused):
    for file in ("config.json", "metrics.jsonl"):
        (tmp_path / file).write_bytes((trained / file).read_bytes())
    (tmp_path / "params_bn.npz").write_bytes((trained / "params_bn.npz").read_bytes()[:-300])
    err = refused("predict", tmp_path, "digits")
    assert "params_bn.npz: expected the parameters of a network" in err
