"""Sphinx configuration; warnings are errors in the tests."""

project = "ccatwm"
author = "CCAT Data Center"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
master_doc = "index"
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_title = "ccatwm"
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
suppress_warnings = ["misc.highlighting_failure"]
