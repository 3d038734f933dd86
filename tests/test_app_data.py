"""The application's data: how it is encoded, split and scaled, and what is refused."""

from functools import partial

import numpy as np
import pytest

pytest.importorskip("sklearn")

from app_data import csv, npz, refusal, says

from bnjax.app.data import load
from bnjax.app.errors import UserError, nearest

pytestmark = pytest.mark.usefixtures("in_tmp_path")
SOFTMAX, SIGMOID, SQUARED = "softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error"
message = partial(refusal, load, cost=SOFTMAX)


def test_a_message_is_one_line_whatever_it_quotes():
    assert str(UserError("a\nb\r\nc")) == "a b c"


@pytest.mark.parametrize("name", ["digit", "DIGITS", "digist"])
def test_nearest_finds_a_misspelt_name(name):
    assert nearest(name, ["digits", "wine"]) == "did you mean 'digits'? valid: digits, wine"


def test_nearest_lists_what_is_valid_where_nothing_is_near_and_not_too_much_of_it():
    assert nearest("soft", ["SoftMax", "tanh"]).startswith("did you mean 'SoftMax'?")
    assert nearest("zzz", ["digits"]) == "valid: digits"
    tail = nearest("zzz", [f"column{i}" for i in range(500)])
    assert tail.endswith("… (500 in all)") and len(tail) < 300


def test_digits_are_embedded():
    data = load("digits", cost=SOFTMAX)
    assert (data.name, data.n_in, data.n_out) == ("digits", 64, 10)
    assert data.classes == tuple("0123456789")
    assert data.split == "1437 to train, 360 to test (20 %, stratified, seed 0)"
    assert len(data.x_train) == len(data.targets_train) == 1437
    assert len(data.x_test) == len(data.targets_test) == 360


def test_breast_cancer_has_one_output_under_sigmoid_cross_entropy():
    data = load("breast_cancer", cost=SIGMOID)
    assert (data.n_in, data.n_out, data.classes) == (30, 1, ("benign", "malignant"))
    assert data.targets_train.sum() + data.targets_test.sum() == 212  # of 569 are malignant


@pytest.mark.parametrize("dtype", [str, bytes])
def test_npz_takes_strings_as_labels(dtype):
    y = np.array(["b", "a"] * 4).astype(dtype if dtype is str else "S1")
    assert load(npz(x=np.ones((8, 2)), y=y), cost=SOFTMAX, test_fraction=0.5).classes == ("a", "b")


def test_unsigned_labels_beyond_int64_stay_apart():
    y = np.array([2**63, 2**63 + 1] * 4, np.uint64)
    data = load(npz(x=np.ones((8, 2)), y=y), cost=SOFTMAX, test_fraction=0.5)
    assert data.classes == (str(2**63), str(2**63 + 1))


def test_npz_brings_its_test_set():
    x, x_test = np.arange(8.0).reshape(4, 2), np.array([[100.0, 200.0]])
    source = npz(x=x, y=[3, 5, 3, 5], x_test=x_test, y_test=[5])
    data = load(source, cost=SOFTMAX, scale="none")
    assert data.split == "the test set that came with the data"
    np.testing.assert_array_equal(data.x_train, x)
    np.testing.assert_array_equal(data.x_test, x_test)
    np.testing.assert_array_equal(data.targets_test, [[0, 1]])


def test_the_labels_of_a_test_set_must_fit():
    good = {"x": np.ones((4, 2)), "y": [0, 1, 0, 1]}
    text = message(npz(**good, x_test=np.ones((2, 2)), y_test=[0, 7]))
    says(
        text,
        "data.npz, labels of the test set, sample 1 (counted from 0)",
        "got '7'",
        "valid: 0, 1",
    )
    good["y"] = np.array([0.5, 1, 2, 3])
    text = message(npz(**good, x_test=np.ones((1, 2)), y_test=["a"]), cost=SQUARED)
    says(text, "data.npz, targets of the test set: expected numbers in 1 column(s)", "<U1", "alike")
    text = message(npz(**good, x_test=np.ones((1, 2)), y_test=[[1, 2]]), cost=SQUARED)
    says(text, "expected numbers in 1 column(s)", "in 2;", "alike")


def test_string_labels_are_sorted_and_one_hot():
    data = load(
        csv("1,b\n2,c\n3,a\n4,b\n5,c\n6,a\n"), cost=SOFTMAX, test_fraction=0.5, scale="none"
    )
    assert data.classes == ("a", "b", "c") and data.n_out == 3
    expected = {1: "b", 2: "c", 3: "a", 4: "b", 5: "c", 6: "a"}
    for x, target in zip(data.x_train[:, 0], data.targets_train, strict=True):
        assert data.classes[int(target.argmax())] == expected[x] and target.sum() == 1


@pytest.mark.parametrize("y", [[10, 9, -1], [10.0, 9.0, -1.0], ["10", "9", "-1"]])
def test_numbers_are_sorted_as_numbers(y):
    data = load(npz(x=np.ones((6, 1)), y=np.array(y * 2)), cost=SOFTMAX, test_fraction=0.5)
    assert data.classes == ("-1", "9", "10")


@pytest.mark.parametrize(
    ("cost", "n_classes", "n_out"),
    [(SIGMOID, 2, 1), (SIGMOID, 3, 3), (SOFTMAX, 2, 2), (SOFTMAX, 3, 3), (SQUARED, 2, 2)],
)
def test_the_cost_decides_on_the_number_of_outputs(cost, n_classes, n_out):
    x = np.arange(12.0)[:, None]
    y = np.arange(12) % n_classes
    data = load(npz(x=x, y=y), cost=cost, scale="none", test_fraction=0.5)
    assert data.n_out == n_out and data.targets_train.dtype == np.float64
    for side_x, targets in ((data.x_train, data.targets_train), (data.x_test, data.targets_test)):
        code = side_x[:, 0].astype(int) % n_classes
        expected = code[:, None] if n_out == 1 else np.eye(n_classes)[code]
        np.testing.assert_array_equal(targets, expected)


def test_a_column_of_labels_is_a_list_of_labels():
    data = load(
        npz(x=np.ones((8, 1)), y=np.arange(8)[:, None] % 2), cost=SOFTMAX, test_fraction=0.5
    )
    assert data.classes == ("0", "1")


@pytest.mark.parametrize("shape", [(10,), (10, 1), (10, 3)])
def test_floats_under_squared_error_are_left_as_they_are(shape):
    x = np.arange(10.0)[:, None]
    y = np.random.default_rng(0).normal(5, 3, shape).astype(np.float32)
    data = load(npz(x=x, y=y), cost=SQUARED, scale="none", scale_targets=False)
    assert data.classes == () and data.split == "8 to train, 2 to test (20 %, seed 0)"
    for side_x, targets in ((data.x_train, data.targets_train), (data.x_test, data.targets_test)):
        expected = y.astype(np.float64).reshape(10, -1)[side_x[:, 0].astype(int)]
        np.testing.assert_array_equal(targets, expected)
    assert data.targets_train.dtype == np.float64


def test_csv_labels_written_as_floats_are_regressed():
    text = "".join(f"{i},{i}.0\n" for i in range(10))
    data = load(csv(text), cost=SQUARED, scale="none", scale_targets=False)
    assert data.classes == ()
    np.testing.assert_array_equal(data.targets_train, data.x_train)


def test_regression_takes_the_test_set_that_came_with_the_data():
    source = npz(x=[[1], [2]], y=[0.5, 1.5], x_test=[[3]], y_test=[7])
    data = load(source, cost=SQUARED)
    np.testing.assert_array_equal(data.targets_test, [[12.0]])  # (7 − 1) / 0.5
    np.testing.assert_array_equal(data.preparation.predictions(data.targets_test), [[7.0]])


@pytest.mark.parametrize("cost", [SIGMOID, SOFTMAX])
def test_fractions_are_no_classes(cost):
    text = message(csv("a,y\n1,0.0\n2,0.5\n3,1.0\n"), cost=cost)
    says(text, "data.csv, line 3, column 'y': expected whole numbers or strings", "got 0.5")
    says(text, cost, "use squared_error")
    text = message(npz(x=np.ones((2, 1)), y=[1.0, 1e100]), cost=cost)
    says(text, "data.npz, array 'y', sample 1 (counted from 0): expected whole", "got 1e+100")


@pytest.mark.parametrize("cost", [SOFTMAX, SQUARED])
def test_two_columns_of_integers_are_no_labels(cost):
    text = message(npz(x=np.ones((4, 1)), y=np.eye(4, 2, dtype=int)), cost=cost)
    says(text, "data.npz, array 'y': expected one label per sample", "got shape (4, 2)", "argmax")


def test_one_class_is_not_enough():
    text = message(csv("a,y\n1,u\n2,u\n"))
    says(text, "data.csv, column 'y': expected at least two classes, got 'u' for all 2", "check")


@pytest.mark.parametrize("cost", [SOFTMAX, SQUARED])
def test_a_class_of_one_sample_cannot_be_split(cost):
    text = message(csv("a,y\n" + "1,u\n2,v\n" * 5 + "3,w\n"), cost=cost)
    says(text, "data.csv, line 12, column 'y': expected at least 2 samples of class 'w'", "got 1;")
    says(text, "add some or remove")


def test_a_class_of_one_sample_is_enough_where_a_test_set_came_along():
    source = npz(x=[[1], [2]], y=["u", "v"], x_test=[[3]], y_test=["u"])
    assert load(source, cost=SOFTMAX).n_out == 2


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("cost", "softmax", ("unknown cost 'softmax'", "did you mean 'softmax_cross_entropy'?")),
        (
            "scale",
            "standart",
            (
                "unknown scale 'standart'",
                "did you mean 'standard'?",
                "valid: auto, standard, range, none",
            ),
        ),
        ("test_fraction", 0.0, ("test fraction: expected a number between 0 and 1, got 0.0",)),
        ("test_fraction", 1.0, ("test fraction", "got 1.0")),
        ("test_fraction", float("nan"), ("test fraction", "got nan")),
        ("seed", -1, ("seed: expected an integer from 0 to 4294967295, got -1",)),
    ],
)
def test_options_are_checked(option, value, parts):
    says(message("digits", **{option: value}), *parts)


def test_the_split_keeps_the_share_of_every_class():
    y = np.repeat([0, 1, 2], [50, 30, 20])
    data = load(npz(x=np.arange(100.0)[:, None], y=y), cost=SOFTMAX, scale="none")
    assert data.targets_train.sum(axis=0).tolist() == [40, 24, 16]
    assert data.targets_test.sum(axis=0).tolist() == [10, 6, 4]
    every = np.concatenate([data.x_train, data.x_test])[:, 0]
    np.testing.assert_array_equal(np.sort(every), np.arange(100.0))
    assert data.split == "80 to train, 20 to test (20 %, stratified, seed 0)"


def test_the_seed_decides_on_the_split():
    source = npz(x=np.arange(40.0)[:, None], y=np.arange(40) % 2)
    first, again, other = (load(source, cost=SIGMOID, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.x_train, again.x_train)
    np.testing.assert_array_equal(first.targets_test, again.targets_test)
    assert not np.array_equal(first.x_test, other.x_test)
    assert "seed 4" in other.split


@pytest.mark.parametrize(
    ("counts", "fraction", "parts"),
    [
        (
            [5, 5],
            0.05,
            ("expected at least 2 of 10 samples on each side", "9 to train and 1 to test"),
        ),
        ([5, 5], 0.95, ("expected at least 2 of 10", "0 to train and 10 to test", "0.95")),
        (
            [96, 2, 2],
            0.1,
            ("every class to test, got none of class", "(2 samples in all)", "larger"),
        ),
        (
            [96, 2, 2],
            0.9,
            ("every class to train, got none of class", "(2 samples in all)", "smaller"),
        ),
    ],
)
def test_every_class_must_be_on_both_sides(counts, fraction, parts):
    y = np.repeat(np.arange(len(counts)), counts)
    text = message(npz(x=np.ones((len(y), 1)), y=y), test_fraction=fraction)
    says(text, "data.npz", "test fraction", "add samples", *parts)


def test_regression_needs_a_sample_on_each_side():
    text = message(csv("1,0.5\n"), cost=SQUARED)
    says(
        text, "data.csv: expected at least 1 of 1 samples on each side", "0 to train and 1 to test"
    )


@pytest.mark.parametrize(("source", "scale"), [("digits", "range"), ("breast_cancer", "standard")])
def test_auto_is_range_for_images_else_standard(source, scale):
    expected = load(source, cost=SOFTMAX, scale=scale)
    for data in (load(source, cost=SOFTMAX), load(source, cost=SOFTMAX, scale="auto")):
        np.testing.assert_array_equal(data.x_train, expected.x_train)
        np.testing.assert_array_equal(data.x_test, expected.x_test)
        assert data.scaling == expected.scaling


@pytest.fixture
def wide() -> str:
    x = np.random.default_rng(1).normal([0, 1e9, -3, 0], [1, 2, 1e-6, 1e5], (60, 4))
    return npz(x=np.hstack([x, np.full((60, 1), 0.1)]), y=np.arange(60) % 2)


def test_standard_uses_the_mean_and_standard_deviation_of_the_training_set(wide):
    plain, data = load(wide, cost=SIGMOID, scale="none"), load(wide, cost=SIGMOID)
    mean, std = plain.x_train.mean(axis=0), plain.x_train.std(axis=0)
    for got, x in ((data.x_train, plain.x_train), (data.x_test, plain.x_test)):
        np.testing.assert_allclose(got[:, :4], ((x - mean) / std)[:, :4], rtol=1e-9, atol=1e-6)
        np.testing.assert_array_equal(got[:, 4], 0)
    np.testing.assert_allclose(data.x_train[:, :4].std(axis=0), 1, rtol=1e-9)
    assert data.scaling == "standardized with the training set's mean and standard deviation"


def test_range_uses_the_minimum_and_maximum_of_the_training_set(wide):
    plain, data = load(wide, cost=SIGMOID, scale="none"), load(wide, cost=SIGMOID, scale="range")
    low, high = plain.x_train.min(axis=0), plain.x_train.max(axis=0)
    np.testing.assert_array_equal(
        data.x_test[:, :4], ((plain.x_test - low) / (high - low + (high == low)))[:, :4]
    )
    assert data.x_train.min() == 0 and data.x_train[:, :4].max(axis=0).tolist() == [1] * 4
    np.testing.assert_array_equal(data.x_train[:, 4], 0)
    assert "minimum and maximum" in data.scaling


def test_none_leaves_features_alone():
    x = np.arange(20.0).reshape(10, 2)
    data = load(npz(x=x, y=np.arange(10) % 2), cost=SIGMOID, scale="none")
    assert set(map(tuple, data.x_train)) | set(map(tuple, data.x_test)) == set(map(tuple, x))
    assert data.scaling == "not scaled"


def test_a_constant_feature_is_zero_even_where_the_test_set_differs():
    source = npz(x=[[0.1], [0.1], [0.1]], y=[0, 1, 0], x_test=[[5.0]], y_test=[1])
    for scale in ("standard", "range"):
        data = load(source, cost=SIGMOID, scale=scale)
        assert not data.x_train.any() and not data.x_test.any()


@pytest.mark.parametrize("scale", ["auto", "standard", "range", "none"])
def test_center_and_spread_repeat_the_scaling(wide, scale):
    plain, data = load(wide, cost=SIGMOID, scale="none"), load(wide, cost=SIGMOID, scale=scale)
    np.testing.assert_array_equal(data.preparation.features(plain.x_test), data.x_test)
