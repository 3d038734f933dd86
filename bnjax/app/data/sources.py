"""Reads a source of data into raw arrays: by name or by path, each format in its own module."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bnjax.app.data import idx, npz, table
from bnjax.app.data.raw import MAX_SIZE, Column, Raw
from bnjax.app.errors import UserError, nearest, refusals

EMBEDDED = ("digits", "breast_cancer")
MISSING = ("fill", "refuse")
_FILES = "FILE.npz, FILE.csv, FILE.tsv or a folder with MNIST's IDX files"
_LARGEST = 2**20  # GiB
_TABLES = (".csv", ".tsv")
_NO_LABEL = "--label names a column of a CSV file or another table; leave it out here"


def read(
    source: str, *, label: str | None = None, missing: str = "fill", max_size: float = MAX_SIZE
) -> Raw:
    """Read `source` into raw arrays.

    Args:
        source: `digits`, `breast_cancer`, or a path to FILE.npz, a table FILE.csv or FILE.tsv,
            compressed with gzip or not, or a folder with MNIST's IDX files.
        label: the label's column in a table: its name, or without a header its index.
            The last column if None.
        missing: "fill" to let missing values of a table pass as NaN, "refuse" to refuse them.
        max_size: in GiB, of the features as float64, and of a file once decompressed.

    Raises:
        UserError: there is no such source, it does not hold what it should, or it is too large.
    """
    with readable(source, max_size):
        path, kind = Path(source), _kind(source)
        if label is not None and kind not in _TABLES:
            raise UserError(f"{source}: {_NO_LABEL}")
        if kind == "embedded":
            return _read_embedded(source)
        if kind == "folder":
            return idx.read(path, max_size)
        if kind == ".npz":
            return npz.read(path, max_size)
        if kind in _TABLES:
            return table.read(path, label, missing, max_size)
        raise UserError(
            f"{source}: expected a name that ends in .npz or .csv, .tsv, .csv.gz, .tsv.gz, or a "
            f"folder with MNIST's IDX files, got a file that ends in {path.suffix!r}; convert it "
            "to one of these"
        )


def read_samples(
    source: str,
    *,
    n_in: int,
    columns: tuple[Column, ...] = (),
    trained_label: str = "",
    label: str | None = None,
    max_size: float = MAX_SIZE,
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Read samples to predict: features, labels where there are any, and notes for the user.

    Args:
        source: `digits`, `breast_cancer`, FILE.npz with an array x, a table, or a file of images
            in MNIST's IDX format.
        n_in: how many features a sample must have, or columns where `columns` are known.
        columns: those of the table that was trained on. Where they have names, and the table has
            a header, they are found by name, and other columns are ignored; else a table with one
            column more has labels.
        trained_label: the name of the label's column then.
        label: the label's column in a table, where it is another.
        max_size: as in `read`.

    Raises:
        UserError: there is no such source, it does not hold what it should, or it is too large.
    """
    with readable(source, max_size):
        path, kind = Path(source), _kind(source)
        if kind == "folder":
            raise UserError(f"{source}: expected a file, got a folder; name the images' file in it")
        if label is not None and kind not in _TABLES:
            raise UserError(f"{source}: {_NO_LABEL}")
        notes = ()
        if kind == "embedded":
            raw = _read_embedded(source)
            x, y = raw.x, raw.y
        elif kind == ".npz":
            x, y = npz.read_samples(path, max_size)
        elif kind in _TABLES:
            known = table.Known(columns or (Column(""),) * n_in, trained_label)
            x, y, notes = table.read_samples(path, label, known, max_size)
        else:
            x, y = idx.read_samples(path, max_size)
    if x.shape[1] != n_in:
        raise UserError(
            f"{source}: expected {n_in} features per sample, as the network was trained on, got "
            f"{x.shape[1]}; bring the same ones in the same order"
        )
    return x, y, notes


@contextmanager
def readable(source: str, max_size: float) -> Iterator[None]:
    """Turn what the system refuses into one line."""
    if not 0 < max_size < _LARGEST:
        raise UserError(
            f"--max-size: expected a number above 0 and below {_LARGEST:g}, got {max_size}"
        )
    try:
        with refusals(f"{source}: cannot be read", "check its path and permissions"):
            yield
    except MemoryError as error:
        raise UserError(
            f"{source}: there is not enough memory for it; bring less data, or use a machine with "
            "more"
        ) from error


def _kind(source: str) -> str:
    """Return "embedded", "folder", or what the name ends in."""
    path = Path(source)
    if source in EMBEDDED:
        return "embedded"
    if not source or not path.exists():
        raise UserError(
            f"{source!r} is neither a file or folder nor the name of a data set: "
            f"{nearest(source, EMBEDDED)}, or a path to {_FILES}"
        )
    if path.is_dir():
        return "folder"
    if not path.is_file():  # reading a pipe could wait for ever
        raise UserError(
            f"{source}: expected a file or folder, got a pipe or device; write it to a file"
        )
    name = path.name.lower()
    unpacked = Path(name.removesuffix(".gz")).suffix
    return unpacked if unpacked in _TABLES else Path(name).suffix


def _read_embedded(name: str) -> Raw:
    from sklearn import datasets  # most sources do without its slow import

    bunch = getattr(datasets, f"load_{name}")()
    x, y = np.asarray(bunch.data, np.float64), np.asarray(bunch.target_names)[bunch.target]
    return Raw(x, y, name, images="images" in bunch)
