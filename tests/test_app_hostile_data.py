"""Files that claim, hide or repeat more than they should: refused, and nothing is allocated."""

import gzip
import io
import json
import os
import struct
import tracemalloc
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from app_data import csv, idx, npz, refusal, says

from bnjax.app.data import (
    FILE,
    Column,
    Preparation,
    Target,
    load,
    read,
    read_preparation,
    read_samples,
    to_json,
)
from bnjax.app.errors import UserError

pytestmark = pytest.mark.usefixtures("in_tmp_path")
message = partial(refusal, read)
X, Y = np.arange(12.0).reshape(6, 2), np.arange(6) % 2


@pytest.fixture(autouse=True)
def little_memory():
    """Whatever a file claims, reading it takes little memory."""
    read("digits")  # scikit-learn is imported
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def claiming(shape: str, name: str = "x", data: bytes = X.tobytes()) -> str:
    """Write an npz whose array `name` has a header that claims a shape."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    packed = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data
    other = io.BytesIO()
    np.save(other, Y)
    with zipfile.ZipFile("data.npz", "w") as archive:
        archive.writestr(f"{name}.npy", packed)
        archive.writestr("y.npy", other.getvalue())
    return "data.npz"


@pytest.mark.parametrize(
    "shape",
    [
        *("(8589934592, 4)", f"({10**30}, 2)", "(True, 4)", "((((", "(-6, -2)", "(2.5, 4)"),
        *("'ab'", "(6, 2", "6", "[6, 2]", "(6, 3)", "(0, 2)", "(" * 1000, "(6, 'b')", "{}"),
    ],
)
def test_a_header_is_held_against_the_file(shape):
    says(message(claiming(shape)), "data.npz, array 'x'", "; ")
    says(refusal(read_samples, claiming(shape), n_in=2), "data.npz, array 'x'", "; ")


def test_a_type_without_bytes_holds_no_billions():
    header = b"{'descr': '<U0', 'fortran_order': False, 'shape': (8589934592,)}"
    packed = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile("data.npz", "w") as archive:
        archive.writestr("x.npy", packed)
    says(message("data.npz"), "would need 64 GiB of memory, more than --max-size 2; raise it")


def test_an_archive_is_unpacked_within_a_bound():
    with zipfile.ZipFile("data.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, count in (("x", 30_000_000), ("y", 10)):
            with archive.open(f"{name}.npy", "w") as file:
                shape = (count // 10, 10) if name == "x" else (count,)
                about = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, about)
                for _ in range(10):
                    file.write(bytes(count // 10))
    assert Path("data.npz").stat().st_size < 100_000
    says(message("data.npz", max_size=0.1), "array 'x'", "0.224 GiB", "--max-size 0.1; raise it")


def test_gzip_is_unpacked_within_a_bound():
    Path("mnist").mkdir()
    header = struct.pack(">IIII", 0x803, 2**20, 2**10, 4)
    with gzip.open("mnist/train-images-idx3-ubyte.gz", "wb") as file:
        file.write(header)
        for _ in range(20):
            file.write(bytes(2**20))
    Path("mnist/train-labels-idx1-ubyte").write_bytes(idx(Y))
    says(message("mnist"), "train-images-idx3-ubyte.gz", "would need 32 GiB", "--max-size 2")
    with gzip.open("bomb.csv.gz", "wb") as file:
        for _ in range(50):
            file.write(b"0,0,0\n" * 2**17)
    says(message("bomb.csv.gz", max_size=0.02), "bomb.csv.gz: the text would need 0.02 GiB")


def test_cells_are_counted_while_they_are_read():
    text = message(csv(("," * 999 + "1\n") * 3000), max_size=0.01)
    says(text, "cells would need", "more than --max-size 0.01")


@pytest.mark.parametrize("size", [0, -1, float("nan"), float("inf")])
def test_the_bound_is_a_number_above_0(size):
    says(
        message("digits", max_size=size),
        "--max-size: expected a number above 0 and below",
        f"{size}",
    )


def test_one_hot_features_are_counted_before_they_are_made():
    text = "".join(f"n{i % 900},{i % 2}\n" for i in range(5000))
    says(refusal(load, csv(text), cost="softmax_cross_entropy", max_size=0.01), "900 features")


def test_identifiers_are_no_classes():
    source = npz(x=np.zeros((40_000, 1), np.uint8), y=np.arange(40_000))
    text = refusal(load, source, cost="softmax_cross_entropy")
    says(text, "40000 classes", "for regression use squared_error", "11.9 GiB", "--max-size")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for():
    os.mkfifo("data.csv")
    for call in (read, partial(read_samples, n_in=2)):
        says(refusal(call, "data.csv"), "data.csv: expected a file or folder, got a pipe")
    Path("mnist").mkdir()
    os.mkfifo("mnist/train-images-idx3-ubyte")
    says(message("mnist"), "got neither")


@pytest.mark.parametrize("cost", ["softmax_cross_entropy", "squared_error"])
def test_numbers_and_texts_without_end(cost):
    long = "7" * 5000
    says(refusal(load, csv(f"1,{long}\n2,3\n" * 4), cost=cost), "label of at most 1000 characters")
    says(message(csv(f"{long},1\n2,3\n")), "expected a finite number", "7777…")
    says(message(csv("1,2\n"), label=long), "index, 0 to 1, for --label", "7777…")
    says(message(csv("1,2\n"), label="-" + long), "index, 0 to 1, for --label")
    names = np.array(["a" * 5000, "b" * 5000] * 4)
    assert load(npz(x=np.ones((8, 1)), y=names), cost=cost, test_fraction=0.5).n_out == 2
    says(refusal(load, npz(x=np.ones((2, 1)), y=names[:2]), cost=cost), "aaaa…'", "got 1")


@pytest.mark.parametrize("path", ["a" * 5000, "b/" * 3000 + "c.csv", "x\0.csv", "x\0.npz"])
def test_a_path_that_cannot_be(path):
    for call in (read, partial(read_samples, n_in=2)):
        assert len(refusal(call, path)) < 20_000


def test_labels_that_are_no_text_are_not_merged():
    for y in (np.array([b"\xff", b"\xfe"] * 3), np.array(["\ud800", "a"] * 3)):
        says(message(npz(x=X, y=y)), "array 'y': expected UTF-8 text as labels", "integers")


def test_a_lack_of_memory_is_a_message(monkeypatch):
    def fail(*args):
        raise MemoryError

    monkeypatch.setattr("bnjax.app.data.loading.prepare", fail)
    text = refusal(load, npz(x=X, y=Y), cost="softmax_cross_entropy", test_fraction=0.5)
    says(text, "data.npz: there is not enough memory")
    monkeypatch.setattr("bnjax.app.data.npz._pair", fail)
    for call in (read, partial(read_samples, n_in=2)):
        says(refusal(call, npz(x=X, y=Y)), "data.npz: there is not enough memory", "less data")


# --- seeded fuzzing -------------------------------------------------------------------------------


def seeds() -> dict[str, bytes]:
    """Good files of each kind, to be damaged."""
    files = {}
    for name, arrays in {
        "a.npz": {"x": X, "y": Y},
        "b.npz": {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y},
        "c.npz": {"x": X.astype("f2"), "y": np.array(["a", "bb"] * 3)},
        "d.npz": {"x": X.astype("i1"), "y": np.array([b"a", b"bb"] * 3)},
    }.items():
        packed = io.BytesIO()
        (np.savez_compressed if name == "c.npz" else np.savez)(packed, **arrays)
        files[name] = packed.getvalue()
    table = b"size,colour,y\n1,red,0\n,blue,1\n5.5,?,0\n2,red,1\n7,blue,0\n1e3,red,1\n"
    files |= {"a.csv": table, "a.tsv": table.replace(b",", b"\t")}
    files |= {"b.csv": table.replace(b",", b";"), "c.csv": b"1,2,0.5\n3,4,1.5\n5,6,2.5\n" * 2}
    files["a.csv.gz"] = gzip.compress(table, mtime=0)
    images = idx(np.arange(36).reshape(6, 3, 2))
    files |= {"images": images, "images.gz": gzip.compress(images, mtime=0)}
    return files


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip, cut, repeat, insert or replace some bytes."""
    found = bytearray(content)
    special = [b"\0", b"\xff", b"'", b'"', b",", b";", b"\n", b"\r", b"(", b"9" * 30, b"nan", b"-"]
    special += [b"\xed\xa0\x80", b"inf", b"1e999", b"\xef\xbb\xbf", b"True", b"_", b"\x1f\x8b"]
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(0, len(found) + 1))
        end = at + int(rng.integers(0, 12))
        match int(rng.integers(0, 6)):
            case 0 if at < len(found):
                found[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                del found[at:end]
            case 2:
                found[at:at] = found[at:end] * int(rng.integers(1, 4))
            case 3:
                found[at:at] = special[rng.integers(0, len(special))]
            case 4:
                found[at:end] = special[rng.integers(0, len(special))]
            case _:
                found[at:end] = rng.bytes(end - at)
        if rng.random() < 0.05:
            del found[int(rng.integers(0, len(found) + 1)) :]
    return bytes(found)


def reheaded(content: bytes, rng: np.random.Generator) -> bytes:
    """Write an archive anew with damaged members: zip's own digest does not protect them."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            new.writestr(name, damaged(member, rng) if rng.random() < 0.7 else member)
    return packed.getvalue()


def other(value, rng: np.random.Generator):
    """Replace a part of what JSON holds."""
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        value = value.copy()
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[rng.integers(len(value))]
        value[key] = other(value[key], rng)
        return value
    odd = [None, True, -1, 0, 1e400, -(10**400), 0.5, "", "red", "\ud800", [], {}, [[]], [None, 1]]
    return odd[rng.integers(len(odd))]


@pytest.mark.slow
def test_damaged_preparations_are_read_or_refused_in_one_line(rng):
    columns = Column("size", None, 0.1), Column("colour", ("blue", "red"), "red")
    good = Preparation(
        np.zeros(3), np.array([1, 2, np.inf]), (), (Target("y", 1.0, 2.0),), columns, "price"
    )
    content = json.dumps(to_json(good)).encode()
    read_or_refused = {True: 0, False: 0}
    for case in range(3000):
        bad = json.dumps(other(json.loads(content), rng)).encode() if case % 2 else None
        Path(FILE).write_bytes(bad or damaged(content, rng))
        try:
            found = read_preparation(Path(FILE))
            assert found.features(np.zeros((2, len(found.columns) or 3))).shape == (2, 3)
            read_or_refused[True] += 1
        except UserError as error:
            assert len(str(error).splitlines()) == 1
            read_or_refused[False] += 1
    assert all(read_or_refused.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", seeds())
def test_damaged_files_are_read_or_refused_in_one_line(name, rng):
    read_or_refused = {True: 0, False: 0}
    for case in range(300):
        content = seeds()[name]
        zipped = name.endswith(".npz") and case % 4
        content = (reheaded if zipped else damaged)(content, rng)
        path = Path("train-images-idx3-ubyte" if name.startswith("images") else name)
        path.write_bytes(content)
        Path("train-labels-idx1-ubyte").write_bytes(idx(Y))
        source = "." if name.startswith("images") else name
        cost = ("softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error")[case % 3]
        scale = ("auto", "range", "none")[case % 3]
        options = {"missing": ("fill", "refuse")[case % 2], "max_size": 0.05, "seed": case}
        for call in (
            partial(load, source, cost=cost, scale=scale, test_fraction=0.5, **options),
            partial(read_samples, str(path), n_in=2, max_size=0.05),
        ):
            try:
                call()
                read_or_refused[True] += 1
            except UserError as error:
                assert len(str(error).splitlines()) == 1
                read_or_refused[False] += 1
    assert all(read_or_refused.values())  # neither everything nor nothing gets through
