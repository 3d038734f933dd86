"""Reads a folder with MNIST's IDX files of images and labels, plain or compressed with gzip."""

import gzip
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnjax.app.data.raw import DAMAGE, Floats, Raw
from bnjax.app.errors import UserError


def read(folder: Path) -> Raw:
    """Read the training set in `folder`, and the test set where there is one."""
    train, test = _pair(folder, "train"), _pair(folder, "t10k")
    if train is None:
        raise UserError(
            f"{folder}: expected MNIST's files train-images-idx3-ubyte[.gz] and "
            "train-labels-idx1-ubyte[.gz] in the folder, got neither; download them or give a file"
        )
    if test is not None and test[0].shape[1:] != train[0].shape[1:]:
        raise UserError(
            f"{folder}, t10k-images: expected images of {_size(train[0])} like train-images, "
            f"got {_size(test[0])}; take both from one data set"
        )
    x, y = _flat(*train)
    name = folder.resolve().name
    return Raw(x, y, name, test and _flat(*test), "train-labels", images=True)


def read_samples(path: Path) -> tuple[Floats, np.ndarray | None]:
    """Read a file of images, and its labels where they lie beside it under MNIST's names."""
    images = _array(path, 3)
    x = images.reshape(len(images), -1).astype(np.float64)
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    stem = name.removesuffix(".gz")
    beside = [path.with_name(stem), path.with_name(f"{stem}.gz")]
    labels = next((file for file in beside if stem != path.name and file.is_file()), None)
    if labels is None:
        return x, None
    y = _array(labels, 1)
    _check_lengths(path, images, labels, y)
    return x, y.astype(np.int64)


def _flat(images: np.ndarray, labels: np.ndarray) -> tuple[Floats, np.ndarray]:
    return images.reshape(len(images), -1).astype(np.float64), labels.astype(np.int64)


def _size(images: np.ndarray) -> str:
    return "x".join(map(str, images.shape[1:]))


def _pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray] | None:
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
    images, labels = _array(images_path, 3), _array(labels_path, 1)
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


def _array(path: Path, n_axes: int) -> NDArray[np.uint8]:
    """Return the bytes of an IDX file in the shape that its header states."""
    again = "download it again"
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        try:
            raw = gzip.decompress(raw)
        except DAMAGE as error:
            raise UserError(
                f"{path}: expected a whole gzip file, got a truncated or damaged one ({error}); "
                f"{again}"
            ) from error
    expected = 0x00000800 + n_axes
    magic, start = int.from_bytes(raw[:4], "big"), 4 + 4 * n_axes
    if len(raw) >= 4 and magic != expected:
        raise UserError(
            f"{path}: expected the magic number 0x{expected:08x}, got 0x{magic:08x}; "
            f"{again}, or is it another file by mistake?"
        )
    if len(raw) < start:
        raise UserError(f"{path}: expected a header of {start} bytes, got {len(raw)}; {again}")
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4))
    if math.prod(shape) == 0:
        raise UserError(f"{path}: expected at least one item, got dimensions {shape}; {again}")
    if len(raw) - start != math.prod(shape):
        raise UserError(
            f"{path}: expected {math.prod(shape)} bytes for dimensions {shape}, "
            f"got {len(raw) - start}; {again}"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
