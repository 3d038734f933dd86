"""What the application tells the user when something is theirs to mend."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_LISTED = 20


class UserError(Exception):
    """Report something the user can mend: one line on stderr and exit code 2."""

    def __init__(self, message: str) -> None:
        """Keep `message` on one line, whatever file names or cells it quotes."""
        super().__init__(" ".join(message.splitlines()))


@contextmanager
def refusals(subject: str, way_out: str) -> Iterator[None]:
    """Raise UserError, "subject: reason; way out", where the operating system refuses something."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{subject}: {error.strerror or error}; {way_out}") from error


def printable(text: str, keep: str = "") -> str:
    r"""Escape what would be a command to a terminal, but for the characters to keep.

    >>> printable("a\tb\nc", keep="\n")
    'a\\tb\nc'
    """
    return "".join(one if one.isprintable() or one in keep else ascii(one)[1:-1] for one in text)


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the tail of a message about an unknown name.

    Args:
        name: what the user wrote.
        valid: the names that exist, in the order to list them.

    Returns:
        The name that is close, or the only one that contains `name`, whatever the case; then the
        valid ones.

    >>> nearest("digit", ["digits", "breast_cancer"])
    "did you mean 'digits'? valid: digits, breast_cancer"
    """
    names = list(valid)
    folded = {each.casefold(): each for each in reversed(names)}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    within = [each for each in folded if name and name.casefold() in each]
    if not close and len(within) == 1:
        close = within
    guess = f"did you mean {folded[close[0]]!r}? " if close else ""
    more = f", … ({len(names)} in all)" if len(names) > _LISTED else ""
    return f"{guess}valid: {', '.join(names[:_LISTED])}{more}"
