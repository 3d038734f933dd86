"""How the library words an error: function, argument, required, got, the way out."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name(function: str, argument: str, got: object, valid: Iterable[str]) -> str:
    """Say that `got` is none of `valid`, and which of them it resembles most."""
    names = sorted(valid)
    near = get_close_matches(str(got), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{function}: `{argument}` must be one of {', '.join(names)}; got {got!r}{hint}"
