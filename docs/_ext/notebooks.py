"""The notebooks, which lie outside of docs/ and without outputs: copied, and run side by side."""

from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from sphinx.application import Sphinx
from sphinx.util import logging

ROOT = Path(__file__).parents[2]
COPIES = ROOT / "docs" / "notebooks"
LOGGER = logging.getLogger(__name__)


def copy(app: Sphinx, config) -> None:
    """Copy notebooks that have changed; remove those that are gone."""
    COPIES.mkdir(exist_ok=True)
    originals = {file.name: file.read_bytes() for file in (ROOT / "notebooks").glob("*.ipynb")}
    for old in COPIES.glob("*.ipynb"):
        if old.name not in originals:
            old.unlink()
    for name, content in originals.items():
        file = COPIES / name
        if not file.exists() or file.read_bytes() != content:
            file.write_bytes(content)


def run(app: Sphinx) -> None:
    """Run those that are not in the cache, one on each processor; myst_nb would in turn."""
    if app.config.nb_execution_mode != "cache":
        return
    cache = get_cache(app.config.nb_execution_cache_path)
    for file in sorted(COPIES.glob("*.ipynb")):
        cache.add_nb_to_project(str(file))
    executor = load_executor("local-parallel", cache, logger=LOGGER.logger)
    executor.run_and_cache(timeout=app.config.nb_execution_timeout)  # myst_nb tells of errors


def setup(app: Sphinx) -> dict:
    """Connect the functions above."""
    app.connect("config-inited", copy)
    app.connect("builder-inited", run)
    return {"parallel_read_safe": True}
