"""The folder of `bnjax claims`: what each finished experiment measured, written whole."""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import msgspec
import numpy as np

from bnjax import claims
from bnjax.app.errors import UserError
from bnjax.app.io import files
from bnjax.app.io.folder import Folder
from bnjax.app.options import Claims
from bnjax.app.run import config
from bnjax.app.run.config import Config
from bnjax.claims import Claim, Measured, Verdict

# what may stand beside --resume: the rest is as it was begun
_BESIDE = frozenset({"--resume", "--json", "--compilation-cache", "--no-compilation-cache"})


class ClaimsFolder(Folder):
    """A folder that holds the claims of one command."""

    kind = "claims"
    names = (
        config.FILE,
        "claims.json",
        "CLAIMS.md",
        "index.html",
        *(f"claims/{claim.name}.{end}" for claim in claims.CLAIMS for end in ("json", "png")),
    )


class Outcome(NamedTuple):
    """A claim, what its experiment measured, with which seeds, and how long it took."""

    claim: Claim
    measured: Measured
    seeds: tuple[int, ...]
    seconds: float

    @property
    def sets(self) -> tuple[Verdict, ...]:
        """The verdict of each set of seeds."""
        return claims.judge_sets(self.claim, self.measured)

    @property
    def verdict(self) -> Verdict:
        """The verdict on which the sets agree."""
        return claims.agree(self.sets)

    def summary(self) -> dict[str, Any]:
        """Return what the table says, ready for JSON."""
        figures = {}
        for name, values, _, unit, _ in self.claim.figures(self.measured):
            low, middle, high = claims.spread(values)
            figures[name] = {"median": middle, "least": low, "most": high, "unit": unit.strip()}
        texts = ("name", "text", "source", "varied", "criterion")
        return {
            **{name: getattr(self.claim, name) for name in texts},
            "verdict": self.verdict,
            "sets": self.sets,
            "figures": figures,
            "seeds": self.seeds,
            "seconds": self.seconds,
        }


class _File(TypedDict):
    criterion: str
    seeds: tuple[int, ...]
    seconds: float
    points: dict[str, tuple[int | float | str, ...]]
    values: dict[str, Any]


def write(folder: ClaimsFolder, outcome: Outcome) -> None:
    """Write what one experiment measured.

    Raises:
        UserError: It cannot be written.
    """
    points, values = outcome.measured
    content = outcome.summary() | {
        "points": points,
        "values": {k: v.tolist() for k, v in values.items()},
    }
    folder.write(_name(outcome.claim), content)


def read(path: Path, claim: Claim, seeds: tuple[int, ...]) -> Outcome | None:
    """Read what an experiment measured; None if it has not, or by another criterion.

    Raises:
        UserError: The file is damaged.
    """
    file = path / _name(claim)
    if not os.path.lexists(file):
        return None
    found = files.read_json(file, _File, "delete it, to measure it again")
    if found["criterion"] != claim.criterion or tuple(found["seeds"]) != seeds:
        return None
    values = {name: np.array(each, float) for name, each in found["values"].items()}
    return Outcome(claim, Measured(found["points"], values), seeds, found["seconds"])


def _name(claim: Claim) -> str:
    return f"claims/{claim.name}.json"


def take_up(options: Claims, given: frozenset[str]) -> tuple[Config, Claims]:
    """Return what the claims in the folder of --resume were begun with.

    Args:
        options: The options of the command line.
        given: The names of those that were spelt out, as --only.

    Raises:
        UserError: There is nothing to go on with, or an option may not stand beside --resume.
    """
    path = Path(options.resume or "")
    for name in sorted(given - _BESIDE):
        raise UserError(
            f"{name}: cannot be combined with --resume, which goes on with the options that the "
            "claims were begun with; leave it out, or measure into another folder"
        )
    file, way_out = path / config.FILE, "name a folder that bnjax claims has begun"
    if not os.path.exists(file):
        raise UserError(
            f"{path}: no claims have been begun in it: there is no {config.FILE}; {way_out}"
        )
    begun = files.read_json(file, Config, way_out)
    known = {field.name for field in dataclasses.fields(Claims)}
    try:
        if unknown := begun["options"].keys() - known:
            raise UserError(f"unknown option {min(unknown)!r}")
        own = msgspec.convert(begun["options"], Claims)
        own = dataclasses.replace(
            own,
            data=begun["resolved"]["data"],
            out=str(path),
            resume=options.resume,
            json=options.json,
            compilation_cache=options.compilation_cache,
        )
        own.check()
    except (msgspec.ValidationError, UserError) as error:
        raise UserError(
            f"{file}: its options are not those of bnjax claims of this version: "
            f"{files.reason(error)}; {way_out}"
        ) from None
    return begun, own
