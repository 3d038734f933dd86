"""The preparation of a run's data: one file, read back by one strict schema."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sklearn")

from app_data import refusal, says
from app_runs import begun

from bnjax import bn_apply, init
from bnjax.app import load_run
from bnjax.app.data import FILE, Column, Preparation, Target, read_preparation, to_json
from bnjax.app.main import run
from bnjax.app.options import Train
from bnjax.app.run import config
from bnjax.network import Network

COLUMNS = (Column("size", None, 0.1), Column("colour", ("blue", "red"), "red"), Column("", None))
TABLE = Preparation(
    np.array([0.1, 0, 0, 1 / 3]),
    np.array([1.5, 1, 1, np.inf]),
    targets=(Target("price", 100.25, 7.5),),
    columns=COLUMNS,
    label="price",
)
CLASSES = Preparation(np.zeros(2), np.array([0.5, 2.0]), classes=("no", "ja"))


def written(path, preparation=TABLE, **changes):
    text = json.dumps(to_json(preparation) | changes, allow_nan=False)
    (path / FILE).write_text(text)
    return path / FILE


@pytest.mark.parametrize("preparation", [TABLE, CLASSES])
def test_a_preparation_comes_back_to_the_bit(preparation, tmp_path):
    found = read_preparation(written(tmp_path, preparation))
    np.testing.assert_array_equal(found.center, preparation.center)
    np.testing.assert_array_equal(found.spread, preparation.spread)
    names = ("classes", "targets", "columns", "label")
    assert all(getattr(found, name) == getattr(preparation, name) for name in names)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"center": "a"}, ("expected `array`, got `str`, at `center`",)),
        ({"center": [0, 1, 2, True]}, ("expected `float`, got `bool`, at `center[3]`",)),
        ({"center": [0, 1, 2, 10**400]}, ("number out of range, at `center[3]`",)),
        ({"center": [0]}, ("expected 4 numbers, got 1, at `center`",)),
        ({"spread": [1]}, ("expected 4 numbers, got 1, at `spread`",)),
        ({"spread": [1, 1, 1, 0]}, ("expected `float` > 0.0, at `spread[3]`",)),
        (
            {"classes": ["a", "a"]},
            ("expected different texts, two or none, got ('a', 'a'), at `classes`",),
        ),
        ({"classes": [1]}, ("expected `str`, got `int`, at `classes[0]`",)),
        ({"classes": ["a", "b"]}, ("either classes or targets",)),
        ({"targets": []}, ("either classes or targets",)),
        (
            {"targets": [{"name": "y", "center": 0, "spread": -1}]},
            ("expected `float` > 0.0, at `targets[0].spread`",),
        ),
        (
            {"targets": [{"name": "y", "center": []}]},
            ("expected `float`, got `array`, at `targets[0].center`",),
        ),
        ({"columns": [7]}, ("expected `object`, got `int`, at `columns[0]`",)),
        ({"columns": {}}, ("expected `array`, got `object`, at `columns`",)),
        (
            {"columns": [{"name": "a", "categories": [], "fill": None}]},
            ("expected `array` of length >= 1, at `columns[0].categories`",),
        ),
        ({"columns": [{"name": "a", "categories": ["b"], "fill": "c"}]}, ("at `columns[0].fill`",)),
        ({"columns": [{"name": "a", "categories": None, "fill": "c"}]}, ("columns[0].fill",)),
        ({"label": "\ud800"}, ("expected text, got '\\ud800', at `label`",)),
        ({"more": 1}, ("object contains unknown field `more`",)),
    ],
)
def test_a_damaged_preparation_is_named_with_file_key_and_way_out(changes, parts, tmp_path):
    text = refusal(read_preparation, written(tmp_path, **changes))
    says(text, str(tmp_path / FILE), "train again", *parts)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 10**5, b"NaN", b'{"center": NaN}'])
def test_what_is_no_json_is_refused(content, tmp_path):
    (tmp_path / FILE).write_bytes(content)
    says(refusal(read_preparation, tmp_path / FILE), str(tmp_path / FILE), "train again")


@pytest.fixture
def priced(tmp_path, key):
    """A run of a linear baseline network on the table, as `bnjax train` leaves it."""
    folder = begun(tmp_path / "run", Train(cost="squared_error", hidden=(), network="baseline"))
    folder.write(FILE, to_json(TABLE))
    params, _ = init(Network((4, 1), norm=False), key)
    folder.write_params("params_baseline", jax.tree.map(jnp.ones_like, params), ())
    folder.close()
    return tmp_path / "run"


def test_a_table_is_predicted_in_the_targets_own_unit(priced, tmp_path, capsys):
    (tmp_path / "new.csv").write_text("3,blue,\n,red,9\n")
    assert run(["predict", str(priced), str(tmp_path / "new.csv")]) == 2
    assert "line 1, column 2 (counted from 0): expected a number" in capsys.readouterr().err
    table = "size,colour,,price\n1.6,blue,0,130.25\n,red,5,100.25\n"
    (tmp_path / "new.csv").write_text(table)
    assert run(["predict", str(priced), str(tmp_path / "new.csv"), "--json"]) == 0
    printed = capsys.readouterr()
    assert "missing values (1 in size) are replaced" in printed.err
    found = json.loads(printed.out)
    rows = (priced / "predictions.csv").read_text().splitlines()
    assert rows[0] == "sample,price,prediction(price)"
    # features 1 + 1 + 0 + 0, and 0 + 0 + 1 + 0, and a bias of 1
    got = np.array([row.split(",") for row in rows[1:]], float)
    np.testing.assert_allclose(got[:, 2], [100.25 + 3 * 7.5, 100.25 + 2 * 7.5])
    error = np.sqrt(np.mean((got[:, 2] - got[:, 1]) ** 2))
    assert found["error"] == {"price": pytest.approx(error, rel=1e-6)}


def test_a_data_frame_is_scaled_like_the_table(priced):
    saved = load_run(priced)
    frame = np.array([[1.6, "blue", 0], [None, "red", 5]], object)
    np.testing.assert_allclose(saved.scale(frame), [[1, 1, 0, 0], [0, 0, 1, 0]], atol=1e-15)
    says(refusal(saved.scale, frame[:, :2]), "x: expected 3 columns", "got shape (2, 2)")
    says(refusal(saved.scale, np.array([["1", "pink", "2"]])), "column 'colour'", "got 'pink'")
    net, params, state, _ = saved.networks["baseline"]
    assert bn_apply(net, params, state, jnp.asarray(saved.scale(frame)), train=False)[0].shape == (
        2,
        1,
    )


def test_a_preparation_of_another_network_is_refused(priced):
    (priced / FILE).write_text(
        json.dumps(to_json(Preparation(np.zeros(4), np.ones(4), classes=("a", "b", "c"))))
    )
    says(refusal(load_run, priced), "4 features and 1 outputs", "says 4 and 3")


def test_a_run_of_before_goes_on_with_targets_as_they_are(priced):
    written = json.loads((priced / "config.json").read_text())
    for name in ("scale_targets", "missing", "max_size"):
        del written["options"][name]
    (priced / "config.json").write_text(json.dumps(written))
    _, options = config.read(priced)
    assert options.scale_targets is False and options.missing == "fill"
