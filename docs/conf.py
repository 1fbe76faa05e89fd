"""Sphinx configuration: ``sphinx-build docs docs/_build``."""

import hpfree_jax

project = "hpfree_jax"
author = "The hpfree_jax authors"
copyright = "2026, The hpfree_jax authors"
release = hpfree_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
autodoc_typehints = "none"  # jaxtyping's shapes are in the docstrings
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
html_title = "hpfree_jax"
