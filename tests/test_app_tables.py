"""Tables as people have them: categories, missing values, headers, delimiters, gzip."""

import gzip
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from app_data import csv, refusal, says

from bnjax.app.data import load, read, read_samples

pytestmark = pytest.mark.usefixtures("in_tmp_path")
message = partial(refusal, read)
MIXED = "size,colour,price\n1,red,1.5\n,blue,2.5\n5,red,3.5\n3,?,4.5\n"
whole = partial(load, cost="squared_error", scale="none", scale_targets=False, test_fraction=0.25)


def samples(text, preparation, **options):
    known = {"n_in": len(preparation.columns), "columns": preparation.columns}
    return read_samples(csv(text, "new.csv"), **known, **options)


def test_text_is_one_hot_and_missing_values_are_filled_by_the_training_set():
    data = whole(csv(MIXED))
    size, colour = data.preparation.columns
    assert colour.categories == ("blue", "red") and size.categories is None
    kept = {1.5: 1, 2.5: None, 3.5: 5, 4.5: 3}  # size by price
    values = [kept[y] for y in data.targets_train[:, 0] if kept[y] is not None]
    assert size.fill == pytest.approx(np.mean(values))
    for x, y in zip(data.x_train, data.targets_train[:, 0], strict=True):
        assert x[0] == (size.fill if kept[y] is None else kept[y])
        hot = {1.5: "red", 2.5: "blue", 3.5: "red", 4.5: colour.fill}[y]
        assert x[1:].tolist() == [float(hot == name) for name in ("blue", "red")]
    (note,) = data.notes
    says(note, "data.csv: missing values (2 in size, colour)", "mean or most frequent")


def test_missing_values_can_be_refused():
    text = refusal(whole, csv(MIXED), missing="refuse")
    says(text, "data.csv, line 3, column 'size': expected a number, got an empty cell", "fill")
    text = refusal(whole, csv(MIXED.replace("\n,", "\n2,")), missing="refuse")
    says(text, "data.csv, line 5, column 'colour': expected a category, got '?'", "--missing fill")
    says(refusal(whole, csv(MIXED), missing="drop"), "unknown missing 'drop'", "fill, refuse")


def test_a_column_without_any_value_is_refused():
    says(message(csv("a,b\n,0\n?,1\n")), "line 2, column 'a': expected some values in the column")


def test_categories_stay_zero_and_one_under_every_scale():
    text = "a,b,y\n" + "".join(f"{i},{'uv'[i % 2]},{i % 3}\n" for i in range(12))
    for scale in ("standard", "range"):
        data = load(csv(text), cost="softmax_cross_entropy", scale=scale)
        assert set(data.x_train[:, 1:].ravel()) == {0, 1}
        assert set(data.x_test[:, 1:].ravel()) <= {0, 1} and data.n_in == 3


def test_new_samples_are_prepared_like_the_training_set():
    preparation = whole(csv(MIXED)).preparation
    x, y, notes = samples("id,colour,size\n7,red,\n8,,2\n", preparation)
    got = preparation.features(x)
    size, colour = (column.fill for column in preparation.columns)
    hot = [float(colour == name) for name in ("blue", "red")]
    np.testing.assert_array_equal(got, [[size, 0, 1], [2, *hot]])
    assert y is None and notes == ("new.csv: not trained on, and left out: 'id'",)
    x, y, notes = samples("2,blue\n", preparation)
    assert preparation.features(x).tolist() == [[2, 1, 0]] and y is None and not notes
    _, y, _ = samples("size,price,colour\n1,7.5,red\n", preparation, trained_label="price")
    assert y is not None and y.tolist() == [7.5]
    _, y, _ = samples("size,cost,colour\n1,7.5,red\n", preparation, label="cost")
    assert y is not None and y.tolist() == [7.5]


@pytest.mark.parametrize(
    ("text", "options", "parts"),
    [
        ("size,colour\n1,gren\n", {}, ("line 2, column 'colour': expected a category", "'gren'")),
        ("size,color\n1,red\n", {}, ("no column 'colour'", "did you mean 'color'?")),
        ("a,b\n1,red\n", {}, ("no column 'size'",)),
        ("a,b,price\n1,red,1\n", {}, ("no column 'size'",)),
        ("size,size,colour\n1,1,red\n", {}, ("several columns 'size'",)),
        ("size,colour\nbig,red\n", {}, ("line 2, column 'size': expected a number, got 'big'",)),
        ("size,colour\n1,red\n", {"label": "y"}, ("no column 'y' for --label",)),
        ("1,red,0,0\n", {}, ("expected 2 features per sample", "got 4")),
    ],
)
def test_what_was_not_trained_on_is_refused(text, options, parts):
    preparation = whole(csv(MIXED)).preparation
    says(refusal(samples, text, preparation, **options), "new.csv", *parts)


def test_an_unknown_category_says_how_to_go_on():
    text = refusal(samples, "size,colour\n1,rad\n", whole(csv(MIXED)).preparation)
    says(text, "did you mean 'red'?", "or empty the cell, as if it were missing")


def test_text_that_names_the_samples_is_refused():
    text = "".join(f"{i},name{i},{i % 2}\n" for i in range(1001))
    says(message(csv(text)), "line 1, column 1", "at most 1000 different texts", "(1001 are)")


def test_numbers_with_a_decimal_comma_are_no_categories():
    text = message(csv("a;b;y\n1,5;2;u\n2,5;3;v\n"))
    says(text, "line 2, column 'a': expected a number, got '1,5'", "with a point")


@pytest.mark.parametrize(("mark", "name"), [(";", "a.csv"), ("\t", "a.csv"), ("\t", "a.tsv")])
@pytest.mark.parametrize("packed", [False, True])
def test_the_delimiter_is_found_and_gzip_unpacked(mark, name, packed):
    text = MIXED.replace(",", mark).encode()
    Path(name + ".gz" * packed).write_bytes(gzip.compress(text) if packed else text)
    wanted, raw = read(csv(MIXED)), read(name + ".gz" * packed)
    np.testing.assert_array_equal(raw.x, wanted.x)
    np.testing.assert_array_equal(raw.y, wanted.y)
    assert raw.columns == wanted.columns and raw.lines == wanted.lines


def test_a_comma_in_text_is_no_delimiter():
    raw = read(csv('a;b;y\n1;"u,v";0\n2;"w,x";1\n'))
    assert raw.columns[1].categories == ("u,v", "w,x")


def test_a_truncated_gzip_is_named():
    Path("a.csv.gz").write_bytes(gzip.compress(MIXED.encode() * 50)[:-9])
    says(message("a.csv.gz"), "a.csv.gz: expected a whole gzip file, got a truncated")


@pytest.mark.parametrize(
    ("header", "names"),
    [("0,1,2,3", ("0", "1", "2")), (",0,1,2", ("0", "1")), ("Unnamed: 0,a,b,y", ("a", "b"))],
)
def test_the_headers_of_pandas_are_headers(header, names):
    raw = read(csv(f"{header}\n0,5,6,1\n1,7,8,0\n"))
    assert tuple(column.name for column in raw.columns) == names and len(raw.x) == 2 and raw.notes


def test_as_many_rows_are_predicted_as_there_are():
    data = load(csv("0,1,2,3\n" + "5,6,7,0\n8,9,7,1\n" * 5), cost="softmax_cross_entropy")
    x, _, _ = samples("0,1,2\n5,6,7\n1,2,3\n", data.preparation)
    assert x.tolist() == [[5, 6, 7], [1, 2, 3]]
    x, _, _ = samples("2,0,1\n3,3,3\n", data.preparation)
    assert x.tolist() == [[2, 0, 1], [3, 3, 3]]
    x, _, _ = samples("5,6,7\n0,1,2\n", data.preparation)
    assert x.tolist() == [[5, 6, 7], [0, 1, 2]]


def test_text_throughout_has_a_header_where_its_names_occur_once():
    assert len(read(csv("shape,colour,kind\nround,red,u\nflat,blue,v\n")).x) == 2
    assert len(read(csv("round,red,u\nround,blue,v\n")).x) == 2


def test_regression_comes_back_in_its_own_unit():
    text = "a,b,price\n" + "".join(f"{i},{i % 3},{1000 + 100.5 * i}\n" for i in range(20))
    data = load(csv(text), cost="squared_error")
    (target,) = data.preparation.targets
    assert target.name == "price" and abs(data.targets_train.mean()) < 1e-12
    np.testing.assert_allclose(data.targets_train.std(), 1)
    plain = load(csv(text), cost="squared_error", scale_targets=False)
    back = data.preparation.predictions(data.targets_test)
    np.testing.assert_allclose(back, plain.targets_test, rtol=1e-12)
    errors = data.preparation.errors(data.targets_test + 0.5, data.targets_test)
    assert errors == {"price": pytest.approx(0.5 * target.spread)}


def test_a_constant_target_keeps_its_unit():
    (target,) = load(csv("1,2.5\n" * 8), cost="squared_error").preparation.targets
    assert (target.center, target.spread) == (2.5, 1)


def test_keras_archives_are_read():
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6) % 2
    np.savez("k.npz", x_train=x, y_train=y, x_test=x[:2] + 1, y_test=y[:2])
    data = load("k.npz", cost="softmax_cross_entropy", scale="none")
    np.testing.assert_array_equal(data.x_train, x)
    np.testing.assert_array_equal(data.x_test, x[:2] + 1)
    np.savez("k.npz", x_train=x, x=x, y=y)
    says(message("k.npz"), "expected 'x' or 'x_train', got both")
    np.savez("k.npz", x_train=x)
    says(message("k.npz"), "expected arrays 'x_train' and 'y_train', got 'x_train'")


def test_folders_of_pictures_are_not_read():
    Path("cats").mkdir()
    Path("cats/1.png").write_bytes(b"\x89PNG")
    says(message("cats"), "folders of pictures are not read", "np.savez")
