"""The application on top of the library: command line, data, run folders, pictures."""

from bnjax.app.saved import SavedNetwork, SavedRun, load_run

__all__ = ["SavedNetwork", "SavedRun", "load_run"]
