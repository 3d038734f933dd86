"""What networks are trained on, and how: `bnjax train`, and what `bnjax sweep` shares with it."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from bnjax.activations import ACTIVATIONS
from bnjax.app.data import MAX_SIZE, MISSING, SCALES
from bnjax.app.errors import UserError
from bnjax.app.options.values import Flag, check_name, check_number, choice, unset
from bnjax.costs import COSTS
from bnjax.network import INITIALIZERS
from bnjax.training import GRADIENTS

KINDS = ("ema", "cumulative", "precise")
NETWORKS = ("both", "baseline", "bn")
OPTIMIZERS = ("sgd", "momentum", "adam")
ON_DIVERGENCE = ("stop", "continue")


@dataclass(frozen=True)
class Task:
    """What networks are trained on, and how."""

    data: Annotated[str, tyro.conf.arg(metavar="digits|breast_cancer|FILE.npz|FILE.csv|DIR")] = (
        "digits"
    )
    """Embedded data, an npz with arrays x and y (or Keras' x_train, ...), a table of text (CSV or
    TSV, gzipped too), or a folder with MNIST's IDX files."""
    label: Annotated[str | None, unset("COLUMN")] = None
    """The table's label column; the last one by default."""
    missing: Annotated[str, choice(MISSING)] = "fill"
    """What becomes of missing values in a table: filled with the training set's mean or most
    frequent category, or refused."""
    max_size: float = MAX_SIZE
    """Largest size of the data in memory, in GiB; larger ones are refused before they are read."""
    test_fraction: float = 0.2
    """Share of the samples kept for testing, unless the data have a test set."""
    scale: Annotated[str, choice(SCALES)] = "auto"
    """How features are scaled, by the training set; auto: range for images, else standard."""
    scale_targets: bool = True
    """Standardize the targets of a regression by the training set; predictions come back in their
    own unit."""
    hidden: tuple[int, ...] = (100, 100, 100)
    """Sizes of the hidden layers."""
    activation: Annotated[str, choice(tuple(ACTIVATIONS))] = "sigmoid"
    """Activation function of the hidden layers."""
    cost: Annotated[str, choice(tuple(COSTS))] = "sigmoid_cross_entropy"
    """Cost; it brings the link of the last layer."""
    initializer: Annotated[str, choice(tuple(INITIALIZERS))] = "glorot_uniform"
    """How the initial weights of both networks are drawn."""
    init_scale: float = 1.0
    """Factor on the initial weights."""
    norm_output: bool = False
    """Normalize the last layer too."""
    eps: float = 1e-5
    """Added to the variance."""
    decay: float = 0.9
    """Weight on the old running statistics of ema."""
    optimizer: Annotated[str, choice(OPTIMIZERS)] = "sgd"
    """Optimizer; momentum is sgd with momentum 0.9."""
    batch_size: int | Literal["full"] = 60
    """Samples in a mini-batch; full for batch gradient descent, 1 for incremental (baseline)."""
    epochs: int = 60
    """Passes over the training set."""
    gradient: Annotated[str, choice(GRADIENTS)] = "rule"
    """Gradient: through the normalization's hand-derived rule, by hand throughout, or JAX's."""
    out: Annotated[str | None, unset("FOLDER")] = None
    """Folder for the run; runs/<time> by default."""
    overwrite: Flag = False
    """Delete the earlier run in the folder, with all that bnjax wrote there and nothing else."""
    json: Flag = False
    """Print the summary as one JSON object."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, for the next run to start sooner."""

    def check_normalizes(self) -> None:
        """Refuse to begin a normalized network in which nothing is normalized.

        Raises:
            UserError: There are no hidden layers, and the last one is not normalized.
        """
        if not self.hidden and not self.norm_output:
            raise UserError(
                "--hidden: without hidden layers there is nothing to normalize but the last layer; "
                "add --norm-output, or train with --network baseline"
            )

    def check(self) -> None:
        """Refuse what no data could make right.

        Raises:
            UserError: A name is unknown or a number out of its range.
        """
        for option, valid in (
            ("scale", SCALES),
            ("missing", MISSING),
            ("activation", ACTIVATIONS),
            ("cost", COSTS),
            ("initializer", INITIALIZERS),
            ("optimizer", OPTIMIZERS),
            ("gradient", GRADIENTS),
        ):
            check_name(option, getattr(self, option), valid)
        check_number("--max-size", self.max_size, above=0)
        check_number("--test-fraction", self.test_fraction, above=0, below=1)
        for size in self.hidden:
            check_number("--hidden", size, least=1)
        check_number("--init-scale", self.init_scale, above=0)
        check_number("--eps", self.eps, least=0)
        check_number("--decay", self.decay, least=0, below=1)
        if self.batch_size != "full":
            check_number("--batch-size", self.batch_size, least=1)
        check_number("--epochs", self.epochs, least=1)
        if self.out == "":
            raise UserError(
                "--out: expected the name of a folder, got an empty one (a shell variable that is "
                "not set?); name the folder, or leave --out away"
            )


@dataclass(frozen=True)
class Train(Task):
    """Train a baseline and a batch-normalized network side by side, on the same batches.

    Example: bnjax train --data digits --hidden 100 100 100 --learning-rate 2

    Example: bnjax train --data iris.csv --label species --cost softmax_cross_entropy
    """

    network: Annotated[str, choice(NETWORKS)] = "both"
    """Which networks to train."""
    learning_rate: Annotated[float | None, unset("RATE")] = None
    """Learning rate of both networks. By default 1.5 for sgd on digits, where the baseline is
    fastest (benchmarks/RESULTS.md), else 0.5 for sgd, 0.05 for momentum, 0.001 for adam."""
    seed: int = 0
    """Of the split, the weights and the order of the samples."""
    statistics: Annotated[str, choice(KINDS)] = "ema"
    """What evaluation normalizes with: running averages in which the last batches weigh most (ema)
    or all alike (cumulative), or the training set's own, measured anew each time (precise)."""
    diagnostics: int = 0
    """Epochs between looks at the geometry of learning, for bnjax explain; 0 for none."""
    resume: Annotated[str | None, unset("RUN")] = None
    """Continue the run in this folder with its own options, as if it had never stopped. Only
    --json and a larger --epochs can be given with it."""
    checkpoint_every: int = 20
    """Epochs between checkpoints; 0 for none."""
    keep: int = 3
    """Newest checkpoints that are kept."""
    on_divergence: Annotated[str, choice(ON_DIVERGENCE)] = "stop"
    """What to do when a cost becomes NaN or infinite: stop with exit code 3, or continue."""
    devices: Annotated[int | Literal["all"] | None, unset("N|all")] = None
    """Devices that share each mini-batch; one by default, and all those of several processes."""
    sync_statistics: bool = True
    """Normalize over the whole mini-batch, or with no-: over each device's share by itself."""
    coordinator: Annotated[str | None, unset("HOST:PORT|auto")] = None
    """Train in several processes, started alike: where the first one listens, or auto for what
    Slurm, Open MPI or a TPU pod tell. All must see the data, and the run's folder to resume."""
    num_processes: Annotated[int | None, unset("N")] = None
    """How many processes there are; auto knows."""
    process_id: Annotated[int | None, unset("N")] = None
    """Which one this is, from 0, which alone writes and speaks; auto knows."""

    def check(self) -> None:
        """Refuse what no data could make right.

        Raises:
            UserError: A name is unknown or a number out of its range.
        """
        super().check()
        for option, valid in (
            ("network", NETWORKS),
            ("statistics", KINDS),
            ("on_divergence", ON_DIVERGENCE),
        ):
            check_name(option, getattr(self, option), valid)
        if self.learning_rate is not None:
            check_number("--learning-rate", self.learning_rate, above=0)
        if self.batch_size == 1 and self.network != "baseline":
            raise UserError(
                "--batch-size: a batch of 1 has no variance to normalize with, expected at least "
                "2, got 1; use a larger batch, or --network baseline"
            )
        if self.norm_output and self.network == "baseline":
            raise UserError(
                "--norm-output: the baseline normalizes nothing; use --network bn or both"
            )
        check_number("--diagnostics", self.diagnostics, least=0)
        check_number("--checkpoint-every", self.checkpoint_every, least=0)
        check_number("--keep", self.keep, least=1)
        if isinstance(self.devices, int):
            check_number("--devices", self.devices, least=1)
        self.check_processes()
        check_number("--seed", self.seed, least=0, below=2**32)

    def check_processes(self) -> None:
        """Refuse half of what several processes need.

        Raises:
            UserError: An option is missing, or a number out of its range.
        """
        numbers = {"--num-processes": self.num_processes, "--process-id": self.process_id}
        if self.coordinator is None:
            for option, number in numbers.items():
                if number is not None:
                    raise UserError(
                        f"{option}: needs --coordinator HOST:PORT; add it, or leave out"
                    )
        elif self.coordinator != "auto":
            for option, number in numbers.items():
                if number is None:
                    raise UserError(f"--coordinator: needs {option} beside it, or auto; add it")
        if self.num_processes is not None:
            check_number("--num-processes", self.num_processes, least=1)
        if self.process_id is not None:
            below = float("inf") if self.num_processes is None else self.num_processes
            check_number("--process-id", self.process_id, least=0, below=below)

    def resolved_learning_rate(self) -> float:
        """Return the learning rate that is meant."""
        if self.learning_rate is not None:
            return self.learning_rate
        if (self.data, self.optimizer) == ("digits", "sgd"):
            return 1.5
        return {"sgd": 0.5, "momentum": 0.05, "adam": 0.001}[self.optimizer]
