"""Reads a source of data into raw arrays: by name or by path, each format in its own module."""

from pathlib import Path

import numpy as np

from bnjax.app.data import idx, npz, table
from bnjax.app.data.raw import Floats, Raw
from bnjax.app.errors import UserError, nearest

EMBEDDED = ("digits", "breast_cancer")


def read(source: str, *, label: str | None = None) -> Raw:
    """Read `source` into raw arrays.

    Args:
        source: `digits`, `breast_cancer`, or a path to FILE.npz, FILE.csv or a folder with MNIST's
            IDX files.
        label: the label's column in a CSV file: its name, or without a header its index.
            The last column if None.

    Raises:
        UserError: there is no such source, or it does not hold what it should.
    """
    path = Path(source)
    try:
        if source in EMBEDDED:
            kind = "embedded"
        elif source and path.exists():
            kind = "folder" if path.is_dir() else path.suffix.lower()
        else:
            raise UserError(
                f"{source!r} is neither a file or folder nor the name of a data set: "
                f"{nearest(source, EMBEDDED)}, or a path to FILE.npz, FILE.csv or a folder with "
                "MNIST's IDX files"
            )
        if label is not None and kind != ".csv":
            raise UserError(f"{source}: --label names a column of a CSV file; leave it out here")
        if kind == "embedded":
            return _read_embedded(source)
        if kind == "folder":
            return idx.read(path)
        if kind == ".npz":
            return npz.read(path)
        if kind == ".csv":
            return table.read(path, label)
    except OSError as error:
        raise UserError(
            f"{source}: cannot be read: {error.strerror or error}; check its path and permissions"
        ) from error
    raise UserError(
        f"{source}: expected a name that ends in .npz or .csv, or a folder with MNIST's IDX files, "
        f"got a file that ends in {path.suffix!r}; convert it to one of these"
    )


def read_samples(
    source: str, *, n_in: int, label: str | None = None
) -> tuple[Floats, np.ndarray | None]:
    """Read samples to predict: features, and labels where there are any.

    Args:
        source: `digits`, `breast_cancer`, FILE.npz with an array x, FILE.csv, or a file of images
            in MNIST's IDX format.
        n_in: how many features a sample must have; a table with one column more has labels.
        label: the label's column in a CSV file, where it is not the last.

    Raises:
        UserError: there is no such source, or it does not hold what it should.
    """
    path = Path(source)
    if source in EMBEDDED or not source or not path.is_file():
        if path.is_dir() and source not in EMBEDDED:
            raise UserError(f"{source}: expected a file, got a folder; name the images' file in it")
        raw = read(source, label=label)  # what does not exist is refused there
        x, y = raw.x, raw.y
    else:
        kind = path.suffix.lower()
        if label is not None and kind != ".csv":
            raise UserError(f"{source}: --label names a column of a CSV file; leave it out here")
        try:
            if kind == ".npz":
                x, y = npz.read_samples(path)
            elif kind == ".csv":
                x, y = table.read_samples(path, label, n_in)
            else:
                x, y = idx.read_samples(path)
        except OSError as error:
            raise UserError(
                f"{source}: cannot be read: {error.strerror or error}; check its permissions"
            ) from error
    if x.shape[1] != n_in:
        raise UserError(
            f"{source}: expected {n_in} features per sample, as the network was trained on, got "
            f"{x.shape[1]}; bring the same ones in the same order"
        )
    return x, y


def _read_embedded(name: str) -> Raw:
    from sklearn import datasets  # most sources do without its slow import

    bunch = getattr(datasets, f"load_{name}")()
    x, y = np.asarray(bunch.data, np.float64), np.asarray(bunch.target_names)[bunch.target]
    return Raw(x, y, name, images="images" in bunch)
