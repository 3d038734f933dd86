"""The door to `bnjax.report`, which stands above: it is imported when a report is asked for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnjax.geometry.recording import Recording

if TYPE_CHECKING:
    from bnjax.report import Report


def report(*recordings: Recording, titles: Sequence[str] = ()) -> "Report":
    """Explain recordings in words and pictures: what was seen, what is wrong, what to do.

    Args:
        *recordings: At least one, with at least one look. Several are compared: of networks of as
            many layers that were looked at in the same steps.
        titles: What each is called in a sentence, as "the baseline".

    Returns:
        The `Report`: `str(report)` is its text, `report.write(path)` writes a page of HTML with
        pictures, in a notebook it is the page. `report.findings` holds texts and figures. Pictures
        need matplotlib, of the extra `cli`.

    Raises:
        TypeError: Something else than a recording.
        ValueError: There is no recording, none holds a look, or the titles are fewer or more.

    Example:
        >>> import numpy as np
        >>> from bnjax.geometry import Recording, empty_look
        >>> look = empty_look(1)
        >>> look["eps_share"] = 0.2
        >>> seen = Recording(
        ...     ("conv",), (True,), ("",), (), (64,), np.array([100]), np.array([look])
        ... )
        >>> print(report(seen).findings[-1].says)
        In layer 0 (conv) ε was 20 % of σ² + ε at step 100, the most.
    """
    from bnjax.report import make_report

    return make_report(recordings, titles)
