"""Finds what the repository's Markdown pages name and is not there: pages, headings, files. Called by conf.py.

Sphinx looks at links between the pages of docs/ only. Here also README.md, CHANGELOG.md and the pages in other folders are
read, and every path of the repository that a page names in its text or in what it says to type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("bin", "ccatwm", "docs", "site-configs", "tests")
IN_PACKAGE = ("cli", "core", "edges", "passes", "settings", "testing", "upkeep", "views")
MADE = {"_build", "generated"}
"""Folders of docs/ that are not in the repository: what is in them is made from the rest."""

LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\((?!\w+:)([^()\s]*)\)")
PATH = re.compile(
    rf"(?<![\w./~{{}}<$-])(?:(?:{'|'.join((*FOLDERS, *IN_PACKAGE))})/[\w./-]*|crontab\.example)"
)
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)


def dead_links(top: Path) -> list[str]:
    """`page:line: what` of everything that leads nowhere, in the order of the pages."""
    return [dead for page in pages(top) for dead in _of_page(top, page)]


def pages(top: Path) -> list[Path]:
    """Every page that people wrote."""
    found = [*top.glob("*.md"), *(p for folder in FOLDERS for p in (top / folder).rglob("*.md"))]
    return sorted(p for p in found if not MADE & set(p.relative_to(top).parts))


def anchors(text: str) -> set[str]:
    """What may stand behind `#` in a link to this page."""
    headings = HEADING.findall(FENCE.sub("", text))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _of_page(top: Path, page: Path) -> Iterator[str]:
    # What a file block holds is another project's.
    text = re.sub(
        r"<!-- file: .*?-->\n```.*?\n```",
        lambda m: "\n" * m[0].count("\n"),
        page.read_text(),
        flags=re.DOTALL,
    )
    named = [(m.start(), m[1], _why_dead(page, m[1])) for m in LINK.finditer(text)]
    without_links = LINK.sub(lambda m: " " * len(m[0]), text)
    named += [
        (m.start(), m[0], _why_absent(top, page, m[0].rstrip("."))) for m in PATH.finditer(without_links)
    ]
    for position, what, why in sorted(named):
        if why:
            yield f"{page.relative_to(top)}:{text.count(chr(10), 0, position) + 1}: {what}: {why}"


def _why_dead(page: Path, link: str) -> str:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    if MADE & set(path.split("/")):
        return ""  # Sphinx knows these pages
    if not target.exists():
        return "there is no such file"
    if anchor and anchor not in anchors(target.read_text()):
        return f"there is no heading #{anchor}"
    return ""


def _why_absent(top: Path, page: Path, path: str) -> str:
    if MADE & set(path.split("/")) or any(
        (folder / path).exists() for folder in (top, top / "ccatwm", page.parent)
    ):
        return ""
    return "the repository has no such file"
