"""The application's readers: what each format yields and what is refused, with which message."""

import gzip
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from app_data import csv, idx, npz, refusal, says

from bnjax.app.data import load, read

pytestmark = pytest.mark.usefixtures("in_tmp_path")
IMAGES = np.arange(6 * 3 * 2).reshape(6, 3, 2)
LABELS = np.array([0, 1, 0, 1, 0, 1])
gz = partial(gzip.compress, mtime=0)  # the header holds the time: without it the same bytes always
message = partial(refusal, read)


def mnist(folder: str = "mnist", **files: bytes | None) -> str:
    """Write a folder of IDX files; an argument replaces a file's bytes, None leaves it out."""
    Path(folder).mkdir()
    content = {"train-images": idx(IMAGES), "train-labels": idx(LABELS)}
    content |= {name.replace("_", "-"): data for name, data in files.items()}
    for name, data in content.items():
        if data is not None:
            n_axes = 3 if "images" in name else 1
            Path(folder, f"{name}-idx{n_axes}-ubyte").write_bytes(data)
    return folder


def test_embedded_labels_are_integers_or_the_names_of_the_classes():
    digits, cancer = read("digits"), read("breast_cancer")
    assert digits.y.dtype.kind == "i" and set(digits.y.tolist()) == set(range(10))
    names, counts = np.unique(cancer.y, return_counts=True)
    assert names.tolist() == ["benign", "malignant"] and counts.tolist() == [357, 212]
    assert cancer.y[0] == "malignant" and cancer.x.shape == (569, 30)


@pytest.mark.parametrize(
    ("make", "images"),
    [
        (lambda: "digits", True),
        (mnist, True),
        (lambda: "breast_cancer", False),
        (lambda: npz(x=IMAGES, y=LABELS), False),
        (lambda: csv("1,2,0\n"), False),
    ],
)
def test_images_are_known_as_such(make, images):
    assert read(make()).images is images


def test_an_unknown_name_is_answered_with_the_nearest():
    text = message("digit")
    says(text, "'digit'", "did you mean 'digits'?", "breast_cancer", "or a path to FILE.npz")


@pytest.mark.parametrize("source", ["nowhere/data.csv", "data.npz", "", "a\nb.csv"])
def test_a_missing_file_is_named(source):
    says(message(source), repr(source), "neither a file or folder nor", "or a path to FILE.npz")


def test_a_file_of_another_kind_is_refused():
    says(message(csv("1,2", "data.txt")), "data.txt", "'.txt'", ".npz or .csv", "convert")


@pytest.mark.parametrize("make", [lambda: "digits", lambda: npz(x=[[1]], y=[1]), mnist])
def test_label_is_for_csv_only(make):
    source = make()
    says(message(source, label="y"), source, "--label", "CSV", "leave it out")


def test_what_the_system_refuses_is_one_line_too():
    says(message("a" * 5000), "aaa: cannot be read: ", "; check its path")


def test_a_folder_named_like_a_file_is_read_as_a_folder():
    Path("data.csv").mkdir()
    says(message("data.csv"), "data.csv: ", "train-images-idx3-ubyte")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float32])
def test_npz_takes_numbers_of_any_kind_and_flattens_each_sample(dtype):
    x = (np.arange(24).reshape(4, 3, 2) % 2).astype(dtype)
    raw = read(npz(x=x, y=np.array([True, False, True, False])))
    assert raw.x.dtype == np.float64 and raw.y.dtype.kind == "i" and raw.name == "data.npz"
    np.testing.assert_array_equal(raw.x, x.reshape(4, 6).astype(float))


def test_garbage_is_not_an_npz():
    Path("data.npz").write_bytes(b"PK")
    says(message("data.npz"), "data.npz: expected a NumPy .npz", "b'PK'", "np.savez")
    Path("data.npz").write_bytes(b"\x07garbage")
    says(message("data.npz"), "data.npz: expected a NumPy .npz", r"b'\x07gar'", "np.savez")


def test_a_pickle_or_an_npy_file_is_not_an_npz():
    Path("a.npz").write_bytes(pickle.dumps({"x": [1]}))
    with open("b.npz", "wb") as file:
        np.save(file, np.ones(3))
    for name in ("a.npz", "b.npz"):
        says(message(name), f"{name}: expected a NumPy .npz", "np.savez")


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_npz_is_damaged(kept):
    source = npz(x=np.ones((50, 4)), y=np.ones(50))
    content = Path(source).read_bytes()
    Path(source).write_bytes(content[: int(kept * len(content))])
    says(message(source), "data.npz: expected a whole archive", "truncated or damaged", "again")


def test_a_flipped_byte_in_an_npz_is_damaged():
    source = npz(y=np.arange(50), x=np.ones((50, 4)))
    content = Path(source).read_bytes().replace(np.float64(1).tobytes(), b"\1" * 8, 1)
    Path(source).write_bytes(content)
    says(message(source), "data.npz, array 'x': expected a whole archive", "copy or write it again")


def test_an_object_array_is_never_unpickled():
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    source = npz(x=np.array([[Bomb()]], dtype=object), y=[1])
    says(message(source), "data.npz, array 'x'", "pickled Python objects", "never loaded", "plain")


def test_npz_without_the_arrays_says_what_it_has():
    text = message(npz(data=[1], target=[2]))
    says(text, "data.npz: expected arrays 'x' and 'y', got 'data', 'target'", "np.savez(")
    says(message(npz()), "expected arrays 'x' and 'y', got none")
    text = message(npz(x=[[1]], y=[2], x_test=[[1]]))
    says(text, "data.npz: expected arrays 'x_test' and 'y_test', got 'x', 'y', 'x_test'")


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"x": np.ones((3, 2)), "y": [1, 2]}, ("'y': expected 3 samples like 'x', got", "(2,)")),
        ({"x": np.ones((0, 2)), "y": []}, ("'x': expected at least one sample", "(0, 2)")),
        ({"x": np.ones((3, 0)), "y": [1, 2, 1]}, ("'x': expected at least one sample", "(3, 0)")),
        (
            {"x": np.ones(3), "y": [1, 2, 1]},
            ("'x': expected one row per", "(3,)", "reshape(-1, 1)"),
        ),
        ({"x": [["a"]], "y": [1]}, ("'x': expected integers, booleans or floats, got dtype <U1",)),
        ({"x": [[1j]], "y": [1]}, ("'x': expected integers", "complex128", "convert it")),
        ({"x": [[1]], "y": [1j]}, ("'y': expected integers, strings or floats", "complex128")),
        ({"x": [[1]], "y": 1}, ("'y': expected shape (N,) or (N, k)", "shape ()", "reshape")),
        ({"x": [[1]], "y": [[[1]]]}, ("'y': expected shape (N,) or (N, k)", "(1, 1, 1)")),
        ({"x": [[1]], "y": np.ones((1, 0))}, ("'y': expected shape (N,) or (N, k)", "(1, 0)")),
    ],
)
def test_npz_arrays_must_fit(arrays, parts):
    says(message(npz(**arrays)), "data.npz, array ", "; ", *parts)


def test_the_test_set_of_an_npz_must_fit():
    source = npz(x=np.ones((4, 2)), y=[0, 1, 0, 1], x_test=np.ones((1, 3)), y_test=[0])
    text = message(source)
    says(text, "data.npz, array 'x_test': expected 2 features per sample like 'x', got 3", "alike")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_npz_numbers_must_be_finite(value):
    x = np.ones((4, 3))
    x[2, 1] = value
    where = "data.npz, array 'x', sample 2, column 1 (counted from 0): expected a finite number"
    says(message(npz(x=x, y=[0, 1, 0, 1])), where, f"got {value}", "replace it or leave")
    x = np.ones((4, 2, 2), np.float32)
    x[3, 1, 0] = np.nan
    says(message(npz(x=x, y=[0, 1, 0, 1])), "sample 3, column 1, 0 (counted from 0)", "got nan")


def test_npz_targets_must_be_finite():
    text = message(npz(x=np.ones((3, 1)), y=[0.5, np.nan, 1]))
    says(text, "data.npz, array 'y', sample 1 (counted from 0): expected a finite", "got nan; ")


def header_and_rows(text: str, label: str | None = None) -> tuple[str, int]:
    raw = read(csv(text), label=label)
    return raw.target, len(raw.x)


@pytest.mark.parametrize(
    ("text", "target", "rows"),
    [
        ("a,b,c\n1,2,0\n3,4,1\n", "column 'c'", 2),
        ("1,2,0\n3,4,1\n", "column 2 (counted from 0)", 2),
        ("1,2,setosa\n3,4,virginica\n", "column 2 (counted from 0)", 2),
        ("1,2,class\n3,4,0\n5,6,1\n", "column 'class'", 2),
        ("a,b,c\n1,2,setosa\n", "column 'c'", 1),
        (",a,c\n0,2,x\n1,2,y\n", "column 'c'", 2),
        ('\ufeffa,"b, ""quoted""",c\n1,2,0\n', "column 'c'", 1),
        ("1,2,a\n", "column 2 (counted from 0)", 1),
        ("a, b ,\n1,2,0\n", "column 2 (counted from 0)", 1),
    ],
)
def test_a_header_is_told_from_data(text, target, rows):
    assert header_and_rows(text) == (target, rows)


def test_label_names_a_column():
    raw = read(csv("a,b,c\n1,x,3\n4,y,6\n"), label="b")
    np.testing.assert_array_equal(raw.x, [[1, 3], [4, 6]])
    assert raw.y.tolist() == ["x", "y"] and raw.target == "column 'b'" and raw.lines == (2, 3)


@pytest.mark.parametrize("label", ["0", "-3"])
def test_label_is_an_index_where_there_is_no_header(label):
    raw = read(csv("x,2,3\ny,5,6\n"), label=label)
    np.testing.assert_array_equal(raw.x, [[2, 3], [5, 6]])
    assert raw.y.tolist() == ["x", "y"]


def test_a_named_label_makes_a_header_of_numbers_a_header():
    assert header_and_rows("0,1,species\n5,6,a\n7,8,b\n", "species") == ("column 'species'", 2)


def test_a_label_column_may_be_named_with_a_number():
    raw = read(csv("0,1,kind\n5,a,7\n8,b,9\n"), label="1")
    assert raw.y.tolist() == ["a", "b"] and raw.lines == (2, 3)


@pytest.mark.parametrize(
    ("text", "label", "parts"),
    [
        ("a,b,c\n1,2,0\n", "d", ("line 1: the header has no column 'd'", "valid: a, b, c")),
        ("a,species\n1,0\n", "specis", ("no column 'specis'", "did you mean 'species'?")),
        ("a,b,b\n1,2,0\n", "b", ("line 1: the header has several columns 'b' for --label",)),
        (
            "1,2,0\n",
            "c",
            ("column's index, 0 to 2, for --label", "no header; got 'c'", "add a header"),
        ),
        ("1,2,0\n", "3", ("column's index, 0 to 2", "got '3'", "give the index")),
        ("1,2,a\n3,4,a\n", "a", ("column's index, 0 to 2", "got 'a'")),
    ],
)
def test_label_must_name_one_column(text, label, parts):
    says(message(csv(text), label=label), "data.csv", *parts)


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["0", "+1", "-2"], "i", [0, 1, -2]),
        (["0", "1.", "2e0"], "f", [0, 1, 2]),
        (["1", "2", "10+"], "U", ["1", "2", "10+"]),
        ([" a", '"b,c"', "a "], "U", ["a", "b,c", "a"]),
        (["1_0", "a_b", "2"], "U", ["1_0", "a_b", "2"]),
        (["1" * 30, "2" * 30, "3"], "U", ["1" * 30, "2" * 30, "3"]),
        (["+", "-", "none"], "U", ["+", "-", "none"]),
    ],
)
def test_labels_are_integers_floats_or_strings(cells, kind, values):
    raw = read(csv("".join(f"{i},{i},{cell}\n" for i, cell in enumerate(cells))))
    assert raw.y.dtype.kind == kind and raw.y.tolist() == values


def test_lines_are_counted_through_blank_and_broken_ones():
    raw = read(csv('a,b\n\n1,"x\ny"\r\n  \n,\n2,z\n'))
    assert raw.lines == (3, 7) and raw.y.tolist() == ["x\ny", "z"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a,petal,c\n1,2,0\n1,abc,1\n",
            "data.csv, line 3, column 'petal': expected a number, got 'abc'; correct it or empty "
            "the cell, as the column holds numbers",
        ),
        (
            "1,2,0\n\n1,,1\n",
            "data.csv, line 3, column 1 (counted from 0): expected a number, got an",
        ),
        (
            "1,,0\n1,2,1\n",
            "line 1, column 1 (counted from 0): expected a number, got an empty cell",
        ),
        ("1.5,?x,0\n1,2,1\n", "line 1, column 1 (counted from 0): expected a number, got '?x'"),
        ("1,2,0\n1,1_0,1\n", "line 2, column 1 (counted from 0): expected a number, got '1_0'"),
        (
            "1;5,2;5,0\n1;5,2;5,0\n",
            "data.csv, line 1: expected columns separated in one way, got rows that commas or "
            "semicolons cut alike; name the columns in a first line",
        ),
        ("a,b,c\n1,2,0\n1,1\n", "data.csv, line 3: expected 3 columns like line 1, got 2; correct"),
        ("a,b,c\n1,2,0\n1,1,1,1\n", "data.csv, line 3: expected 3 columns like line 1, got 4"),
        ("", "data.csv: expected rows of data, got an empty file; add some"),
        ("\n \n", "data.csv: expected rows of data, got an empty file; add some"),
        ("a,b,c\n", "data.csv: expected rows of data, got only the header; add some below it"),
        (
            "5.1|3|a\n",
            "data.csv, line 1: expected at least two columns, features and a label, got "
            "one, '5.1|3|a'; add the others, or separate them with commas",
        ),
        (
            "5\n6\n",
            "data.csv, line 1: expected at least two columns, features and a label, got one",
        ),
        ('1,2\n\n1,"2\n3,4\n', "data.csv, line 3: expected comma-separated cells, got a row that"),
        (
            "1,2,0\n1,nan,1\n",
            "data.csv, line 2, column 1 (counted from 0): expected a number, got 'nan'; add it, or "
            "train with --missing fill",
        ),
        (
            "a,b,c\n1,2,0\n1,-inf,1\n",
            "data.csv, line 3, column 'b': expected a finite number below "
            "1e+150, got '-inf'; replace it or remove the line",
        ),
        ("1,1e999,0\n", "line 1, column 1 (counted from 0): expected a finite number"),
        ("a,b\n1,x\n1,\n", "data.csv, line 3, column 'b': expected a label, got an empty cell; "),
        (
            "a,b\n1,0\n1,?\n",
            "data.csv, line 3, column 'b': expected a label, got '?'; correct it or",
        ),
        ("a,b\n1,0\n1,NaN\n", "data.csv, line 3, column 'b': expected a label, got 'NaN'"),
        ("a,b\n1,0.5\n1,o.7\n", "line 3, column 'b': expected a number like the other labels, got"),
        ("a,b\n1,0.5\n1,1e999\n", "line 3, column 'b': expected a finite number"),
        ("a,b\n1,0\n1,inf\n", "data.csv, line 3, column 'b': expected a finite number"),
        (f"1,2,0\n1,{'y' * 100},0\n", f"got '{'y' * 39}…'; correct"),
    ],
)
def test_csv_errors_say_where_what_and_the_way_out(text, expected):
    got = message(csv(text), missing="refuse")
    says(got, expected, "data.csv", "; ")


def test_cells_that_repeat_and_cells_that_do_not_are_read_alike():
    rng = np.random.default_rng(0)
    x = np.where(
        rng.random((300, 40)) < 0.5, rng.integers(0, 256, (300, 40)), rng.random((300, 40))
    )
    x[::3] = x[::3].round()
    lines = [",".join([*map(repr, row), str(i % 2)]) for i, row in enumerate(x.tolist())]
    raw = read(csv("\n".join(lines)))
    np.testing.assert_array_equal(raw.x, x)
    assert raw.y.tolist() == [0, 1] * 150 and raw.lines == tuple(range(1, 301))


@pytest.mark.parametrize("cell", ["x", "1_0", "1;0", ""])
def test_a_bad_cell_is_found_after_rows_of_the_same_numbers(cell):
    text = message(csv("1,2,0\n" * 3 + f"1,{cell},0\n1,2,0\n"), missing="refuse")
    says(text, "data.csv, line 4, column 1 (counted from 0): expected a number, got ")


def test_numbers_are_read_in_every_spelling_and_repeat_theirs():
    raw = read(csv("1, 1.,+1,0\n1e0 ,01,.1e1,1\n" * 2))
    np.testing.assert_array_equal(raw.x, np.ones((4, 3)))


def test_csv_must_be_utf8():
    Path("data.csv").write_bytes("a,b\n1,é\n".encode("latin-1"))
    text = "data.csv, line 2: expected UTF-8 text, got byte 0xe9; save it as UTF-8"
    assert message("data.csv") == text
    Path("data.csv").write_bytes("a,b\n1,0\n".encode("utf-16"))
    says(message("data.csv"), "data.csv", "expected UTF-8 text", "save it as UTF-8")


@pytest.mark.parametrize("mark", "-.")
@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_are_read_in_every_spelling(mark, end):
    pack = gz if end else bytes
    for part in ("train", "t10k"):
        Path(f"{part}-images{mark}idx3-ubyte{end}").write_bytes(pack(idx(IMAGES)))
        Path(f"{part}-labels{mark}idx1-ubyte{end}").write_bytes(pack(idx(LABELS)))
    raw = read(".")
    assert raw.test is not None
    for x, y in ((raw.x, raw.y), raw.test):
        np.testing.assert_array_equal(x, IMAGES.reshape(6, 6))
        np.testing.assert_array_equal(y, LABELS)
        assert x.dtype == np.float64 and y.dtype == np.int64
    assert raw.name == Path.cwd().name


def test_idx_without_a_test_set_is_split():
    assert load(mnist(), cost="softmax_cross_entropy", test_fraction=0.5).split.startswith(
        "3 to train, 3 to test"
    )


def test_a_folder_without_idx_files_is_refused():
    text = message(mnist(train_images=None, train_labels=None))
    says(text, "mnist: expected", "train-images-idx3-ubyte[.gz]", "got neither", "download")


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_idx_files_come_in_pairs(part):
    text = message(mnist(**{f"{part}_images": idx(IMAGES), f"{part}_labels": None}))
    says(text, f"mnist: expected {part}-labels-idx1-ubyte[.gz] beside {part}-images", "download it")
    text = message(mnist("b", **{f"{part}_images": None, f"{part}_labels": idx(LABELS)}))
    says(text, f"b: expected {part}-images-idx3-ubyte[.gz] beside {part}-labels", "download it")


@pytest.mark.parametrize(
    ("images", "parts"),
    [
        (idx(IMAGES)[:-1], ("expected 36 bytes for dimensions (6, 3, 2), got 35",)),
        (idx(IMAGES) + b"!", ("expected 36 bytes", "got 37")),
        (idx(IMAGES)[:9], ("expected a header of 16 bytes, got 9",)),
        (b"", ("expected a header of 16 bytes, got 0",)),
        (gz(idx(IMAGES))[:-9], ("expected a whole gzip file, got a truncated",)),
        (gz(idx(IMAGES))[:15] + b"!!!!!!!", ("expected a whole gzip file",)),
        (gz(idx(IMAGES)[:-1]), ("expected 36 bytes", "got 35")),
        (idx(LABELS), ("expected the magic number 0x00000803, got 0x00000801",)),
        (b"garbage, and more of it", ("expected the magic number 0x00000803, got 0x67617262",)),
        (idx(IMAGES[:0]), ("expected at least one item, got dimensions (0, 3, 2)",)),
    ],
    ids=[
        "a byte short",
        "a byte long",
        "part of a header",
        "empty",
        "gzip cut",
        "gzip garbled",
        "gzip of a byte short",
        "labels",
        "garbage",
        "no images",
    ],
)
def test_a_broken_idx_file_is_named(images, parts):
    text = message(mnist(train_images=images))
    says(text, str(Path("mnist", "train-images-idx3-ubyte")), "download it again", *parts)


def test_idx_labels_have_their_own_magic_number():
    text = message(mnist(train_labels=idx(IMAGES)))
    says(text, "train-labels-idx1-ubyte: expected the magic number 0x00000801, got 0x00000803")


def test_idx_counts_must_agree():
    text = message(mnist(train_labels=idx(LABELS[:5])))
    says(text, "train-labels-idx1-ubyte: expected 6 labels, one per image", "got 5; take both")


def test_idx_test_images_must_have_the_size_of_the_training_images():
    text = message(mnist(t10k_images=idx(IMAGES.reshape(6, 2, 3)), t10k_labels=idx(LABELS)))
    says(text, "mnist, t10k-images: expected images of 3x2 like train-images, got 2x3; take both")
