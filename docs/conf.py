"""How the site is built: pip install '.[docs]' && sphinx-build -W docs build/site."""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS / "_ext"), str(ROOT)]  # what is documented is this tree
os.environ.setdefault("KERAS_BACKEND", "jax")  # before bnjax.layers.keras is imported
os.environ.setdefault("PYTHONPATH", str(ROOT))  # for the kernels of the notebooks
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # pictures and figures do not depend on the machine

import bnjax  # noqa: E402

project = "bnjax"
author = "The bnjax developers"
copyright = f"{author}, Apache-2.0"
version = release = bnjax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "sphinx_copybutton",
    "docstrings",
    "source_pages",
    "equation_links",
    "mathml",
    "notebooks",
]
exclude_patterns = ["_ext"]
myst_enable_extensions = ["attrs_inline", "dollarmath"]
myst_heading_anchors = 4

nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "notebooks")
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_show_tb = True
nb_output_stderr = "remove"  # what XLA says on a slow machine: a test allows nothing else

highlight_language = "sh"  # of blocks that do not say theirs: commands
default_role = "py:obj"  # `name` in a docstring is code, and a link where it is documented
autodoc_typehints = "none"  # the docstrings say shapes and dtypes
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False
add_module_names = False
toc_object_entries_show_parents = "hide"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "bnjax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# pages below which there are no others need no list of them
html_sidebars = dict.fromkeys(("index", "start", "why", "differences", "source/**"), [])
html_math_renderer = "mathml"
html_show_sourcelink = False
html_domain_indices = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "bnjax"},
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
