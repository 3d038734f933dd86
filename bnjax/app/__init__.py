"""The application on top of the library: command line, data, run folders, pictures."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnjax.app.run.saved import SavedNetwork, SavedRun, load_run

__all__ = ["SavedNetwork", "SavedRun", "load_run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bnjax.app.run import saved  # what the command line needs may not be installed

    return getattr(saved, name)
