"""The site: `make docs` builds it from these pages, the docstrings and the committed numbers, without a network."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "extensions"), str(ROOT / "src"), str(ROOT)]

import numbers_of_results  # noqa: E402

from dsrm_jax import __version__  # noqa: E402
from dsrm_jax.parallel.xla import set_flags  # noqa: E402

set_flags(os.environ)  # notebooks' kernels inherit what JAX needs on CPUs
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])

project = "dsrm_jax"
author = "the authors of dsrm_jax"
copyright = author
version = release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "mathml",
    "docstrings",
    "flowchart",
]
exclude_patterns = ["extensions", "_build", "pictures/README.md"]
nitpicky = False  # annotations name JAX's and NumPy's types, whose pages are elsewhere

# pages
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3
myst_substitutions = numbers_of_results.read(ROOT / "experiments" / "results") | {"version": release}
suppress_warnings = ["ref.python"]  # a class has a page of its own name and one of its module: both are right

# tutorials are notebooks kept as text; each runs from top to bottom when the site is built
nb_execution_mode = os.environ.get("DSRM_NOTEBOOKS", "force")
nb_execution_timeout = 1200  # of a cell: a busy machine, not a long program
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_execution_in_temp = True

# the docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_use_type_comments = False
python_use_unqualified_type_names = True
python_display_short_literal_types = True
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
add_module_names = False
default_role = None
toc_object_entries = False
viewcode_follow_imported_members = False  # sources lead back to the one page that has their anchors, their module's

# the look: nothing is asked of another host
html_theme = "furo"
html_title = f"dsrm_jax {release}"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
