"""How the documentation is built: `sphinx-build -W docs docs/_build/html`. Nothing is fetched while it builds."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
project = about["name"]
author = "scvi_pp authors"
copyright = f"2026, {author}"
version = release = about["version"]

# The notebooks live beside the package and not inside docs: they are copied here for the build.
tutorials = HERE / "tutorials"
shutil.rmtree(tutorials, ignore_errors=True)
tutorials.mkdir()
notebooks = [Path(shutil.copy(notebook, tutorials)).stem for notebook in sorted((ROOT / "tutorials").glob("*.ipynb"))]
listed = "\n".join(["```{toctree}", ":maxdepth: 1", "", *notebooks, "```"]) if notebooks else "None is written yet."
(tutorials / "index.md").write_text(f"# Tutorials\n\nBy task; each is run when this page is built.\n\n{listed}\n")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# A tutorial that no longer runs must not look as if it did. Each is run anew when it or the package has changed:
# SCVI_PP_NOTEBOOK_CACHE is a folder that keeps outputs from build to build, by the content of the package.
nb_execution_mode = "cache"
if kept := os.environ.get("SCVI_PP_NOTEBOOK_CACHE"):
    package = hashlib.sha256()
    for path in sorted((ROOT / "scvi_pp").rglob("*.py")):
        package.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    nb_execution_cache_path = str(Path(kept).resolve() / package.hexdigest()[:16])
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # the kernel's debugger otherwise writes into notebooks

autosummary_generate = True
autodoc_typehints = "description"  # in the list of parameters, where each is explained, and not in the signature
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False

# Links to other projects need their inventories. They are fetched only where a build asks for them.
if os.environ.get("SCVI_PP_DOCS_LINKS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "mudata": ("https://mudata.readthedocs.io/en/latest/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "python": ("https://docs.python.org/3", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }

html_theme = "sphinx_book_theme"
html_title = "scvi_pp"
html_theme_options = {"show_navbar_depth": 2, "show_toc_level": 2}

TUTORIAL_SECONDS = 45  # what each tutorial may take


def tell_seconds_of_tutorials(app: object, _error: object) -> None:
    """How long each tutorial took when it was run, and which of them exceed their budget."""
    for name, told in sorted(app.env.nb_metadata.items()):
        ran = told.get("exec_data")
        if ran and ran["runtime"] is not None:
            over = f"  over budget: {TUTORIAL_SECONDS} s" if ran["runtime"] > TUTORIAL_SECONDS else ""
            print(f"{ran['runtime']:5.0f} s  {name}{over}")


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("build-finished", tell_seconds_of_tutorials)
