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


def _generate() -> None:
    """Pages that are made from the code."""
    import sys
    from pathlib import Path

    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here.parent)]
    from generate import write_pages

    write_pages(here / "reference" / "generated")


_generate()
