"""What to do with a run that was trained: `bnjax predict` and `bnjax explain`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from bnjax.app.data import MAX_SIZE
from bnjax.app.errors import UserError
from bnjax.app.options.values import Flag, unset


@dataclass(frozen=True)
class Predict:
    """Predict new data with a network of a run that has ended.

    Example: bnjax predict runs/iris new.csv --out predictions.csv
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """An npz with an array x, a table (CSV or TSV, gzipped too), or a file of images in MNIST's IDX
    format. Labels, where there are any, are held against the predictions: y, the table's label
    column, the labels' file beside."""
    label: Annotated[str | None, unset("COLUMN")] = None
    """The table's label column; by default the one that was trained on, or the last."""
    max_size: float = MAX_SIZE
    """Largest size of the data in memory, in GiB; larger ones are refused before they are read."""
    network: Annotated[str | None, unset("bn|baseline")] = None
    """Which network predicts; bn where the run has it."""
    out: Annotated[str | None, unset("FILE")] = None
    """The CSV to write; predictions.csv in the run's folder by default."""
    overwrite: Flag = False
    """Write --out even if it exists."""
    json: Flag = False
    """Print what was found as one JSON object."""


@dataclass(frozen=True)
class Explain:
    """Explain how networks learnt: a page of words and pictures.

    Example: bnjax train --diagnostics 1 --out runs/digits, then bnjax explain runs/digits

    Example: bnjax explain recording.jsonl, what a geometry.Recorder wrote in any training

    Example: bnjax explain runs/digits --layer 2 --neuron 17 --input 3
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE")]
    """The folder of a run, a file that a geometry.Recorder wrote, or a folder of such files, which
    are compared."""
    layer: Annotated[int | None, unset("N")] = None
    """Of the weight to look at closely; layers, neurons and inputs are counted from zero."""
    neuron: Annotated[int | None, unset("N")] = None
    """Of the weight to look at closely; by default that with the layer's largest gradient."""
    input: Annotated[int | None, unset("N")] = None
    """Of the weight to look at closely; by default that with the neuron's largest gradient."""
    network: Annotated[str | None, unset("bn|baseline")] = None
    """The network of that weight; bn where the run has it."""
    text: Flag = False
    """Print what is seen instead of writing the page."""
    json: Flag = False
    """Print it as one JSON object instead."""

    def check(self) -> None:
        """Refuse what names no weight.

        Raises:
            UserError: A part of the name is missing.
        """
        if self.layer is None and (self.neuron is not None or self.input is not None):
            raise UserError("--layer: name it beside --neuron and --input, as --layer 2")
        if self.neuron is None and self.input is not None:
            raise UserError("--neuron: name it beside --input, as --neuron 17")
