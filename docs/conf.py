"""Sphinx configuration; bin/docs and bin/test take warnings for errors."""

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

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


def setup(app: Any) -> None:
    """Pages that are made from the code are made; what any page names and is not there is a warning."""
    from generate import write_pages

    write_pages(HERE / "reference" / "generated")
    app.connect("builder-inited", _warn_of_dead_links)


def _warn_of_dead_links(app: Any) -> None:
    from dead_links import dead_links
    from sphinx.util.logging import getLogger

    for dead in dead_links(HERE.parent):
        getLogger("dead_links").warning(dead)
