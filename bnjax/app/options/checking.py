"""What to check: `bnjax verify`, `bnjax audit` and `bnjax claims`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from bnjax.app.errors import UserError, nearest
from bnjax.app.options.values import Flag, check_number, choice, unset

DTYPES = ("both", "float64", "float32")


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
    batch: Annotated[int | None, unset("N")] = None
    """Samples in a batch; several by default."""
    width: Annotated[int | None, unset("N")] = None
    """Neurons in a layer; several by default. From 7 on every activation occurs in the networks."""
    eps: Annotated[float | None, unset("EPS")] = None
    """Added to the variance; 0 and a large one by default."""
    dtype: Annotated[str, choice(DTYPES)] = "both"
    """What the library and JAX compute in; the other side is NumPy float64."""
    tolerance: Annotated[float | None, unset("ERROR")] = None
    """Largest scaled error that passes; 1e-12 in float64 and 1e-5 in float32 by default."""
    json: Flag = False
    """Print the results as one JSON object."""

    def check(self) -> None:
        """Refuse what no case could have.

        Raises:
            UserError: A tag or dtype is unknown, or a number is out of its range.
        """
        from bnjax import identities

        valid = [one.tag for one in identities.all()]
        for tag in self.only:
            if tag not in valid and tag not in identities.GROUPS:
                raise UserError(f"--only: unknown tag {tag!r}: {nearest(tag, valid)}")
        if self.dtype not in DTYPES:
            raise UserError(f"--dtype: unknown name {self.dtype!r}: {nearest(self.dtype, DTYPES)}")
        check_number("--cases", self.cases, least=1)
        check_number("--seed", self.seed, least=0, below=2**32 - self.cases)
        # the Jacobians of a layer are written out in full: B n³ numbers
        if self.batch is not None:
            check_number("--batch", self.batch, least=2, below=65)
        if self.width is not None:
            check_number("--width", self.width, least=1, below=65)
        if self.eps is not None:
            check_number("--eps", self.eps, least=0)
        if self.tolerance is not None:
            check_number("--tolerance", self.tolerance, above=0)

    def tags(self) -> frozenset[str]:
        """Return the tags that are meant, groups spelt out."""
        from bnjax import identities

        every = (one.tag for one in identities.all())
        return frozenset(tag for tag in every if {tag, tag.split(".")[0]} & set(self.only))


@dataclass(frozen=True)
class Audit:
    """Hold a hand-written derivative rule to autodiff of a plain reference.

    Without arguments: bnjax's own rules, over shapes, axes, weights, scales and dtypes.

    Example: bnjax audit mymodel:fast_softmax jax.nn:softmax --args mymodel:make_args
    """

    functions: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODULE:F [MODULE:G]")
    ] = ()
    """The function with the rule, and the plain one; without G, finite differences of F."""
    args: Annotated[str | None, unset("MODULE:MAKE_ARGS")] = None
    """A function of nothing that returns the tuple of F's arguments."""
    rtol: Annotated[float | None, unset("ERROR")] = None
    """Largest error that agrees, in units of the dtype's epsilon; 16 by default."""
    seed: int = 0
    """Of the directions, and of the arguments of bnjax's own rules."""
    modes: tuple[str, ...] = ()
    """Which of value, vjp, jvp, transposition, rev-over-rev and fwd-over-rev; all by default."""
    transforms: tuple[str, ...] = ()
    """Which of plain, jit, vmap, scan and remat; all by default, jit for bnjax's own."""
    allow_coarse_derivatives: Flag = False
    """Accept derivatives that F computes in a coarser dtype than its value."""
    json: Flag = False
    """Print the results as one JSON object."""

    def check(self) -> None:
        """Refuse what names no function.

        Raises:
            UserError: A name has not the form MODULE:NAME or is unknown, or one is missing.
        """
        from bnjax import audit

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
            check_number("--rtol", self.rtol, above=0)
        check_number("--seed", self.seed, least=0, below=2**32)


@dataclass(frozen=True)
class Claims:
    """Measure the claims about batch normalization on data, each by a small experiment.

    Each has a criterion that was fixed before it runs; the verdict is "seen" or "not seen here", or
    "depends" where disjoint sets of seeds disagree.

    Example: bnjax claims --quick

    Example: bnjax claims --only initial_values depth --out runs/claims
    """

    only: tuple[str, ...] = ()
    """Names of the claims to measure; all by default."""
    quick: Flag = False
    """Smaller grids and shorter trainings: minutes instead of a quarter of an hour."""
    data: Annotated[str, tyro.conf.arg(metavar="digits|breast_cancer|FILE.npz|FILE.csv|DIR")] = (
        "digits"
    )
    """What to train on, as for bnjax train; its labels must be classes."""
    label: Annotated[str | None, unset("COLUMN")] = None
    """The table's label column; the last one by default."""
    target: float = 0.95
    """Test accuracy that counts as learnt."""
    seeds: Annotated[int | None, unset("N")] = None
    """Networks for each point of a grid; 9 by default, quick 3. Three sets of them are judged."""
    first_seed: int = 0
    """Of the first network; each further one has the next."""
    out: Annotated[str | None, unset("FOLDER")] = None
    """Folder for what was measured; runs/<time> by default."""
    overwrite: Flag = False
    """Delete the earlier claims in the folder, with all that bnjax wrote there and nothing else."""
    resume: Annotated[str | None, unset("FOLDER")] = None
    """Go on with the claims in a folder, as they were begun: what is finished there is kept."""
    json: Flag = False
    """Print the results as one JSON object."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, for the next run to start sooner."""

    def check(self) -> None:
        """Refuse what no data could make right.

        Raises:
            UserError: A claim is unknown, or a number is out of its range.
        """
        from bnjax.claims import CLAIMS

        valid = [claim.name for claim in CLAIMS]
        for name in self.only:
            if name not in valid:
                raise UserError(f"--only: unknown claim {name!r}: {nearest(name, valid)}")
        check_number("--target", self.target, above=0, below=1)
        if self.seeds is not None:
            check_number("--seeds", self.seeds, least=1)
        check_number("--first-seed", self.first_seed, least=0, below=2**31 - self.count())
        if self.out == "":
            raise UserError("--out: expected the name of a folder, got nothing; name one")

    def count(self) -> int:
        """Return the number of seeds that is meant."""
        return self.seeds or (3 if self.quick else 9)
