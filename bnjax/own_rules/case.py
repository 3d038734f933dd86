"""One of bnjax's rules beside its reference, and how arguments are made in a dtype."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from bnjax import audit

DTYPES = ("float16", "bfloat16", "float32", "float64")

Arguments = tuple[Any, ...]
MakeArguments = Callable[[str], Arguments]


class Case(NamedTuple):
    """One of bnjax's rules, its reference, and arguments of one kind, which share their programs.

    Attributes:
        rule: The name of the rule.
        f: The function with the rule.
        g: The same in plain JAX operations.
        inputs: By description, a function from a dtype's name to the arguments in that dtype.
        modes: The modes that are compared.
        argnums: The arguments to differentiate with respect to; None for all.
    """

    rule: str
    f: Callable[..., Any]
    g: Callable[..., Any]
    inputs: dict[str, MakeArguments]
    modes: tuple[str, ...] = audit.MODES
    argnums: tuple[int, ...] | None = None


def power_of_two(dtype: str, exponent: int) -> float:
    """Return 2^exponent for bfloat16 and float32; else what takes the same share of the range."""
    return 2.0 ** int(exponent * jnp.finfo(dtype).maxexp / jnp.finfo(jnp.float32).maxexp)


def cast(arguments: Arguments, dtype: str) -> Arguments:
    """Return arguments in a dtype."""
    return tuple(jnp.asarray(a, dtype) for a in arguments)
