"""Reads a folder with MNIST's IDX files of images and labels, plain or compressed with gzip."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnjax.app.data.raw import BYTES, Floats, Raw, check_size, opened, read_at_most
from bnjax.app.errors import UserError


def read(folder: Path, max_size: float) -> Raw:
    """Read the training set in `folder`, and the test set where there is one."""
    train, test = _pair(folder, "train", max_size), _pair(folder, "t10k", max_size)
    if train is None:
        raise UserError(
            f"{folder}: expected MNIST's files train-images-idx3-ubyte[.gz] and "
            "train-labels-idx1-ubyte[.gz] in the folder, got neither; download them or give a file "
            "(folders of pictures are not read: store their pixels with np.savez)"
        )
    if test is not None and test[0].shape[1:] != train[0].shape[1:]:
        raise UserError(
            f"{folder}, t10k-images: expected images of {_size(train[0])} like train-images, "
            f"got {_size(test[0])}; take both from one data set"
        )
    x, y = _flat(*train)
    name = folder.resolve().name
    return Raw(x, y, name, test and _flat(*test), "train-labels", images=True)


def read_samples(path: Path, max_size: float) -> tuple[Floats, np.ndarray | None]:
    """Read a file of images, and its labels where they lie beside it under MNIST's names."""
    images = _array(path, 3, max_size)
    x = images.reshape(len(images), -1).astype(np.float64)
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    stem = name.removesuffix(".gz")
    beside = [path.with_name(stem), path.with_name(f"{stem}.gz")]
    labels = next((file for file in beside if stem != path.name and file.is_file()), None)
    if labels is None:
        return x, None
    y = _array(labels, 1, max_size)
    _check_lengths(path, images, labels, y)
    return x, y.astype(np.int64)


def _flat(images: np.ndarray, labels: np.ndarray) -> tuple[Floats, np.ndarray]:
    return images.reshape(len(images), -1).astype(np.float64), labels.astype(np.int64)


def _size(images: np.ndarray) -> str:
    return "x".join(map(str, images.shape[1:]))


def _pair(folder: Path, part: str, max_size: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Return images (N, rows, columns) and labels (N,), or None where neither file exists."""
    paths: list[Path | None] = []
    for name in (f"{part}-images{{}}idx3-ubyte", f"{part}-labels{{}}idx1-ubyte"):
        spelled = [folder / (name.format(mark) + end) for mark in "-." for end in ("", ".gz")]
        paths.append(next((path for path in spelled if path.is_file()), None))
    images_path, labels_path = paths
    if images_path is None and labels_path is None:
        return None
    if images_path is None or labels_path is None:
        have, lack = ("labels", "images-idx3") if images_path is None else ("images", "labels-idx1")
        raise UserError(
            f"{folder}: expected {part}-{lack}-ubyte[.gz] beside {part}-{have}, got no such file; "
            "download it too"
        )
    images, labels = _array(images_path, 3, max_size), _array(labels_path, 1, max_size)
    _check_lengths(images_path, images, labels_path, labels)
    return images, labels


def _check_lengths(
    images_path: Path, images: np.ndarray, labels_path: Path, labels: np.ndarray
) -> None:
    if len(images) != len(labels):
        raise UserError(
            f"{labels_path}: expected {len(images)} labels, one per image of {images_path.name}, "
            f"got {len(labels)}; take both from one data set"
        )


def _array(path: Path, n_axes: int, max_size: float) -> NDArray[np.uint8]:
    """Return the bytes of an IDX file in the shape that its header states."""
    again = "download it again"
    expected, start = 0x00000800 + n_axes, 4 + 4 * n_axes
    with opened(path) as file:
        head = file.read(start)
        magic = int.from_bytes(head[:4], "big")
        if len(head) >= 4 and magic != expected:
            raise UserError(
                f"{path}: expected the magic number 0x{expected:08x}, got 0x{magic:08x}; "
                f"{again}, or is it another file by mistake?"
            )
        if len(head) < start:
            raise UserError(f"{path}: expected a header of {start} bytes, got {len(head)}; {again}")
        shape = tuple(int.from_bytes(head[i : i + 4], "big") for i in range(4, start, 4))
        size = math.prod(shape)
        if size == 0:
            raise UserError(f"{path}: expected at least one item, got dimensions {shape}; {again}")
        check_size(path, f"an array of dimensions {shape}", BYTES * size, max_size)
        raw = read_at_most(file, size)
        got = len(raw) + len(file.read(1))  # at the end of the file gzip checks its digest
    if got != size:
        more = " or more" * (got > size)
        raise UserError(
            f"{path}: expected {size} bytes for dimensions {shape}, got {got}{more}; {again}"
        )
    return np.frombuffer(raw, np.uint8).reshape(shape)
