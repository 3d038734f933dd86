"""Two versions of bnjax in one process, so that a change can be held against the commit before."""

import contextlib
import importlib
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
_APPLICATION = ("bnjax.app", "bnjax.layers")  # what these need may not be installed


def load(root: Path) -> ModuleType:
    """Import the bnjax below `root`, all of its library, beside any that is imported already."""
    mine = [name for name in sys.modules if name.split(".")[0] == "bnjax"]
    kept = {name: sys.modules.pop(name) for name in mine}
    sys.path.insert(0, str(root))
    try:
        importlib.invalidate_caches()
        package = importlib.import_module("bnjax")
        for module in pkgutil.walk_packages(package.__path__, "bnjax."):
            if not module.name.startswith(_APPLICATION):
                importlib.import_module(module.name)
        for name in package.__all__:  # what is imported when first asked for
            getattr(package, name)
    finally:
        sys.path.remove(str(root))
        for name in [name for name in sys.modules if name.split(".")[0] == "bnjax"]:
            del sys.modules[name]
        sys.modules.update(kept)
    if Path(package.__path__[0]).resolve().parent != root.resolve():
        raise RuntimeError(f"imported bnjax from {package.__path__[0]}, not from {root}")
    return package


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """Check a commit out into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", revision], cwd=ROOT, check=True, capture_output=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder)
