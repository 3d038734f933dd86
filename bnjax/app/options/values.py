"""What a single value of an option must be."""

from collections.abc import Iterable
from typing import Annotated

import tyro

from bnjax.app.errors import UserError, nearest

# off unless it is given; --help need not say so
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]


def unset(metavar: str) -> object:
    """Show what an option takes that is None by default, which its help explains."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


def choice(names: tuple[str, ...] | dict[str, object]) -> object:
    """Show the names in --help; check them here, for an error of one line with the nearest one."""
    return tyro.conf.arg(metavar="|".join(names))


def check_name(option: str, name: str, valid: Iterable[str]) -> None:
    """Refuse an unknown name."""
    if name not in valid:
        raise UserError(
            f"--{option.replace('_', '-')}: unknown name {name!r}: {nearest(name, valid)}"
        )


def check_number(
    option: str,
    value: float,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float = float("inf"),
) -> None:
    """Refuse a number out of its range."""
    low = f"at least {least}" if above is None else f"above {above}"
    high = "" if below == float("inf") else f" and below {below}"
    inside = (above is None or value > above) and (least is None or value >= least)
    if not (inside and value < below):  # NaN is outside of everything
        raise UserError(f"{option}: expected a number {low}{high}, got {value}")
