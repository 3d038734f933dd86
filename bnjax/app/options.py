"""The options of each command, checked before anything is read or written."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from bnjax import audit, identities
from bnjax.activations import ACTIVATIONS
from bnjax.app.errors import UserError, nearest
from bnjax.costs import COSTS
from bnjax.training import GRADIENTS

KINDS = ("ema", "cumulative", "precise")
NETWORKS = ("both", "baseline", "bn")
OPTIMIZERS = ("sgd", "momentum", "adam")
DTYPES = ("both", "float64", "float32")
ON_DIVERGENCE = ("stop", "continue")
SCALES = ("auto", "standard", "range", "none")


def _choice(names: tuple[str, ...] | dict[str, object]) -> object:
    # names are checked here, not by the parser, for an error of one line with the nearest one
    return tyro.conf.arg(metavar="|".join(names))


@dataclass(frozen=True)
class Task:
    """What networks are trained on, and how."""

    data: Annotated[str, tyro.conf.arg(metavar="digits|breast_cancer|FILE.npz|FILE.csv|DIR")] = (
        "digits"
    )
    """Embedded data, an npz with arrays x and y, a CSV, or a folder with MNIST's IDX files."""
    label: str | None = None
    """The CSV's label column; the last one by default."""
    test_fraction: float = 0.2
    """Share of the samples kept for testing, unless the data have a test set."""
    scale: Annotated[str, _choice(SCALES)] = "auto"
    """How features are scaled, by the training set; auto: range for images, else standard."""
    hidden: tuple[int, ...] = (100, 100, 100)
    """Sizes of the hidden layers."""
    activation: Annotated[str, _choice(tuple(ACTIVATIONS))] = "sigmoid"
    """Activation function of the hidden layers."""
    cost: Annotated[str, _choice(tuple(COSTS))] = "sigmoid_cross_entropy"
    """Cost; it brings the link of the last layer."""
    norm_output: bool = False
    """Normalize the last layer too."""
    eps: float = 1e-5
    """Added to the variance."""
    decay: float = 0.9
    """Weight on the old running statistics of ema."""
    optimizer: Annotated[str, _choice(OPTIMIZERS)] = "sgd"
    """Optimizer; momentum is sgd with momentum 0.9."""
    batch_size: int | Literal["full"] = 60
    """Samples in a mini-batch; full for batch gradient descent, 1 for incremental (baseline)."""
    epochs: int = 60
    """Passes over the training set."""
    gradient: Annotated[str, _choice(GRADIENTS)] = "rule"
    """Gradient: through the normalization's hand-derived rule, by hand throughout, or JAX's."""
    out: str | None = None
    """Folder for the run; runs/<time> by default."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Use the folder even if it holds an earlier run, which is lost."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the summary as one JSON object."""

    def check(self) -> None:
        """Refuse what no data could make right.

        Raises:
            UserError: A name is unknown or a number out of its range.
        """
        for option, valid in (
            ("scale", SCALES),
            ("activation", ACTIVATIONS),
            ("cost", COSTS),
            ("optimizer", OPTIMIZERS),
            ("gradient", GRADIENTS),
        ):
            _check_name(option, getattr(self, option), valid)
        _check_number("--test-fraction", self.test_fraction, above=0, below=1)
        for size in self.hidden:
            _check_number("--hidden", size, least=1)
        _check_number("--eps", self.eps, least=0)
        _check_number("--decay", self.decay, least=0, below=1)
        if self.batch_size != "full":
            _check_number("--batch-size", self.batch_size, least=1)
        _check_number("--epochs", self.epochs, least=1)


@dataclass(frozen=True)
class Train(Task):
    """Train a baseline and a batch-normalized network side by side, on the same batches.

    Example: bnjax train --data digits --hidden 100 100 100 --learning-rate 2

    Example: bnjax train --data iris.csv --label species --cost softmax_cross_entropy
    """

    network: Annotated[str, _choice(NETWORKS)] = "both"
    """Which networks to train."""
    learning_rate: float | None = None
    """Learning rate of both networks. By default 1.5 for sgd on digits, where the baseline is
    fastest (benchmarks/RESULTS.md), else 0.5 for sgd, 0.05 for momentum, 0.001 for adam."""
    seed: int = 0
    """Of the split, the weights and the order of the samples."""
    statistics: Annotated[str, _choice(KINDS)] = "ema"
    """What evaluation normalizes with: running averages in which the last batches weigh most (ema)
    or all alike (cumulative), or the training set's own, measured anew each time (precise)."""
    diagnostics: int = 0
    """Epochs between looks at the geometry of learning, for bnjax explain; 0 for none."""
    resume: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    """Go on with the run in this folder, with its own options, as if it had never stopped. Only
    --json and a larger --epochs may stand beside it."""
    checkpoint_every: int = 20
    """Epochs between checkpoints; 0 for none."""
    keep: int = 3
    """Newest checkpoints that are kept."""
    on_divergence: Annotated[str, _choice(ON_DIVERGENCE)] = "stop"
    """What to do when a cost becomes NaN or infinite: stop with exit code 3, or continue."""
    devices: Annotated[int | Literal["all"] | None, tyro.conf.arg(metavar="N|all")] = None
    """Devices that share each mini-batch; one by default, and all those of several processes."""
    sync_statistics: bool = True
    """Normalize over the whole mini-batch, or with no-: over each device's share by itself."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT|auto")] = None
    """Train in several processes, started alike: where the first one listens, or auto for what
    Slurm, Open MPI or a TPU pod tell. All must see the data, and the run's folder to resume."""
    num_processes: int | None = None
    """How many processes there are; auto knows."""
    process_id: int | None = None
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
            _check_name(option, getattr(self, option), valid)
        if self.learning_rate is not None:
            _check_number("--learning-rate", self.learning_rate, above=0)
        if self.batch_size == 1 and self.network != "baseline":
            raise UserError(
                "--batch-size: a batch of 1 has no variance to normalize with, expected at least "
                "2, got 1; use a larger batch, or --network baseline"
            )
        if self.norm_output and self.network == "baseline":
            raise UserError(
                "--norm-output: the baseline normalizes nothing; use --network bn or both"
            )
        _check_number("--diagnostics", self.diagnostics, least=0)
        _check_number("--checkpoint-every", self.checkpoint_every, least=0)
        _check_number("--keep", self.keep, least=1)
        if isinstance(self.devices, int):
            _check_number("--devices", self.devices, least=1)
        self.check_processes()
        _check_number("--seed", self.seed, least=0, below=2**32)

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
            _check_number("--num-processes", self.num_processes, least=1)
        if self.process_id is not None:
            below = float("inf") if self.num_processes is None else self.num_processes
            _check_number("--process-id", self.process_id, least=0, below=below)

    def resolved_learning_rate(self) -> float:
        """Tell the learning rate that is meant."""
        if self.learning_rate is not None:
            return self.learning_rate
        if (self.data, self.optimizer) == ("digits", "sgd"):
            return 1.5
        return {"sgd": 0.5, "momentum": 0.05, "adam": 0.001}[self.optimizer]


@dataclass(frozen=True)
class Sweep(Task):
    """Train both networks for each learning rate and seed, and draw what becomes of them.

    Example: bnjax sweep --learning-rates 0.1 0.5 2 8 --seeds 5
    """

    learning_rates: tuple[float, ...] = (0.1, 0.5, 2, 8)
    """Learning rates, each for both networks."""
    seeds: int = 5
    """Networks for each learning rate: seed 0, 1, … of the weights and the order of the samples."""
    split_seed: int = 0
    """Of the split, the same for all."""
    at_once: int | None = None
    """Networks trained side by side, by one vmap; it bounds the memory. By default one after the
    other on a CPU, which is faster there, and as many as fit elsewhere."""

    def check(self) -> None:
        """Refuse what no data could make right.

        Raises:
            UserError: A name is unknown or a number out of its range.
        """
        super().check()
        if not self.learning_rates:
            raise UserError("--learning-rates: expected at least one, got none; name some")
        for rate in self.learning_rates:
            _check_number("--learning-rates", rate, above=0)
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise UserError("--learning-rates: expected different ones, got one twice; drop it")
        _check_number("--seeds", self.seeds, least=1)
        _check_number("--split-seed", self.split_seed, least=0, below=2**32)
        if self.batch_size != "full":
            _check_number("--batch-size", self.batch_size, least=2)
        if self.at_once is not None:
            _check_number("--at-once", self.at_once, least=1)


@dataclass(frozen=True)
class Predict:
    """Predict new data with a network of a run that has ended.

    Example: bnjax predict runs/iris new.csv --out predictions.csv
    """

    run: tyro.conf.Positional[str]
    """The run's folder."""
    file: tyro.conf.Positional[str]
    """An npz with an array x, a CSV, or a file of images in MNIST's IDX format. Labels, where there
    are any, are held against the predictions: y, a CSV's last column, the labels' file beside."""
    label: str | None = None
    """The CSV's label column."""
    network: Annotated[str | None, tyro.conf.arg(metavar="bn|baseline")] = None
    """Which network predicts; bn where the run has it."""
    out: str | None = None
    """The CSV to write; predictions.csv in the run's folder by default."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write --out even if it exists."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what was found as one JSON object."""


@dataclass(frozen=True)
class Explain:
    """Explain how the networks of a run learnt: a page of words and pictures in its folder.

    Example: bnjax train --diagnostics 1 --out runs/digits, then bnjax explain runs/digits

    Example: bnjax explain runs/digits --layer 2 --neuron 17 --input 3
    """

    run: tyro.conf.Positional[str]
    """The run's folder."""
    layer: int | None = None
    """Of the weight to look at closely; layers, neurons and inputs are counted from zero."""
    neuron: int | None = None
    """Of the weight to look at closely; by default that with the layer's largest gradient."""
    input: int | None = None
    """Of the weight to look at closely; by default that with the neuron's largest gradient."""
    network: Annotated[str | None, tyro.conf.arg(metavar="bn|baseline")] = None
    """The network of that weight; bn where the run has it."""
    text: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what is seen instead of writing the page."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
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


@dataclass(frozen=True)
class Verify:
    """Check every equation behind bnjax numerically, on fresh random cases.

    Example: bnjax verify --only D.4 D.11 --batch 5 --eps 0
    """

    only: tuple[str, ...] = ()
    """Tags of the equations to check, as D.4; a letter, as D, for a whole group. All by default."""
    seed: int = 0
    """Of the first case; each further case has the next one."""
    cases: int = 4
    """Random cases for each shape, ε and dtype."""
    batch: int | None = None
    """Samples in a batch; several by default."""
    width: int | None = None
    """Neurons in a layer; several by default. From 7 on every activation occurs in the networks."""
    eps: float | None = None
    """Added to the variance; 0 and a large one by default."""
    dtype: Annotated[str, _choice(DTYPES)] = "both"
    """What the library and JAX compute in; the other side is NumPy float64."""
    tolerance: float | None = None
    """Largest scaled error that passes; 1e-12 in float64 and 1e-5 in float32 by default."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the results as one JSON object."""

    def check(self) -> None:
        """Refuse what no case could have.

        Raises:
            UserError: A tag or dtype is unknown, or a number is out of its range.
        """
        valid = [one.tag for one in identities.all()]
        for tag in self.only:
            if tag not in valid and tag not in identities.GROUPS:
                raise UserError(f"--only: unknown tag {tag!r}: {nearest(tag, valid)}")
        if self.dtype not in DTYPES:
            raise UserError(f"--dtype: unknown name {self.dtype!r}: {nearest(self.dtype, DTYPES)}")
        _check_number("--cases", self.cases, least=1)
        _check_number("--seed", self.seed, least=0, below=2**32 - self.cases)
        # the Jacobians of a layer are written out in full: B n³ numbers
        if self.batch is not None:
            _check_number("--batch", self.batch, least=2, below=65)
        if self.width is not None:
            _check_number("--width", self.width, least=1, below=65)
        if self.eps is not None:
            _check_number("--eps", self.eps, least=0)
        if self.tolerance is not None:
            _check_number("--tolerance", self.tolerance, above=0)

    def tags(self) -> frozenset[str]:
        """Tell the tags that are meant, groups spelt out."""
        every = (one.tag for one in identities.all())
        return frozenset(tag for tag in every if {tag, tag.split(".")[0]} & set(self.only))


@dataclass(frozen=True)
class Audit:
    """Hold a hand-written derivative rule to autodiff of a plain reference.

    Without arguments: bnjax's own rules, over shapes, axes, weights and dtypes.

    Example: bnjax audit mymodel:fast_softmax jax.nn:softmax --args mymodel:make_args
    """

    functions: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODULE:F [MODULE:G]")
    ] = ()
    """The function with the rule, and the plain one; without G, finite differences of F."""
    args: Annotated[str | None, tyro.conf.arg(metavar="MODULE:MAKE_ARGS")] = None
    """A function of nothing that returns the tuple of F's arguments."""
    rtol: float | None = None
    """Largest error that agrees, in units of the dtype's epsilon; 16 by default."""
    seed: int = 0
    """Of the directions, and of the arguments of bnjax's own rules."""
    modes: tuple[str, ...] = ()
    """Which of value, vjp, jvp, transposition, rev-over-rev and fwd-over-rev; all by default."""
    transforms: tuple[str, ...] = ()
    """Which of plain, jit, vmap, scan and remat; all by default, jit for bnjax's own."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the results as one JSON object."""

    def check(self) -> None:
        """Refuse what names no function.

        Raises:
            UserError: A name has not the form MODULE:NAME or is unknown, or one is missing.
        """
        if len(self.functions) > 2:
            raise UserError(
                f"functions: expected F and at most one reference G, got {len(self.functions)}"
            )
        if self.functions and self.args is None:
            raise UserError("--args: say what makes F's arguments, as MODULE:MAKE_ARGS")
        if self.args is not None and not self.functions:
            raise UserError("--args: there is no function to call with them; name MODULE:F")
        for name in (*self.functions, *([self.args] if self.args else [])):
            module, colon, attribute = name.partition(":")
            if not (module and colon and attribute):
                raise UserError(f"expected MODULE:NAME, as mymodel:f, got {name!r}")
        for option, valid in (("modes", audit.MODES), ("transforms", audit.TRANSFORMS)):
            for name in getattr(self, option):
                if name not in valid:
                    raise UserError(f"--{option}: unknown name {name!r}: {nearest(name, valid)}")
        if self.rtol is not None:
            _check_number("--rtol", self.rtol, above=0)
        _check_number("--seed", self.seed, least=0, below=2**32)


def _check_name(option: str, name: str, valid: Iterable[str]) -> None:
    if name not in valid:
        raise UserError(
            f"--{option.replace('_', '-')}: unknown name {name!r}: {nearest(name, valid)}"
        )


def _check_number(
    option: str,
    value: float,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float = float("inf"),
) -> None:
    low = f"at least {least}" if above is None else f"above {above}"
    high = "" if below == float("inf") else f" and below {below}"
    inside = (above is None or value > above) and (least is None or value >= least)
    if not (inside and value < below):  # NaN is outside of everything
        raise UserError(f"{option}: expected a number {low}{high}, got {value}")
