"""What is varied, and over which values: `bnjax sweep`."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from bnjax.app.errors import UserError, nearest
from bnjax.app.options.training import Task
from bnjax.app.options.values import check_number, unset

# what --vary accepts, and the type of its values
VARIABLE: dict[str, type[int] | type[float]] = {
    "init_scale": float,
    "batch_size": int,
    "decay": float,
    "eps": float,
    "epochs": int,
    "test_fraction": float,
    "split_seed": int,
}


class Varied(NamedTuple):
    """A numeric option, by its name in Python, and the values that it takes."""

    option: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Sweep(Task):
    """Train both networks for each learning rate, value and seed, and draw what becomes of them.

    Example: bnjax sweep --learning-rates 0.1 0.5 2 8 --seeds 5

    Example: bnjax sweep --vary init_scale=0.01,0.1,1,10,100
    """

    learning_rates: tuple[float, ...] = (0.1, 0.5, 2, 8)
    """Learning rates, each for both networks."""
    vary: Annotated[str | None, unset("OPTION=VALUE,...")] = None
    """Another numeric option and its values, each with every learning rate: init_scale=0.01,1,100;
    or batch_size, decay, eps, epochs, test_fraction, split_seed."""
    seeds: int = 5
    """Networks for each learning rate: seed 0, 1, … of the weights and the order of the samples."""
    split_seed: int = 0
    """Of the split, the same for all."""
    at_once: Annotated[int | None, unset("N")] = None
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
            check_number("--learning-rates", rate, above=0)
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise UserError("--learning-rates: expected different ones, got one twice; drop it")
        check_number("--seeds", self.seeds, least=1)
        check_number("--split-seed", self.split_seed, least=0, below=2**32)
        if self.batch_size != "full":
            check_number("--batch-size", self.batch_size, least=2)
        if self.at_once is not None:
            check_number("--at-once", self.at_once, least=1)
        if self.vary is not None:
            for one in self.each():
                one.check()

    @property
    def varied(self) -> Varied | None:
        """Return what `vary` says, None where nothing but the learning rate is varied.

        Raises:
            UserError: It names no option that can be varied, or no values of it.
        """
        if self.vary is None:
            return None
        name, _, listed = self.vary.partition("=")
        option = name.replace("-", "_").strip("_ ")
        if option == "learning_rate":
            raise UserError("--vary: learning rates are varied by --learning-rates; use that")
        if option not in VARIABLE:
            raise UserError(
                f"--vary: {name!r} is no option that can be varied: {nearest(option, VARIABLE)}"
            )
        kind = VARIABLE[option]
        try:
            values = tuple(kind(value) for value in listed.split(","))
        except ValueError:
            numbers = "whole numbers" if kind is int else "numbers"
            raise UserError(
                f"--vary: expected {numbers} behind {option}=, with commas between, got "
                f"{listed!r}; write --vary {option}=2,4,8"
            ) from None
        if len(set(values)) < len(values):
            raise UserError("--vary: expected different values, got one twice; drop it")
        return Varied(option, values)

    def each(self) -> tuple["Sweep", ...]:
        """Return the options of each value of what is varied; these alone where nothing is.

        Raises:
            UserError: As `varied`.
        """
        if (varied := self.varied) is None:
            return (self,)
        changes = ({varied.option: value, "vary": None} for value in varied.values)
        return tuple(dataclasses.replace(self, **change) for change in changes)
