"""A test set held out, every class on both sides."""

import math

import numpy as np

from bnjax.app.data.cells import shown
from bnjax.app.data.encoding import place_of
from bnjax.app.data.raw import Raw
from bnjax.app.errors import UserError


def split(
    source: str,
    raw: Raw,
    classes: tuple[str, ...],
    codes: np.ndarray | None,
    fraction: float,
    seed: int,
) -> tuple[np.ndarray | slice, np.ndarray | slice, str]:
    """Return the indices of the training and of the test set, every class in both; how, in words.

    All samples are trained on where a test set came with the data.
    """
    if raw.test is not None:
        return slice(None), slice(0), "the test set that came with the data"
    from sklearn.model_selection import train_test_split  # slow to import

    n = len(raw.x)
    for code in () if codes is None else np.flatnonzero(np.bincount(codes) < 2):
        place = place_of(source, raw, np.flatnonzero(codes == code)[0])
        raise UserError(
            f"{place}: expected at least 2 samples of class {shown(classes[code])}, one to train "
            "and one to test, got 1; add some or remove it, or for regression use "
            "squared_error and floats throughout"
        )
    n_test, least = math.ceil(fraction * n), len(classes) or 1
    if not least <= n_test <= n - least:
        raise UserError(
            f"{source}: expected at least {least} of {n} samples on each side of the split, got "
            f"{n - n_test} to train and {n_test} to test; change the test fraction {fraction:g} "
            "or add samples"
        )
    sides = train_test_split(np.arange(n), test_size=n_test, random_state=seed, stratify=codes)
    train, test = map(np.asarray, sides)
    if codes is not None:
        for side, rows, change in (("train", train, "smaller"), ("test", test, "larger")):
            counts = np.bincount(codes[rows], minlength=len(classes))
            if not counts.all():
                code = counts.argmin()
                raise UserError(
                    f"{source}, {raw.target}: expected a sample of every class to {side}, got "
                    f"none of class {shown(classes[code])} ({np.count_nonzero(codes == code)} "
                    f"samples in all); use a {change} test fraction than {fraction:g} or add "
                    "samples"
                )
    how = "seed" if codes is None else "stratified, seed"
    counts = f"{len(train)} to train, {len(test)} to test"
    return train, test, f"{counts} ({100 * fraction:g} %, {how} {seed})"
