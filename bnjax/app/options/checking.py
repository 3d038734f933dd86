"""What to check: `bnjax verify` and `bnjax audit`."""

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
