"""Files of data for tests of the application, and what it answers to bad ones."""

import struct
from pathlib import Path

import numpy as np
import pytest

from bnjax.app.errors import UserError


def csv(text: str, name: str = "data.csv") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def npz(name: str = "data.npz", **arrays) -> str:
    np.savez(name, **arrays)
    return name


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def refusal(call, *args, **options) -> str:
    """The one line with which a function refuses what the user gave."""
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def says(text: str, *parts: str) -> None:
    missing = [part for part in parts if part not in text]
    assert not missing, f"{missing} not in {text!r}"
