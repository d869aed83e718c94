"""Sphinx: Markdown pages, the reference from the docstrings. Builds without a network."""

import dcwrite

project = "dcwrite"
author = "The dcwrite developers"
copyright = "2026, The dcwrite developers"
version = release = dcwrite.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_default_options = {"show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # an attribute that is also a property is described once

html_theme = "furo"
html_title = f"dcwrite {release}"
